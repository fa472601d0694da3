"""Per-image standardisation, in pure Keras."""

import math


def standardize(pixels):
    """(x - mean) / max(stddev, 1 / sqrt(N)) over the N values of each image of float [B, H, W, C].

    The same as tf.image.per_image_standardization; a blank image becomes zeros instead of a division by zero.
    """
    from keras import ops

    centred = pixels - ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
    variance = ops.mean(ops.square(centred), axis=(1, 2, 3), keepdims=True)
    return centred / ops.maximum(ops.sqrt(variance), 1 / math.sqrt(math.prod(pixels.shape[1:])))
