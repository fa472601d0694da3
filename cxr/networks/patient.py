"""Embeddings of age, sex and view position, beside the features of an image. Any Keras backend."""

from typing import TYPE_CHECKING

from cxr.patient import OLDEST, UNKNOWN

if TYPE_CHECKING:
    import keras

INPUTS = {"age": "float32", "sex": "int32", "view_position": "int32"}  # years; 0 F, 1 M; 0 PA, 1 AP
DECADES = 10  # the last one is 90 years and older
WIDTH = 8  # of each embedding


def patient_inputs() -> dict:
    """The patient inputs of a model by name, each of shape [B]."""
    import keras

    return {name: keras.Input((), dtype=dtype, name=name) for name, dtype in INPUTS.items()}


def embed(patient: dict):
    """Embed age, sex and view position of each patient: float32 [B, 24].

    Each decade of age, each sex and each view position has a learnt vector, and unknown values have their own. An age
    below 0 or above 120 is unknown.

    Args:
        patient: "age" float [B] years, "sex" [B] 0 F, 1 M, "view_position" [B] 0 PA, 1 AP; other values are unknown.
    """
    from keras import layers, ops

    age = patient["age"]
    is_known = ops.logical_and(age >= 0, age <= OLDEST)  # false for NaN
    decade = ops.cast(ops.minimum(ops.where(is_known, age, 0.0) // 10, DECADES - 1), "int32")
    indexes = {"age": ops.where(is_known, decade, DECADES)}
    for name in ("sex", "view_position"):
        value = ops.cast(patient[name], "int32")
        indexes[name] = ops.where(ops.logical_or(ops.equal(value, 0), ops.equal(value, 1)), value, 2)
    counts = {"age": DECADES + 1, "sex": 3, "view_position": 3}
    vectors = [layers.Embedding(counts[name], WIDTH, name=f"{name}_embedding")(indexes[name]) for name in INPUTS]
    return layers.Concatenate(dtype="float32")(vectors)


def image_only(model: "keras.Model") -> "keras.Model":
    """The model with all patient inputs unknown: {"image": uint8 [B, H, W, 1]} to its outputs.

    A model without patient inputs is returned unchanged.
    """
    import keras

    if list(model.input) == ["image"]:
        return model
    image = keras.Input(model.input["image"].shape[1:], dtype="uint8", name="image")
    unknown = keras.ops.zeros_like(image[:, 0, 0, 0], dtype="float32") + UNKNOWN  # [B]
    patient = {name: keras.ops.cast(unknown, dtype) for name, dtype in INPUTS.items()}
    return keras.Model({"image": image}, model({"image": image, **patient}), name=model.name)
