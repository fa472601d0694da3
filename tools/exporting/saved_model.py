"""Export an experiment as a SavedModel that needs only TensorFlow, from the bytes of image files to calls."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from cxr.evaluation.calibration import EDGE
from cxr.evaluation.operating_points import OperatingPoints
from cxr.findings import FINDINGS
from cxr.networks.conversion import frozen_graph
from cxr.patient import UNKNOWN
from tools.exporting import decoding

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def require_tensorflow() -> None:
    """Raise ValueError if Keras runs on another backend than TensorFlow."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"Keras runs on {keras.backend.backend()}, a SavedModel needs KERAS_BACKEND=tensorflow")


def signature_outputs(logits: "tf.Tensor", points: OperatingPoints) -> dict[str, "tf.Tensor"]:
    """What every signature returns, [B, 14] each: an image's row can be read without any other file.

    findings              names
    probabilities         uncalibrated, the model's sigmoid outputs
    calibrated            calibrated on val
    thresholds            operating points of `probabilities`; NaN where val had too few positives
    calibrated_thresholds the same operating points on the scale of `calibrated`
    calls                 1 at or above the operating point, 0 below, -1 without one
    """
    import tensorflow as tf

    logits = tf.cast(logits, tf.float64)
    probabilities = tf.sigmoid(logits)
    edge = np.log1p(-EDGE) - np.log(EDGE)  # clips as `calibration.calibrate` does
    corrected = tf.sigmoid(points.slopes * tf.clip_by_value(logits, -edge, edge) + points.intercepts)
    calls = tf.where(np.isnan(points.thresholds), -1, tf.cast(probabilities >= points.thresholds, tf.int32))
    calibrated = tf.where(np.isnan(points.slopes), probabilities, corrected)
    constants = {
        "findings": tf.constant(FINDINGS),
        "thresholds": tf.constant(points.thresholds, tf.float32),
        "calibrated_thresholds": tf.constant(points.calibrated(points.thresholds), tf.float32),
    }
    computed = {"probabilities": tf.cast(probabilities, tf.float32), "calibrated": tf.cast(calibrated, tf.float32)}
    rows = tf.shape(logits)[0]
    repeated = {name: tf.tile(row[None], [rows, 1]) for name, row in constants.items()}
    return computed | {"calls": calls} | repeated


def patient_specs_of(model: "keras.Model") -> dict[str, "tf.TensorSpec"]:
    """The patient inputs of a model, [B] each; none if the image is its only input."""
    import tensorflow as tf

    patient = {name: tensor for name, tensor in model.input.items() if name != "image"}
    return {name: tf.TensorSpec([None], tensor.dtype, name=name) for name, tensor in patient.items()}


def save(model: "keras.Model", points: OperatingPoints, folder: pathlib.Path) -> None:
    """Write the SavedModel with its signatures.

    serving_default   image_bytes, string [B]: PNG or JPEG files
    pixels            image, uint8 [B, H, W, 1], of any size

    A model with patient inputs has two more signatures, `patient` and `patient_pixels`, which also take age (years),
    sex (0 F, 1 M) and view_position (0 PA, 1 AP), [B] each, -1 where unknown. In the first two signatures all of them
    are unknown.
    """
    import tensorflow as tf

    size, network = model.input["image"].shape[1], frozen_graph(model)
    patient_specs = patient_specs_of(model)
    bytes_spec = tf.TensorSpec([None], tf.string, name="image_bytes")
    pixels_spec = tf.TensorSpec([None, None, None, 1], tf.uint8, name="image")

    def predict(squares: "tf.Tensor", patient: dict) -> dict:
        rows = tf.shape(squares)[:1]
        unknown = {name: tf.fill(rows, tf.constant(UNKNOWN, spec.dtype)) for name, spec in patient_specs.items()}
        inputs = {"image": squares} | unknown | patient
        logits = network(*(inputs[name] for name in model.input))
        return signature_outputs(logits[0] if isinstance(logits, list | tuple) else logits, points)

    def from_bytes(image_bytes, **patient):
        return predict(decoding.decode_squares(image_bytes, size), patient)

    def from_pixels(image, **patient):
        return predict(decoding.resize_squares(image, size), patient)

    from_bytes = tf.function(from_bytes, autograph=False)
    from_pixels = tf.function(from_pixels, autograph=False)
    signatures = {
        "serving_default": from_bytes.get_concrete_function(image_bytes=bytes_spec),
        "pixels": from_pixels.get_concrete_function(image=pixels_spec),
    }
    if patient_specs:
        signatures["patient"] = from_bytes.get_concrete_function(image_bytes=bytes_spec, **patient_specs)
        signatures["patient_pixels"] = from_pixels.get_concrete_function(image=pixels_spec, **patient_specs)
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
