"""Bytes of a PNG or JPEG to the square that a model sees, in TensorFlow alone, to the last bit as a dataset is built.

`cxr.images` makes grey as Pillow does and resizes with Pillow; a network notices when the pixels of serving are
others than those of training. tf.image.resize differs from Pillow by some grey levels, so the integer arithmetic of
Pillow 13 is repeated here: libImaging/Convert.c, Reduce.c and Resample.c.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

LUMINANCE = (19595, 38470, 7471)  # ITU-R 601 over 2**16
WEIGHT_BITS = 22  # of Pillow's fixed-point filter weights
REDUCING_GAP = 2.0  # as in images.resize_square


def decode_squares(encoded: "tf.Tensor", size: int) -> "tf.Tensor":
    """uint8 [B, size, size, 1] of encoded images, string [B].

    An image that is not PNG or JPEG, or damaged, is an error of the whole batch, as of any TensorFlow graph.
    """
    import tensorflow as tf

    square = tf.TensorSpec([size, size, 1], tf.uint8)
    return tf.map_fn(lambda data: resize_square(decode_grey(data), size), encoded, fn_output_signature=square)


def resize_squares(pixels: "tf.Tensor", size: int) -> "tf.Tensor":
    """uint8 [B, size, size, 1] of pixels of one size, uint8 [B, height, width, 1]."""
    import tensorflow as tf

    square = tf.TensorSpec([size, size, 1], tf.uint8)
    return tf.map_fn(lambda image: resize_square(image[:, :, 0], size), pixels, fn_output_signature=square)


def decode_grey(data: "tf.Tensor") -> "tf.Tensor":
    """uint8 [height, width] of one PNG or JPEG: the graph's `cxr.images.decode.decode_grey`.

    As RGB whatever the file is: TensorFlow then drops alpha and the lower byte of 16 bits as `images` does, and makes
    grey into three equal channels, of which the luminance is that grey again.
    """
    import tensorflow as tf

    rgb = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # decodes PNG too
    weights = tf.constant(LUMINANCE, tf.float32)[:, None]  # sums stay below 2**24: exact in float32
    weighted = tf.matmul(tf.reshape(tf.cast(rgb, tf.float32), [-1, 3]), weights)
    levels = tf.floor((weighted + 2.0**15) / 2.0**16)
    return tf.cast(tf.reshape(levels, tf.shape(rgb)[:2]), tf.uint8)


def resize_square(pixels: "tf.Tensor", size: int) -> "tf.Tensor":
    """uint8 [size, size, 1] of uint8 [height, width]: the graph's `cxr.images.resize.resize_square`."""
    import tensorflow as tf

    sides = tf.cast(tf.shape(pixels), tf.float64)  # height, width
    inner = tf.round(sides * (size / tf.reduce_max(sides)))  # half to even, as Python rounds
    inner = tf.maximum(inner, 1)
    factors = tf.maximum(tf.floor(sides / inner / REDUCING_GAP), 1)
    reduced = average_blocks(pixels, tf.cast(factors, tf.int32))
    inner, extent = tf.cast(inner, tf.int32), tf.cast(sides / factors, tf.float32)
    taken = tf.shape(reduced)
    rows, columns = (filter_weights(taken[axis], extent[axis], inner[axis]) for axis in (0, 1))
    # Each pass is rounded, so their order shows. Resample.c starts with the columns, but with the rows where the height
    # shrinks by more than twice as many pixels as the width (since Pillow 13).
    shrinks = taken - inner
    resized = tf.cond(
        shrinks[0] > tf.maximum(2 * shrinks[1], 0),
        lambda: resample(resample(reduced, rows, "hw,uh->uw"), columns, "uw,vw->uv"),
        lambda: resample(resample(reduced, columns, "hw,vw->hv"), rows, "hv,uh->uv"),
    )
    before = (size - inner) // 2
    square = tf.pad(resized, tf.stack([before, size - inner - before], axis=1))
    return tf.cast(tf.ensure_shape(square, [size, size])[..., None], tf.uint8)


def average_blocks(pixels: "tf.Tensor", factors: "tf.Tensor") -> "tf.Tensor":
    """Means of whole blocks, those at the right and lower edge as small as they come: int32 [height, width].

    Args:
        factors: int32 [2], rows and columns of a block.
    """
    import tensorflow as tf

    sides = tf.shape(pixels)
    blocks = -(-sides // factors)
    padded = tf.pad(tf.cast(pixels, tf.int32), tf.stack([[0, 0], blocks * factors - sides], axis=1))
    sums = tf.reduce_sum(tf.reshape(padded, [blocks[0], factors[0], -1]), axis=1)
    sums = tf.reduce_sum(tf.reshape(sums, [blocks[0], blocks[1], factors[1]]), axis=2)
    rows, columns = (tf.minimum(factors[a], sides[a] - tf.range(blocks[a]) * factors[a]) for a in (0, 1))
    counts = rows[:, None] * columns
    # Reduce.c multiplies by a truncated reciprocal, which it takes in single precision.
    reciprocals = tf.cast(2.0**24 / tf.cast(counts, tf.float32), tf.int64)
    return tf.cast(tf.cast(sums + counts // 2, tf.int64) * reciprocals // (1 << 24), tf.int32)


def filter_weights(taken: "tf.Tensor", extent: "tf.Tensor", given: "tf.Tensor") -> "tf.Tensor":
    """Weights of a triangle over every pixel that is taken, for each that is given: float64 [given, taken].

    They are whole numbers of 2**-WEIGHT_BITS, as Pillow has them, and sums of their products with grey levels stay
    below 2**53: exact in float64.

    Args:
        extent: float32, how many pixels are to become `given`; of the last block of an average only a part may count.
    """
    import tensorflow as tf

    scale = tf.cast(extent, tf.float64) / tf.cast(given, tf.float64)
    centres = (tf.cast(tf.range(given), tf.float64) + 0.5) * scale
    distances = tf.abs(tf.cast(tf.range(taken), tf.float64) + 0.5 - centres[:, None])
    weights = tf.maximum(1 - distances / tf.maximum(scale, 1), 0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    return tf.floor(weights * 2.0**WEIGHT_BITS + 0.5)


def resample(pixels: "tf.Tensor", weights: "tf.Tensor", axes: str) -> "tf.Tensor":
    """Weighted sums along one axis, rounded and clipped to 0..255: int32."""
    import tensorflow as tf

    sums = tf.einsum(axes, tf.cast(pixels, tf.float64), weights)
    levels = tf.floor((sums + 2.0 ** (WEIGHT_BITS - 1)) / 2.0**WEIGHT_BITS)
    return tf.cast(tf.clip_by_value(levels, 0, 255), tf.int32)
