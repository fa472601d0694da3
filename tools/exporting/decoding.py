"""Decode and resize PNG and JPEG files in TensorFlow, bit for bit as build_dataset.py does with Pillow.

Predictions change if the pixels in serving differ from those in training, and tf.image.resize differs from Pillow by
several grey levels. So this module repeats the integer arithmetic of Pillow 13: libImaging/Convert.c, Reduce.c and
Resample.c.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

LUMINANCE = (19595, 38470, 7471)  # ITU-R 601 weights times 2**16
WEIGHT_BITS = 22  # precision of Pillow's fixed-point filter weights
REDUCING_GAP = 2.0  # as in cxr.images.resize


def decode_squares(encoded: "tf.Tensor", size: int) -> "tf.Tensor":
    """Decode and resize image files, string [B], to uint8 [B, size, size, 1].

    A file that is damaged, or neither PNG nor JPEG, fails the whole batch, as in any TensorFlow graph.
    """
    import tensorflow as tf

    square = tf.TensorSpec([size, size, 1], tf.uint8)
    return tf.map_fn(lambda data: resize_square(decode_grey(data), size), encoded, fn_output_signature=square)


def resize_squares(pixels: "tf.Tensor", size: int) -> "tf.Tensor":
    """Resize images uint8 [B, height, width, 1] to uint8 [B, size, size, 1]."""
    import tensorflow as tf

    square = tf.TensorSpec([size, size, 1], tf.uint8)
    return tf.map_fn(lambda image: resize_square(image[:, :, 0], size), pixels, fn_output_signature=square)


def decode_grey(data: "tf.Tensor") -> "tf.Tensor":
    """Decode one PNG or JPEG to uint8 [height, width], as `cxr.images.decode.decode_grey` does.

    Every file is decoded as RGB: TensorFlow then drops alpha and the lower byte of 16 bits as `cxr.images` does. A grey
    image becomes three equal channels, whose luminance is the same grey.
    """
    import tensorflow as tf

    rgb = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # decodes PNG too
    weights = tf.constant(LUMINANCE, tf.float32)[:, None]  # sums stay below 2**24: exact in float32
    weighted = tf.matmul(tf.reshape(tf.cast(rgb, tf.float32), [-1, 3]), weights)
    levels = tf.floor((weighted + 2.0**15) / 2.0**16)
    return tf.cast(tf.reshape(levels, tf.shape(rgb)[:2]), tf.uint8)


def resize_square(pixels: "tf.Tensor", size: int) -> "tf.Tensor":
    """Resize uint8 [height, width] to uint8 [size, size, 1], as `cxr.images.resize.resize_square` does."""
    import tensorflow as tf

    sides = tf.cast(tf.shape(pixels), tf.float64)  # height, width
    inner = tf.round(sides * (size / tf.reduce_max(sides)))  # rounds half to even, as Python does
    inner = tf.maximum(inner, 1)
    factors = tf.maximum(tf.floor(sides / inner / REDUCING_GAP), 1)
    reduced = average_blocks(pixels, tf.cast(factors, tf.int32))
    inner, extent = tf.cast(inner, tf.int32), tf.cast(sides / factors, tf.float32)
    in_size = tf.shape(reduced)
    rows, columns = (filter_weights(in_size[axis], extent[axis], inner[axis]) for axis in (0, 1))
    # Each pass rounds, so their order matters. Resample.c starts with the columns, except where the height shrinks by
    # more than twice as many pixels as the width (since Pillow 13).
    shrinks = in_size - inner
    resized = tf.cond(
        shrinks[0] > tf.maximum(2 * shrinks[1], 0),
        lambda: resample(resample(reduced, rows, "hw,uh->uw"), columns, "uw,vw->uv"),
        lambda: resample(resample(reduced, columns, "hw,vw->hv"), rows, "hv,uh->uv"),
    )
    before = (size - inner) // 2
    square = tf.pad(resized, tf.stack([before, size - inner - before], axis=1))
    return tf.cast(tf.ensure_shape(square, [size, size])[..., None], tf.uint8)


def average_blocks(pixels: "tf.Tensor", factors: "tf.Tensor") -> "tf.Tensor":
    """Mean of every block of pixels, int32 [rows, columns]; blocks at the right and lower edge may be smaller.

    Args:
        factors: int32 [2], height and width of a block.
    """
    import tensorflow as tf

    sides = tf.shape(pixels)
    blocks = -(-sides // factors)
    padded = tf.pad(tf.cast(pixels, tf.int32), tf.stack([[0, 0], blocks * factors - sides], axis=1))
    sums = tf.reduce_sum(tf.reshape(padded, [blocks[0], factors[0], -1]), axis=1)
    sums = tf.reduce_sum(tf.reshape(sums, [blocks[0], blocks[1], factors[1]]), axis=2)
    rows, columns = (tf.minimum(factors[a], sides[a] - tf.range(blocks[a]) * factors[a]) for a in (0, 1))
    counts = rows[:, None] * columns
    # Reduce.c multiplies by a truncated reciprocal, computed in single precision.
    reciprocals = tf.cast(2.0**24 / tf.cast(counts, tf.float32), tf.int64)
    return tf.cast(tf.cast(sums + counts // 2, tf.int64) * reciprocals // (1 << 24), tf.int32)


def filter_weights(in_size: "tf.Tensor", extent: "tf.Tensor", out_size: "tf.Tensor") -> "tf.Tensor":
    """Weights of Pillow's triangle filter along one axis: float64 [out_size, in_size].

    As in Pillow, they are integers in units of 2**-WEIGHT_BITS. Sums of their products with grey levels stay below
    2**53, so float64 is exact.

    Args:
        extent: float32, number of input pixels that are resized; not whole if the last averaged block was smaller.
    """
    import tensorflow as tf

    scale = tf.cast(extent, tf.float64) / tf.cast(out_size, tf.float64)
    centres = (tf.cast(tf.range(out_size), tf.float64) + 0.5) * scale
    distances = tf.abs(tf.cast(tf.range(in_size), tf.float64) + 0.5 - centres[:, None])
    weights = tf.maximum(1 - distances / tf.maximum(scale, 1), 0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    return tf.floor(weights * 2.0**WEIGHT_BITS + 0.5)


def resample(pixels: "tf.Tensor", weights: "tf.Tensor", axes: str) -> "tf.Tensor":
    """Weighted sums along one axis, rounded and clipped to 0..255, as int32.

    Args:
        axes: the einsum of pixels [h, w] and weights.
    """
    import tensorflow as tf

    sums = tf.einsum(axes, tf.cast(pixels, tf.float64), weights)
    levels = tf.floor((sums + 2.0 ** (WEIGHT_BITS - 1)) / 2.0**WEIGHT_BITS)
    return tf.cast(tf.clip_by_value(levels, 0, 255), tf.int32)
