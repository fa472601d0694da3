"""An experiment as a SavedModel that needs nothing but TensorFlow: from the bytes of image files to answers."""

import pathlib
from typing import TYPE_CHECKING

from cxr.evaluation.calibration import EDGE
from cxr.evaluation.operating_points import OperatingPoints
from cxr.findings import FINDINGS
from cxr.networks.runtime import frozen_graph
from tools.exporting import decoding

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def require_tensorflow() -> None:
    """Raise ValueError where Keras runs on another backend: a SavedModel is TensorFlow's."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"Keras runs on {keras.backend.backend()}, a SavedModel needs KERAS_BACKEND=tensorflow")


def answers(logits: "tf.Tensor", points: OperatingPoints) -> dict[str, "tf.Tensor"]:
    """What every signature returns, [B, 14] each, so that a row of it explains itself.

    findings (names), probabilities (as the model gives them), calibrated, thresholds and calibrated_thresholds (where
    each of the two becomes a call; nan where val had too little), calls (1, 0, or -1 where there is no threshold).
    """
    import numpy as np
    import tensorflow as tf

    logits = tf.cast(logits, tf.float64)
    probabilities = tf.sigmoid(logits)
    edge = np.log1p(-EDGE) - np.log(EDGE)  # as calibration.calibrate clips
    corrected = tf.sigmoid(points.slopes * tf.clip_by_value(logits, -edge, edge) + points.intercepts)
    calls = tf.where(np.isnan(points.thresholds), -1, tf.cast(probabilities >= points.thresholds, tf.int32))
    calibrated = tf.where(np.isnan(points.slopes), probabilities, corrected)
    known = {
        "findings": tf.constant(FINDINGS),
        "thresholds": tf.constant(points.thresholds, tf.float32),
        "calibrated_thresholds": tf.constant(points.calibrated(points.thresholds), tf.float32),
    }
    computed = {"probabilities": tf.cast(probabilities, tf.float32), "calibrated": tf.cast(calibrated, tf.float32)}
    rows = tf.shape(logits)[0]
    return computed | {"calls": calls} | {name: tf.tile(row[None], [rows, 1]) for name, row in known.items()}


def save(model: "keras.Model", points: OperatingPoints, folder: pathlib.Path) -> None:
    """Write the SavedModel.

    Signatures: `serving_default` takes image_bytes, string [B], PNG or JPEG; `pixels` takes image, uint8 [B, H, W, 1]
    of any size. Of a model that is told of the patient, both also take age (years), sex (0 F, 1 M) and view (0 PA, 1
    AP), -1 where unknown, under the names `patient` and `patient_pixels`; the first two then know nothing of anybody.
    """
    import tensorflow as tf

    size, network, names = model.input["image"].shape[1], frozen_graph(model), list(model.input)
    told = {name: tf.TensorSpec([None], model.input[name].dtype, name=name) for name in names if name != "image"}
    encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
    pixels = tf.TensorSpec([None, None, None, 1], tf.uint8, name="image")

    def answer(squares: "tf.Tensor", patient: dict) -> dict:
        values = [squares if name == "image" else patient[name] for name in names]
        logits = network(*values)
        return answers(logits[0] if isinstance(logits, list | tuple) else logits, points)

    def nobody(squares: "tf.Tensor") -> dict:
        return {name: tf.fill(tf.shape(squares)[:1], tf.constant(-1, spec.dtype)) for name, spec in told.items()}

    def from_bytes(image_bytes, **patient):
        squares = decoding.decode_squares(image_bytes, size)
        return answer(squares, patient or nobody(squares))

    def from_pixels(image, **patient):
        squares = decoding.resize_squares(image, size)
        return answer(squares, patient or nobody(squares))

    module = tf.Module()
    bytes_function, pixels_function = (tf.function(f, autograph=False) for f in (from_bytes, from_pixels))
    signatures = {
        "serving_default": bytes_function.get_concrete_function(image_bytes=encoded),
        "pixels": pixels_function.get_concrete_function(image=pixels),
    }
    if told:
        signatures["patient"] = bytes_function.get_concrete_function(image_bytes=encoded, **told)
        signatures["patient_pixels"] = pixels_function.get_concrete_function(image=pixels, **told)
    tf.saved_model.save(module, str(folder), signatures=signatures)
