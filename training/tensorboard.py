"""What TensorBoard shows of a run besides the columns of history.csv; writes what it is given.

tensorboard --logdir experiments
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from cxr import storage
from cxr.evaluation import overlays
from cxr.evaluation.boxes import Placement
from cxr.findings import FINDINGS, NO_FINDING
from cxr.records import example

BATCH_IMAGES = 8  # shown of a batch
THRESHOLDS = 201  # of a precision-recall curve, as in TensorBoard; AUROC and average precision are computed elsewhere
PROJECTED = 2_000  # val images in the projector, which runs in the browser


@contextlib.contextmanager
def events(model_dir: pathlib.Path, step: int) -> Iterator:
    """TensorFlow, with a writer for one step of this run as the default."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(model_dir / "tensorboard"))
    with writer.as_default(step=step):
        yield tf
    writer.close()


def show_parameters(model_dir: pathlib.Path, params: dict) -> None:
    """The parameters as a row of the HParams table, beside val mean AUROC, to compare runs of a search."""
    from tensorboard.plugins.hparams import api

    plain = {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in params.items()
    }
    with events(model_dir, 0):
        api.hparams_config(hparams=[api.HParam(name) for name in plain], metrics=[api.Metric("val_mean_auroc")])
        api.hparams(plain, trial_id=str(model_dir))


def show_images(model_dir: pathlib.Path, name: str, images: np.ndarray) -> None:
    """The first images of a batch, uint8 [B, H, W, 1]."""
    with events(model_dir, 0) as tf:
        tf.summary.image(name, images[:BATCH_IMAGES], max_outputs=BATCH_IMAGES)


def show_curves(model_dir: pathlib.Path, epoch: int, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """A precision-recall curve of each finding that has positives; labels and probabilities [n, 14]."""
    from tensorboard.plugins.pr_curve import summary

    with events(model_dir, epoch) as tf:
        for column, finding in enumerate(FINDINGS):
            if not labels[:, column].any():
                continue
            positives = labels[:, column].astype(bool)
            curve = summary.pb(f"val/{finding}", positives, probabilities[:, column], num_thresholds=THRESHOLDS)
            tf.summary.experimental.write_raw_pb(curve.SerializeToString())


def show_heat_maps(
    model_dir: pathlib.Path,
    epoch: int,
    images: np.ndarray,
    heat_maps: Sequence[np.ndarray],
    *,
    names: Sequence[str],
    covers: int,
) -> None:
    """Each image next to itself under its heat map.

    Args:
        images: uint8 [n, S, S, 1].
        heat_maps: n arrays [h, w].
        names: the finding of each heat map.
        covers: pixels per side of the centre square that a heat map covers.
    """
    size = images.shape[1]
    with events(model_dir, epoch) as tf:
        for image, heat_map, name in zip(images, heat_maps, names, strict=True):
            heat = Placement(size, size, size).heat_on_image(heat_map, covers=covers)
            grey = np.repeat(image, 3, axis=2)
            picture = np.concatenate([grey, overlays.warmed(grey, heat)], axis=1)
            tf.summary.image(f"heat map/{name}", picture[None])


def show_features(model_dir: pathlib.Path, features: np.ndarray, index: example.Index) -> None:
    """Val features float [n, D] for the projector, where images with similar features appear close together."""
    folder = model_dir / "tensorboard"
    rows = slice(0, PROJECTED)
    vectors = "\n".join("\t".join(f"{value:.4g}" for value in vector) for vector in features[rows])
    storage.write_text(folder / "val_features.tsv", vectors + "\n")
    lines = ["image_id\tpatient_id\tfindings\tview_position"]
    for image_id, patient_id, labels, view_position in zip(
        index.image_ids[rows], index.patient_ids[rows], index.labels[rows], index.view_positions[rows], strict=True
    ):
        names = [finding for finding, label in zip(FINDINGS, labels, strict=True) if label] or [NO_FINDING]
        shown = ("PA", "AP", "unknown")[view_position]  # -1, unknown, is the last
        lines.append(f"{image_id}\t{patient_id}\t{'|'.join(names)}\t{shown}")
    storage.write_text(folder / "val_metadata.tsv", "\n".join(lines) + "\n")
    config = (
        'embeddings { tensor_name: "val features" tensor_path: "val_features.tsv" metadata_path: "val_metadata.tsv" }'
    )
    storage.write_text(folder / "projector_config.pbtxt", config + "\n")
