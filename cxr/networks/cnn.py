"""The simple CNN, the base case: from the pixels of a record to pooled features. Pure Keras, any backend."""

from cxr.networks.geometry import centre_crop
from cxr.networks.normalize import standardize
from cxr.params import Params


def simple_cnn(image, params: Params):
    """Blocks of 3x3 convolution, 2x2 max pool, batch norm and ReLU, then the mean over the remaining feature map.

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
