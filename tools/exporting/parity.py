"""Check that an exported file gives the predictions of predict.py, and measure what quantising costs."""

import io
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cxr.evaluation import metrics
from cxr.findings import FINDINGS
from cxr.images.encode import encode
from cxr.params import Params
from cxr.records.dataset import Dataset
from inference.predictor import Predictor
from input_fn import input_fn

TOLERANCE = 1e-4  # for float32
HALF_TOLERANCE = 2e-3  # for half precision
SHAPES = ((1, 1), (2.3, 1.9), (0.6, 0.8), (4.7, 5.9))  # height and width of drawn images, relative to the model's input
Run = Callable[[np.ndarray], np.ndarray]  # uint8 [n, S, S, 1] -> probabilities float32 [n, 14]


class Samples(NamedTuple):
    """Images to check with."""

    squares: np.ndarray  # uint8 [n, S, S, 1], inputs of the model
    labels: np.ndarray  # int64 [n, 14]


def tolerance(precision: str) -> float:
    """The largest difference of a probability that is accepted for a model of this precision."""
    return TOLERANCE if precision == "float32" else HALF_TOLERANCE


def drawn_samples(predictor: Predictor) -> Samples:
    """The drawn images, resized, in place of val images; all labels are 0."""
    squares = np.stack([predictor.read(file).square for file in drawn_images(predictor.image_size)])[..., None]
    return Samples(squares, np.zeros((len(squares), len(FINDINGS)), np.int64))


def read_val(images: Dataset, params: Params, limit: int) -> Samples:
    """Read the first `limit` images of val.

    Raises:
        ValueError: val is empty.
    """
    squares, labels, count = [], [], 0
    for inputs, batch_labels in input_fn("val", {"image": images}, params, inputs=("image",)):
        squares.append(inputs["image"].numpy())
        labels.append(batch_labels.numpy())
        count += len(labels[-1])
        if count >= limit:
            break
    if not count:
        raise ValueError(f"{images.folder} has no val images to calibrate and check with; leave out --data_dir")
    return Samples(np.concatenate(squares)[:limit], np.concatenate(labels)[:limit].astype(np.int64))


def as_png(squares: np.ndarray) -> list[bytes]:
    """Encode uint8 [n, S, S, 1] as PNG files."""
    return [encode(square[:, :, 0], "png") for square in squares]


def drawn_images(size: int) -> list[bytes]:
    """Draw images in every form that a client may send: grey, RGB, RGBA and 16-bit PNG, grey and RGB JPEG."""
    from PIL import Image

    random, files = np.random.default_rng(230), []
    for height, width in SHAPES:
        shape = max(32, round(height * size)), max(32, round(width * size))
        waves = np.sin(np.arange(shape[0])[:, None] / 17) * np.cos(np.arange(shape[1]) / 23)
        grey = np.clip(128 + 80 * waves + random.normal(0, 12, shape), 0, 255).astype(np.uint8)
        rgb = np.stack([grey, np.roll(grey, 3, 0), np.roll(grey, 3, 1)], axis=2)
        deep = Image.fromarray(grey.astype(np.uint16) * 257)
        pictures = [(Image.fromarray(grey), "PNG"), (Image.fromarray(rgb), "PNG"), (deep, "PNG")]
        pictures += [(Image.fromarray(rgb).convert("RGBA"), "PNG"), (Image.fromarray(grey), "JPEG")]
        for picture, kind in [*pictures, (Image.fromarray(rgb), "JPEG")]:
            buffer = io.BytesIO()
            picture.save(buffer, kind)
            files.append(buffer.getvalue())
    return files


def require_same(folder: pathlib.Path, predictor: Predictor, files: list[bytes], limit: float = TOLERANCE) -> float:
    """Run a SavedModel and predict.py on the same files; returns the largest difference of a probability.

    Raises:
        ValueError: a probability differs by more than `limit`, uncalibrated or calibrated.
    """
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    largest = 0.0
    for file in files:
        expected, found = predictor.predict([predictor.read(file)])[0], serve(tf.constant([file]))
        differences = [
            np.abs(found[key].numpy()[0] - values).max()
            for key, values in (("probabilities", expected.probabilities), ("calibrated", expected.calibrated))
        ]
        largest = max(largest, *map(float, differences))
    require_close(largest, "the SavedModel", limit)
    return largest


def require_close(difference: float, name: str, limit: float = TOLERANCE) -> None:
    """Raise ValueError unless a difference of probabilities is within the limit; NaN is not."""
    if not difference <= limit:
        raise ValueError(
            f"{name} differs from predict.py by up to {difference:.2g} in a probability, more than {limit:g}; "
            "nothing was exported. Please report the versions of TensorFlow, Keras and Pillow"
        )


def compare(run: Run, samples: Samples, expected: np.ndarray) -> dict:
    """Compare a converted network with the original.

    Args:
        expected: probabilities [n, 14] of the original for the samples.

    Returns:
        {"images", "difference": the largest of a probability, "mean_auroc": {"before", "after", "lost"}}; an AUROC is
        None where no finding has both classes.
    """
    return differences(samples.labels, before=expected, after=run(samples.squares))


def differences(labels: np.ndarray, *, before: np.ndarray, after: np.ndarray) -> dict:
    """What `compare` returns, from the probabilities [n, 14] before and after a conversion."""
    auroc_before, auroc_after = mean_auroc(labels, before), mean_auroc(labels, after)
    found = {
        "images": len(labels),
        "difference": float(np.abs(after - before).max()),
        "mean_auroc": {"before": auroc_before, "after": auroc_after, "lost": auroc_before - auroc_after},
    }
    return metrics.none_for_nan(found)


def mean_auroc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over the findings that have both classes; NaN if none has."""
    aurocs = [metrics.auroc(labels[:, column], probabilities[:, column]) for column in range(len(FINDINGS))]
    return metrics.mean_defined(aurocs)
