"""The head: fully connected layers over extracted features, and the input of its logits layer. Any Keras backend."""

from typing import TYPE_CHECKING

from cxr.networks import patient
from cxr.params import Params

if TYPE_CHECKING:
    import keras


def fully_connected(features: dict, params: Params, patient_inputs: dict):
    """Hidden layers over the features; in an ensemble the features are first projected to one width and added.

    Args:
        features: float [B, D] by extractor.
        patient_inputs: arguments of `patient.embed`, whose output is concatenated with the features; {} for none.

    Returns:
        float [B, hidden_units[-1]].
    """
    from keras import layers

    # Features of different networks differ in scale by orders of magnitude. After batch norm one learning rate suits
    # all. The next layer can learn any shift and scale; their gradients here would cost a quarter of a step.
    scaled = [layers.BatchNormalization(momentum=0.9, center=False, scale=False)(f) for f in features.values()]
    if params.model == "ensemble":
        scaled = [layers.Dense(params.transition_units, activation="relu")(feature) for feature in scaled]
        scaled = [layers.Add()(scaled)]
    hidden = scaled[0]
    if patient_inputs:
        hidden = layers.Concatenate()([hidden, patient.embed(patient_inputs)])
    for units in params.hidden_units:
        hidden = layers.Dense(units, activation="relu")(layers.Dropout(params.dropout)(hidden))
    return hidden


def penultimate_of(model: "keras.Model", params: Params) -> "keras.Model":
    """A model of `assembly.trainable_part` or `assembly.with_extractors` up to the input of its logits layer."""
    import keras

    head = model if model.name == params.model else model.get_layer(params.model)
    penultimate = keras.Model(head.input, head.get_layer("logits").input, name="penultimate")
    if head is model:
        return penultimate
    image = {"image": model.input["image"]}
    patient_inputs = {name: value for name, value in model.input.items() if name != "image"}
    names = [name for name in head.input if name not in patient_inputs]
    features = {name: model.get_layer(f"{name}_extractor")(image) for name in names}
    return keras.Model(model.input, penultimate(features | patient_inputs))
