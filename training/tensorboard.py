"""What TensorBoard shows of a run besides the columns of history.csv: parameters, curves, pictures, features.

tensorboard --logdir experiments
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from cxr import storage
from cxr.evaluation import overlays
from cxr.evaluation.boxes import Placement
from cxr.findings import FINDINGS, NO_FINDING
from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import Dataset

SHOWN = 8  # images of a batch
WATCHED = 4  # val images whose heat maps are drawn in every epoch
THRESHOLDS = 201  # of a precision-recall curve: TensorBoard's own; AUROC and AP never come from here
PROJECTED = 2_000  # val images in the projector, which runs in the browser


@contextlib.contextmanager
def events(model_dir: pathlib.Path, step: int) -> Iterator:
    """TensorFlow, with a writer for one step of this run as the default."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(model_dir / "tensorboard"))
    with writer.as_default(step=step):
        yield tf
    writer.close()


def show_parameters(model_dir: pathlib.Path, described: dict) -> None:
    """HParams: one row of its table is one run, so that a search can be read there."""
    from tensorboard.plugins.hparams import api

    plain = {name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
             for name, value in described.items()}  # fmt: skip
    with events(model_dir, 0):
        api.hparams_config(hparams=[api.HParam(name) for name in plain], metrics=[api.Metric("val_mean_auroc")])
        api.hparams(plain, trial_id=str(model_dir))


def show_batch(model_dir: pathlib.Path, name: str, images: np.ndarray) -> None:
    """The first images uint8 [B, H, W, 1] of a batch, as the model is given them."""
    with events(model_dir, 0) as tf:
        tf.summary.image(name, images[:SHOWN], max_outputs=SHOWN)


def show_curves(model_dir: pathlib.Path, epoch: int, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """A precision-recall curve of each finding that has positives; labels and probabilities [n, 14]."""
    from tensorboard.plugins.pr_curve import summary

    with events(model_dir, epoch) as tf:
        for column, finding in enumerate(FINDINGS):
            if not labels[:, column].any():
                continue
            truth, scores = labels[:, column].astype(bool), probabilities[:, column]
            curve = summary.pb(f"val/{finding}", truth, scores, num_thresholds=THRESHOLDS)
            tf.summary.experimental.write_raw_pb(curve.SerializeToString())


class Watched:
    """Some val images of different findings, whose heat maps are drawn again in every epoch."""

    def __init__(self, images: Dataset, index: example.Index) -> None:
        """Choose them: the first image in dataset order of each of the commonest findings of val."""
        self.places, self.columns = [], []
        for column in np.argsort(-index.labels.sum(axis=0), kind="stable"):
            found = [place for place in np.flatnonzero(index.labels[:, column]) if place not in self.places]
            if found and len(self.places) < WATCHED:
                self.places.append(int(found[0]))
                self.columns.append(int(column))
        self.images = _images_at(images, self.places)  # uint8 [n, S, S, 1]

    def show(self, model_dir: pathlib.Path, epoch: int, mapper) -> None:
        """Draw each image beside itself under the heat map of its finding.

        Args:
            mapper: a `cam.HeatMapper` of the model that is trained.
        """
        size = self.images.shape[1]
        with events(model_dir, epoch) as tf:
            for image, column in zip(self.images, self.columns, strict=True):
                heat = mapper(image[None], [column])[0, 0]
                heat = Placement(size, size, size).heat_on_image(heat, covers=mapper.covers)
                grey = np.repeat(image, 3, axis=2)
                picture = np.concatenate([grey, overlays.warmed(grey, heat)], axis=1)
                tf.summary.image(f"heat map/{FINDINGS[column]}", picture[None])


def _images_at(images: Dataset, places: list[int]) -> np.ndarray:
    """Val images uint8 [n, S, S, 1] by their places in dataset order."""
    from input_fn import input_fn

    order = {place: number for number, place in enumerate(sorted(places))}
    batches = input_fn("val", {"image": images}, Params(batch_size=1), inputs=["image"])
    found = [
        batch["image"].numpy()[0] for place, (batch, _) in enumerate(batches.take(max(places) + 1)) if place in order
    ]
    return np.stack([found[order[place]] for place in places])


def show_features(model_dir: pathlib.Path, features: np.ndarray, index: example.Index) -> None:
    """Val features float [n, D] for the projector: images that the model takes for alike lie close together."""
    folder = model_dir / "tensorboard"
    rows = slice(0, PROJECTED)
    vectors = "\n".join("\t".join(f"{value:.4g}" for value in vector) for vector in features[rows])
    storage.write_text(folder / "val_features.tsv", vectors + "\n")
    lines = ["image_id\tpatient_id\tfindings\tview"]
    for image_id, patient_id, labels, view in zip(
        index.image_ids[rows], index.patient_ids[rows], index.labels[rows], index.view_positions[rows], strict=True
    ):
        names = [finding for finding, label in zip(FINDINGS, labels, strict=True) if label] or [NO_FINDING]
        lines.append(f"{image_id}\t{patient_id}\t{'|'.join(names)}\t{('PA', 'AP', 'unknown')[view]}")
    storage.write_text(folder / "val_metadata.tsv", "\n".join(lines) + "\n")
    config = (
        'embeddings { tensor_name: "val features" tensor_path: "val_features.tsv" metadata_path: "val_metadata.tsv" }'
    )
    storage.write_text(folder / "projector_config.pbtxt", config + "\n")


def show_start(run) -> None:
    """The parameters of a `fit.Run` and, where images are trained on, some of them before and after augmentation."""
    from input_fn import input_fn

    show_parameters(run.model_dir, dataclasses.asdict(run.params))
    if "image" not in run.datasets:
        return
    plain = dataclasses.replace(run.params, augmentation="none", horizontal_flip=False, crop_size=None, mixup=0.0)
    for name, params in {"input": plain, "augmented": run.params}.items():
        batches = input_fn("train", run.datasets, params, epoch=0, inputs=["image"])
        show_batch(run.model_dir, name, next(iter(batches))[0]["image"].numpy())


def epoch_board(run, val: example.Index) -> Callable[[int, np.ndarray], None]:
    """What a `fit.Run` shows after each epoch: precision-recall curves and, where images are trained on, heat maps."""
    import keras

    from cxr.networks.cam import HeatMapper

    watched = mapper = None
    if "image" in run.datasets and val.labels.any():
        watched = Watched(run.datasets["image"], val)
        # The same layers in a model that is not compiled: taking it apart copies what it was compiled with.
        bare = keras.Model(run.model.input, run.model.output, name=run.model.name)
        mapper = HeatMapper(bare, crop_size=run.params.crop_size)

    def show(epoch: int, probabilities: np.ndarray) -> None:
        show_curves(run.model_dir, epoch, val.labels, probabilities)
        if watched is not None:
            with run.averaged():
                watched.show(run.model_dir, epoch, mapper)

    return show


def show_end(run, val: example.Index) -> None:
    """What the model of a `fit.Run` makes of the val images, for the projector."""
    from cxr.networks.assembly import penultimate_of
    from input_fn import input_fn

    if len(val.image_ids) == 0:
        return
    model = penultimate_of(run.model, run.params)
    batches = input_fn("val", run.datasets, run.params, inputs=list(run.model.input))
    show_features(run.model_dir, model.predict(batches, verbose=0), val)
