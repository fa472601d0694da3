"""The simple CNN, the baseline model: from the pixels of a record to pooled features. Any Keras backend."""

from cxr.networks.pixels import centre_crop, resize, standardize
from cxr.params import Params


def simple_cnn(image, params: Params):
    """Blocks of 3x3 convolution, 2x2 max pooling, batch norm and ReLU, then global average pooling.

    Pooling comes before batch norm, not after ReLU: batch norm and ReLU then process a quarter of the values, which
    trains three times as fast on a CPU.

    Args:
        image: uint8 [B, H, W, 1].

    Returns:
        float [B, num_channels * 2 ** (num_blocks - 1)].
    """
    from keras import layers, ops

    batch_norm = batch_norm_layer()
    pixels = ops.cast(centre_crop(image, params.crop_size), "float32")
    features = standardize(resize(pixels, params.image_size))
    for block in range(params.num_blocks):
        channels = params.num_channels << block
        features = layers.Conv2D(channels, 3, padding="same", use_bias=False)(features)  # batch norm adds the bias
        features = layers.MaxPooling2D(2)(features)
        features = layers.ReLU()(batch_norm(momentum=0.9)(features))
    return layers.GlobalAveragePooling2D(name="pooled")(features)


def batch_norm_layer() -> type:
    """The fastest batch norm layer of the backend; all have the same weights."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return keras.layers.BatchNormalization
    from cxr.networks.fast_kernels import BatchNormalization

    return BatchNormalization
