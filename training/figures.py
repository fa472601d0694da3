"""What a run shows in TensorBoard: takes images, heat maps and features from the run for tensorboard.py to write."""

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np

from cxr.findings import FINDINGS
from cxr.networks.cam import HeatMapper
from cxr.networks.head import penultimate_of
from cxr.records import example
from input_fn import input_fn
from training import tensorboard
from training.run import Run

if TYPE_CHECKING:
    import tensorflow as tf

EXAMPLES = 4  # val images whose heat maps are drawn after every epoch


class HeatMapExamples:
    """Val images of different findings, whose heat maps are drawn after every epoch."""

    def __init__(self, run: Run, labels: np.ndarray) -> None:
        """Choose the images and prepare the heat maps.

        Args:
            labels: [n, 14] of val.
        """
        import keras

        self.rows, self.columns = choose_examples(labels)
        self.images = images_of(run.val_batches, self.rows)  # uint8 [n, S, S, 1]
        # The same layers in a model that is not compiled: cutting a compiled model copies its loss and optimizer.
        bare = keras.Model(run.model.input, run.model.output, name=run.model.name)
        self.mapper = HeatMapper(bare, crop_size=run.params.crop_size)

    def heat_maps(self) -> list[np.ndarray]:
        """The heat map [h, w] of each image for its finding, by the current weights."""
        return [
            self.mapper(image[None], [column])[0, 0] for image, column in zip(self.images, self.columns, strict=True)
        ]


def choose_examples(labels: np.ndarray) -> tuple[list[int], list[int]]:
    """The rows of some images and the column of a finding of each: the first image of each of the commonest findings.

    Args:
        labels: [n, 14].
    """
    rows = []
    columns = []
    for column in np.argsort(-labels.sum(axis=0), kind="stable"):
        unused = [row for row in np.flatnonzero(labels[:, column]) if row not in rows]
        if unused and len(rows) < EXAMPLES:
            rows.append(int(unused[0]))
            columns.append(int(column))
    return rows, columns


def images_of(batches: "tf.data.Dataset", rows: list[int]) -> np.ndarray:
    """Images uint8 [n, S, S, 1] of the batches of `input_fn`, by their rows in dataset order."""
    images = itertools.chain.from_iterable(inputs["image"].numpy() for inputs, _ in batches)
    found = {row: image for row, image in zip(range(max(rows) + 1), images, strict=False) if row in rows}
    return np.stack([found[row] for row in rows])


def show_start(run: Run) -> None:
    """Show the parameters of a run and, if it trains on images, a batch before augmentation and, if any, after it."""
    tensorboard.show_parameters(run.model_dir, dataclasses.asdict(run.params))
    if "image" not in run.datasets:
        return
    plain = dataclasses.replace(run.params, augmentation="none", horizontal_flip=False, crop_size=None, mixup=0.0)
    augmented = {} if run.params == plain else {"augmented": run.params}
    for name, params in ({"input": plain} | augmented).items():
        batches = input_fn("train", run.datasets, params, epoch=0, inputs=["image"])
        inputs, _ = next(iter(batches))
        tensorboard.show_images(run.model_dir, name, inputs["image"].numpy())


def heat_map_examples(run: Run, val: example.Index) -> HeatMapExamples | None:
    """The examples of a run; None if it trains on features, or val has no positives."""
    return HeatMapExamples(run, val.labels) if "image" in run.datasets and val.labels.any() else None


def show_epoch(
    run: Run, epoch: int, labels: np.ndarray, probabilities: np.ndarray, *, examples: HeatMapExamples | None
) -> None:
    """Show the precision-recall curves of val, labels and probabilities [n, 14], and the heat maps of the examples."""
    tensorboard.show_curves(run.model_dir, epoch, labels, probabilities)
    if examples is None:
        return
    with run.averaged():
        heat_maps = examples.heat_maps()
    names = [FINDINGS[column] for column in examples.columns]
    tensorboard.show_heat_maps(
        run.model_dir, epoch, examples.images, heat_maps, names=names, covers=examples.mapper.covers
    )


def show_features(run: Run, val: example.Index) -> None:
    """Show the features of the val images, the input of the logits layer, in the projector."""
    if len(val.image_ids) == 0:
        return
    model = penultimate_of(run.model, run.params)
    tensorboard.show_features(run.model_dir, model.predict(run.val_batches, verbose=0), val)
