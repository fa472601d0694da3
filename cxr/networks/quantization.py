"""int8: post-training quantisation of a frozen network by NNCF, calibrated on training images."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from cxr.networks.conversion import openvino_core
from cxr.records import parsing
from cxr.records.dataset import Dataset

if TYPE_CHECKING:
    import openvino

log = logging.getLogger("train.quantization")

IMAGES = 300  # NNCF's default
# Depthwise convolutions stay float32, because they lose most: the relative error of the features of MobileNet 0.25 is
# 0.14 so and 0.32 in int8. It costs larger networks of this kind up to a third of their speed (docs/performance.md).
UNQUANTISED = ["GroupConvolution"]


def calibration_images(images: Dataset) -> Iterator[np.ndarray]:
    """The first training images, IMAGES at most, uint8 [1, H, W, 1] each.

    The records of a split are in a random order, drawn with the seed of the split, so the first ones are a random draw
    that any experiment on this dataset repeats.
    """
    import tensorflow as tf

    serialized = tf.data.TFRecordDataset(images.paths("train")).take(IMAGES).batch(1)
    for record in serialized:
        yield parsing.parse_batch(record, images.info)[0]["image"].numpy()


def quantize(model: "openvino.Model", images: Dataset, name: str) -> "openvino.Model":
    """A network with int8 weights and activations.

    Args:
        model: from uint8 [?, H, W, 1] to float32 [?, D]; its batch becomes 1.
        images: a dataset whose training images set the ranges of activations.
        name: of the extractor, for the log and errors.

    Raises:
        ImportError: NNCF is not installed.
        ValueError: the dataset has no training images, or NNCF cannot quantise the network.
    """
    openvino_core()  # before those of NNCF
    try:
        import nncf
    except ImportError as error:
        raise ImportError("int8 needs NNCF. Run: pip install -r requirements/cpu.txt") from error
    count = min(IMAGES, images.num_images("train"))
    if count == 0:
        raise ValueError(f"{images.folder} has no training images to quantise {name} with; use another precision")
    if count < IMAGES:
        log.warning("%s is quantised with %d training images, fewer than %d: the ranges are rough", name, count, IMAGES)
    model = model.clone()
    model.reshape([1, *list(model.inputs[0].partial_shape)[1:]])
    logging.getLogger("nncf").setLevel(logging.ERROR)
    log.info("quantising %s to int8 with %d training images", name, count)
    try:
        # Without it the features of a small random DINOv2 were wrong by 87 %, with it by 3 %.
        options = {"model_type": nncf.ModelType.TRANSFORMER} if has_attention(model) else {}
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            dataset = nncf.Dataset(list(calibration_images(images)))
            ignored = nncf.IgnoredScope(types=UNQUANTISED, validate=False)  # a network may have none of them
            return nncf.quantize(model, dataset, subset_size=count, ignored_scope=ignored, **options)
    except (RuntimeError, ValueError, nncf.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f'{name} cannot be quantised: {reason}. Set "precision": "float32" in params.json') from error


def has_attention(model: "openvino.Model") -> bool:
    """Whether a network has attention layers, for which NNCF has its own scheme."""
    return any(op.get_type_name() in ("Softmax", "ScaledDotProductAttention") for op in model.get_ops())
