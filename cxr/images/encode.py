"""Encode the pixels of an image for a record."""

import numpy as np

from cxr.images.decode import decode_grey

ENCODINGS = ("png", "jpeg", "raw")


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """Encode uint8 [size, size] as "png" (lossless), "jpeg" (quality 95) or "raw" (the pixels, row by row)."""
    if encoding == "raw":
        return pixels.tobytes()
    import cv2

    if encoding == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    else:  # the options that TensorFlow decodes fastest (docs/performance.md); every PNG reader supports them
        options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
        options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    return cv2.imencode(f".{encoding}", pixels, options)[1].tobytes()


def stored_pixels(pixels: np.ndarray, encoded: bytes, encoding: str) -> np.ndarray:
    """The pixels that a reader of `encoded` gets: those of a JPEG differ a little from the original."""
    return decode_grey(encoded) if encoding == "jpeg" else pixels
