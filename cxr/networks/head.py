"""The fully connected layers over frozen features. Pure Keras, any backend."""

from cxr.networks import patient
from cxr.params import Params


def fully_connected(features: dict, params: Params, patient_inputs: dict):
    """For an ensemble a transition of every extractor to one width and their sum, then hidden_units.

    Args:
        features: float [B, D] by extractor.
        patient_inputs: the arguments of `patient.embed`, concatenated with the features; {} for none.

    Returns:
        float [B, hidden_units[-1]].
    """
    from keras import layers

    # The features of different networks differ in scale by orders of magnitude; normalised over the batch, one learning
    # rate fits all. The next layer can learn any shift and scale, whose gradients would cost a quarter of a step.
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
