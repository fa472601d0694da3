"""Score an experiment again in float32, if its own precision cannot be exported.

The frozen networks of such an experiment compute in bfloat16 or int8. In float32 their features differ, so thresholds
and calibration are fitted again on val.
"""

from typing import TYPE_CHECKING

from cxr.evaluation import operating_points
from cxr.records.dataset import Dataset
from evaluate import predict_logits, predictions_of, split_index
from inference.predictor import Predictor
from tools.exporting import parity

if TYPE_CHECKING:
    import keras


def in_float32(predictor: Predictor, model: "keras.Model", images: Dataset | None) -> tuple[Predictor, dict]:
    """Predict val with the experiment and with its float32 model, and fit new operating points for the latter.

    Args:
        model: the experiment in float32.
        images: the dataset with the val split.

    Returns:
        A predictor with the float32 model, and {"precision" of the experiment, "images", "difference", "mean_auroc"}
        as in `parity.compare`.

    Raises:
        ValueError: no val split is given.
    """
    precision = predictor.network.precision
    if images is None or images.num_images("val") == 0:
        raise ValueError(
            f"the frozen networks of this experiment compute in {precision}, exported files in float32: that is "
            "another model, which needs its own operating points. Add --data_dir with a built dataset that has a val "
            "split"
        )
    index, datasets, params = split_index(images, "val"), {"image": images}, predictor.params.last_phase()
    before = predictions_of(index, predict_logits(predictor.network, "val", datasets, params))
    after = predictions_of(index, predict_logits(model, "val", datasets, params))
    points = operating_points.points_of(operating_points.fit(after))
    found = parity.differences(before.labels, before=before.probabilities, after=after.probabilities)
    return predictor.with_network(model, points), {"precision": precision, **found}
