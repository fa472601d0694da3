"""The fully connected layers over extracted features. Any Keras backend."""

from cxr.networks import patient
from cxr.params import Params


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
