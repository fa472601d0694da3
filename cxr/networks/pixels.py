"""From the stored pixels of a record to a network's input: crop, resize, standardise. Any Keras backend."""

import math


def crop_start(size: int, crop_size: int) -> int:
    """The first row, and the first column, of the centre crop of an image with `size` pixels per side."""
    if crop_size > size:
        raise ValueError(
            f"crop_size {crop_size} is larger than the records, which have {size} pixels per side; "
            f"lower it, or use records with an --image_size of at least {crop_size}"
        )
    return (size - crop_size) // 2


def centre_crop(images, crop_size: int | None):
    """The centre of images [B, S, S, 1], tensors of any backend or NumPy arrays; None returns them whole."""
    if crop_size is None:
        return images
    start = crop_start(images.shape[1], crop_size)
    return images[:, start : start + crop_size, start : start + crop_size]


def resize(pixels, size: int):
    """Float pixels [B, S, S, 1] resized to `size` pixels per side, bilinear with antialiasing."""
    from keras import layers

    if pixels.shape[1] == size:
        return pixels
    return layers.Resizing(size, size, antialias=True, dtype="float32")(pixels)


def standardize(pixels):
    """(x - mean) / max(stddev, 1 / sqrt(N)) over the N values of each image of float [B, H, W, C].

    The same as tf.image.per_image_standardization. A blank image becomes zeros; nothing is divided by zero.
    """
    from keras import ops

    centred = pixels - ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
    variance = ops.mean(ops.square(centred), axis=(1, 2, 3), keepdims=True)
    return centred / ops.maximum(ops.sqrt(variance), 1 / math.sqrt(math.prod(pixels.shape[1:])))
