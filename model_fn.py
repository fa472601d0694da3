"""params -> Keras model: raw pixels in, logits out. Pure Keras: layers and keras.ops, any backend."""

import math
from typing import TYPE_CHECKING

from cxr.params import Params

if TYPE_CHECKING:
    import keras


def model_fn(params: Params, info: dict) -> "keras.Model":
    """Build the model of an experiment for a dataset.

    Args:
        info: the dataset.json: its image_size shapes the input, its training positives set the output bias.

    Returns:
        Model from {"image": uint8 [B, H, W, 1]} to float32 logits [B, 14] in FINDINGS order. Resizing and
        standardisation are inside, so that whoever feeds it pixels gets the same answer.
    """
    import keras

    keras.utils.set_random_seed(params.seed)  # initial weights and dropout
    size = info["image_size"]
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    pixels = keras.ops.cast(image, "float32")
    if size != params.image_size:
        pixels = keras.layers.Resizing(params.image_size, params.image_size, antialias=True)(pixels)
    features = simple_cnn(standardize(pixels), params)
    features = keras.layers.Dropout(params.dropout)(features)
    bias = keras.initializers.Constant(prevalence_logits(info))
    logits = keras.layers.Dense(len(info["findings"]), bias_initializer=bias, name="logits")(features)
    return keras.Model({"image": image}, logits, name=params.model)


def standardize(pixels):
    """Per-image standardisation of float [B, H, W, C]: (x - mean) / max(stddev, 1 / sqrt(N)) over the N values of each.

    The same as tf.image.per_image_standardization; a blank image becomes zeros instead of a division by zero.
    """
    from keras import ops

    centred = pixels - ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
    variance = ops.mean(ops.square(centred), axis=(1, 2, 3), keepdims=True)
    return centred / ops.maximum(ops.sqrt(variance), 1 / math.sqrt(math.prod(pixels.shape[1:])))


def simple_cnn(pixels, params: Params):
    """Blocks of 3x3 convolution, 2x2 max pool, batch norm and ReLU, then the mean over what is left of the image.

    Pooling comes before batch norm, not after ReLU: norm and ReLU then touch a quarter of the values, which trains
    three times as fast on a CPU.

    Args:
        pixels: float [B, H, W, C].

    Returns:
        float [B, num_channels * 2 ** (num_blocks - 1)].
    """
    from keras import layers

    features = pixels
    for block in range(params.num_blocks):
        channels = params.num_channels << block
        features = layers.Conv2D(channels, 3, padding="same", use_bias=False)(features)  # batch norm has the bias
        features = layers.MaxPooling2D(2)(features)
        features = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(features))
    return layers.GlobalAveragePooling2D(name="pooled")(features)


def prevalence_logits(info: dict) -> list[float]:
    """log(p / (1 - p)) of each finding's share p of the training images.

    With these as output bias the first steps do not go into learning that most findings are rare (Lin et al. 2017,
    section 4.1). One image is added on each side, so that a finding without positives stays finite.
    """
    train = info["splits"]["train"]
    positives = [train["positives"][finding] for finding in info["findings"]]
    return [math.log((n + 1) / (train["images"] - n + 1)) for n in positives]
