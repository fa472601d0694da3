"""Whether an exported file says what predict.py says, and how much quantising it cost."""

import io
import pathlib

import numpy as np

from cxr.evaluation import metrics
from cxr.findings import FINDINGS
from cxr.images.encode import encode
from cxr.params import Params
from cxr.records.dataset import Dataset
from inference.predictor import Predictor
from tools.exporting.converters import Run

TOLERANCE = 1e-4  # of a probability, in float32
HALF_TOLERANCE = 2e-3  # in half precision
SHAPES = ((1, 1), (2.3, 1.9), (0.6, 0.8), (4.7, 5.9))  # height and width of drawn images, in those of the model


def drawn_images(size: int) -> list[bytes]:
    """Images in what forms a client may send: grey, colour, transparent and 16-bit PNG, and JPEG, of many sizes."""
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
    """Run a SavedModel and predict.py over the same files; returns the largest difference of a probability.

    Raises:
        ValueError: it is above the limit, raw or calibrated.
    """
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    largest = 0.0
    for file in files:
        ours, theirs = predictor.predict([predictor.read(file)])[0], serve(tf.constant([file]))
        differences = [
            np.abs(theirs[key].numpy()[0] - values).max()
            for key, values in (("probabilities", ours.probabilities), ("calibrated", ours.calibrated))
        ]
        largest = max(largest, *map(float, differences))
    require_close(largest, "the SavedModel", limit)
    return largest


def require_close(difference: float, what: str, limit: float = TOLERANCE) -> None:
    """Raise ValueError unless a difference of probabilities is within the limit; nan is not."""
    if not difference <= limit:
        raise ValueError(
            f"{what} differs from predict.py by up to {difference:.2g} in a probability, more than {limit:g}; "
            "nothing was exported. Please report the versions of TensorFlow, Keras and Pillow"
        )


def read_val(images: Dataset, params: Params, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of val as the model sees them, uint8 [n, S, S, 1], and their labels [n, 14].

    Raises:
        ValueError: val is empty.
    """
    from input_fn import input_fn

    squares, labels, count = [], [], 0
    for inputs, batch_labels in input_fn("val", {"image": images}, params, inputs=("image",)):
        squares.append(inputs["image"].numpy())
        labels.append(batch_labels.numpy())
        count += len(labels[-1])
        if count >= limit:
            break
    if not count:
        raise ValueError(f"{images.folder} has no val images to calibrate and check with; leave out --data_dir")
    return np.concatenate(squares)[:limit], np.concatenate(labels)[:limit].astype(np.int64)


def as_png(squares: np.ndarray) -> list[bytes]:
    """Squares uint8 [n, S, S, 1] as files."""
    return [encode(square[:, :, 0], "png") for square in squares]


def compare(run: Run, squares: np.ndarray, labels: np.ndarray, expected: np.ndarray) -> dict:
    """A converted network beside the one it was made from.

    Args:
        squares: uint8 [n, S, S, 1]. labels: [n, 14]. expected: probabilities [n, 14] before conversion.

    Returns:
        {"images", "difference": largest of a probability, "mean_auroc": {"before", "after", "lost"}}, None where no
        finding has both classes.
    """
    found = run(squares)
    before, after = (
        metrics.mean_defined([metrics.auroc(labels[:, column], p[:, column]) for column in range(len(FINDINGS))])
        for p in (expected, found)
    )
    aurocs = {"before": before, "after": after, "lost": before - after}
    difference = float(np.abs(found - expected).max())
    return metrics.none_for_nan({"images": len(squares), "difference": difference, "mean_auroc": aurocs})
