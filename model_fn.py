"""params -> Keras model: raw pixels in, logits out. Pure Keras: layers and keras.ops, any backend."""

import math
from typing import TYPE_CHECKING

from cxr.networks import patient
from cxr.networks.geometry import centre_crop, crop_start
from cxr.networks.losses import positive_weights
from cxr.networks.normalize import standardize
from cxr.networks.precision import layers_in
from cxr.params import Params

if TYPE_CHECKING:
    import keras


def model_fn(params: Params, info: dict, features: dict[str, int] | None = None) -> "keras.Model":
    """Build what an experiment trains from scratch: the whole simple_cnn, or the head over frozen features.

    Args:
        info: dataset.json of the images: its image_size shapes the input, its training positives set the output bias.
        features: for feature_extractor and ensemble, the width of each extractor's features by its name.

    Returns:
        Model from {"image": uint8 [B, H, W, 1]}, or {<extractor>: float32 [B, D]}, to float32 logits [B, 14] in
        FINDINGS order; with params.metadata also from "age", "sex" and "view", see `patient.embed`. Cropping, resizing
        and standardisation are inside, so whoever feeds pixels gets the same answer.

    Raises:
        ValueError: crop_size is larger than the records.
    """
    import keras

    keras.utils.set_random_seed(params.seed)  # initial weights and dropout
    crop_start(info["image_size"], params.crop_size or info["image_size"])
    told = patient.patient_inputs() if params.metadata else {}
    if params.model == "simple_cnn":
        size = info["image_size"]
        inputs = {"image": keras.Input((size, size, 1), dtype="uint8", name="image")}
        with layers_in(params.precision):
            penultimate = simple_cnn(inputs["image"], params)
        if told:
            penultimate = keras.layers.Concatenate()([penultimate, patient.embed(told)])
    else:
        inputs = {name: keras.Input((width,), name=name) for name, width in features.items()}
        penultimate = fully_connected(inputs, params, told)
    penultimate = keras.layers.Dropout(params.dropout)(penultimate)
    bias = keras.initializers.Constant(output_bias(params, info))
    output = keras.layers.Dense(len(info["findings"]), bias_initializer=bias, dtype="float32", name="logits")
    return keras.Model(inputs | told, output(penultimate), name=params.model)


def simple_cnn(image, params: Params):
    """Blocks of 3x3 convolution, 2x2 max pool, batch norm and ReLU, then the mean over what is left of the image.

    Pooling comes before batch norm, not after ReLU: norm and ReLU then touch a quarter of the values, which trains
    three times as fast on a CPU.

    Args:
        image: uint8 [B, H, W, 1].

    Returns:
        float [B, num_channels * 2 ** (num_blocks - 1)].
    """
    from keras import layers, ops

    pixels = ops.cast(centre_crop(image, params.crop_size), "float32")
    if pixels.shape[1] != params.image_size:
        pixels = layers.Resizing(params.image_size, params.image_size, antialias=True, dtype="float32")(pixels)
    features = standardize(pixels)
    for block in range(params.num_blocks):
        channels = params.num_channels << block
        features = layers.Conv2D(channels, 3, padding="same", use_bias=False)(features)  # batch norm has the bias
        features = layers.MaxPooling2D(2)(features)
        features = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(features))
    return layers.GlobalAveragePooling2D(name="pooled")(features)


def fully_connected(features: dict, params: Params, told: dict):
    """The layers over frozen features: for an ensemble a transition to one width and a sum, then hidden_units.

    Args:
        features: float [B, D] by extractor.
        told: what `patient.embed` takes, which stands beside the features; {} for nothing.

    Returns:
        float [B, hidden_units[-1]].
    """
    from keras import layers

    # Widths of networks differ in scale by orders; normalised over the batch, one learning rate fits all of them. Shift
    # and scale would say nothing that the next layer cannot, and their gradients cost a quarter of a step.
    scaled = [layers.BatchNormalization(momentum=0.9, center=False, scale=False)(f) for f in features.values()]
    if params.model == "ensemble":
        scaled = [layers.Dense(params.transition_units, activation="relu")(feature) for feature in scaled]
        scaled = [layers.Add()(scaled)]
    hidden = scaled[0]
    if told:
        hidden = layers.Concatenate()([hidden, patient.embed(told)])
    for units in params.hidden_units:
        hidden = layers.Dense(units, activation="relu")(layers.Dropout(params.dropout)(hidden))
    return hidden


def prevalence_logits(info: dict) -> list[float]:
    """log(p / (1 - p)) of each finding's share p of the training images.

    With these as output bias the first steps do not go into learning that most findings are rare (Lin et al. 2017,
    section 4.1). One image is added on each side, so that a finding without positives stays finite.
    """
    train = info["splits"]["train"]
    positives = [train["positives"][finding] for finding in info["findings"]]
    return [math.log((n + 1) / (train["images"] - n + 1)) for n in positives]


def output_bias(params: Params, info: dict) -> list[float]:
    """The logits by which a loss is least where nothing is seen: the prevalences', moved by the weight of positives.

    w n+ (1 - p) = n- p gives logit(p) = log(n+ / n-) + log w. Focal and asymmetric losses start from the prevalences.
    """
    weights = positive_weights(params, info)
    return [logit + math.log(weight) for logit, weight in zip(prevalence_logits(info), weights, strict=True)]
