"""Checks on image files with changed bytes."""

import numpy as np

from cxr.images.decode import decode_grey
from cxr.images.errors import ImageError


def assert_pixels_or_image_error(data: bytes, changes: list[tuple[int, int]]) -> None:
    """Decode a file after changes of (place, new byte); places beyond its end wrap around."""
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        pixels = decode_grey(bytes(damaged))
    except ImageError:
        return
    assert (pixels.dtype, pixels.ndim) == (np.uint8, 2)
