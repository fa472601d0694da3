"""Resize grey images of any shape to squares of one size."""

import numpy as np


def resize_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Fit uint8 [height, width] into [size, size]: antialiased, aspect ratio kept, centred on black if not square.

    Large reductions (a quarter or less) first average whole blocks down to at least twice the size, then filter with a
    triangle kernel: 0.23 grey levels from the triangle kernel alone, in six tenths of its time (docs/performance.md).
    """
    from PIL import Image

    height, width = pixels.shape
    if height == width == size:
        return pixels
    scale = size / max(height, width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))  # width, height
    resized = np.asarray(Image.fromarray(pixels).resize(inner, Image.Resampling.BILINEAR, reducing_gap=2.0))
    square = np.zeros((size, size), np.uint8)
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    square[top : top + inner[1], left : left + inner[0]] = resized
    return square
