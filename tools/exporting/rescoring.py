"""Experiments whose arithmetic no exported file has are scored again on val, as the files compute."""

from typing import TYPE_CHECKING

import numpy as np

from cxr.evaluation import metrics, operating_points
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS
from cxr.records.dataset import Dataset
from evaluate import predict_logits, predictions_of, split_index
from inference.predictor import Predictor

if TYPE_CHECKING:
    import keras


def in_float32(predictor: Predictor, model: "keras.Model", images: Dataset | None) -> tuple[Predictor, dict]:
    """The predictor as an exported file computes it, with operating points and calibration of its own.

    Args:
        model: the experiment in float32. images: the dataset whose val split they are fitted on.

    Returns:
        The predictor and {"precision" of the experiment, "images", "difference": the largest of a probability,
        "mean_auroc": {"before", "after", "lost"}} on val.

    Raises:
        ValueError: there is no val split to score with.
    """
    precision = predictor.params.precision
    if images is None or images.images("val") == 0:
        raise ValueError(
            f"the frozen networks of this experiment compute in {precision}, exported files in float32: that is "
            "another model, with operating points of its own. Add --data_dir with a built dataset that has a val split"
        )
    index, datasets = split_index(images, "val"), {"image": images}
    before, after = (
        predictions_of(index, predict_logits(network, "val", datasets, predictor.params.last_phase()))
        for network in (predictor.network, model)
    )
    aurocs = {"before": mean_auroc(before), "after": mean_auroc(after)}
    found = {
        "precision": precision,
        "images": len(index.image_ids),
        "difference": float(np.abs(before.probabilities - after.probabilities).max()),
        "mean_auroc": aurocs | {"lost": aurocs["before"] - aurocs["after"]},
    }
    points = operating_points.points_of(operating_points.fit(after))
    return predictor.exported_as(model, points), metrics.none_for_nan(found)


def mean_auroc(predictions: Predictions) -> float:
    """Mean over the findings that have both classes; nan where none has."""
    columns = range(len(FINDINGS))
    of = predictions.labels, predictions.probabilities
    return metrics.mean_defined([metrics.auroc(of[0][:, column], of[1][:, column]) for column in columns])
