"""From the bytes of an image file to grey pixels of one size, and back to the bytes that a record keeps."""

import io
import warnings

import numpy as np

FORMATS = ("PNG", "JPEG", "WEBP")  # by content; the ending of the name is not believed
MAX_PIXELS = 64 << 20  # 8192 x 8192; a small file that declares more is an attack or a mistake
MIN_SIDE = 32  # pixels; less is an icon or a placeholder
ENCODINGS = ("png", "jpeg", "raw")


class ImageError(ValueError):
    """These bytes are not a usable image; the text says why."""


def decode_grey(data: bytes) -> np.ndarray:
    """Decode PNG, JPEG or WebP to uint8 [height, width].

    Colour becomes luminance (ITU-R 601), transparency is dropped (the RGBA files of the release are grey and opaque),
    16 bits become 8 by their high byte, of an animation the first frame is taken.

    Raises:
        ImageError: not an image, cut off, too large to be honest, or smaller than 32 pixels a side.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"declares {width} x {height} pixels, over the limit of {MAX_PIXELS:,}")
            if min(width, height) < MIN_SIDE:
                raise ImageError(f"{width} x {height} pixels, under {MIN_SIDE} a side")
            return _to_grey(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"not a PNG, JPEG or WebP image ({_describe(data)})") from error
    except Exception as error:  # a decoder fed with anything may raise anything; one bad image never stops a build
        raise ImageError(f"broken image: {error or type(error).__name__}") from error


def _to_grey(image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit PNG
        return (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
    if image.mode != "L":
        image = image.convert("RGB").convert("L")  # by way of RGB, which drops alpha instead of blending it
    return np.array(image)


def _describe(data: bytes) -> str:
    start = data[:40]
    text = start.decode("ascii", "replace").split("\n")[0].strip()
    return (
        f"{len(data):,} bytes, starting {text!r}"
        if text and text.isascii() and text.isprintable()
        else f"{len(data):,} bytes"
    )


def resize_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Fit uint8 [height, width] into [size, size]: antialiased, aspect kept, centred on black where not square."""
    from PIL import Image

    height, width = pixels.shape
    if height == width == size:
        return pixels
    scale = size / max(height, width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))  # width, height
    resized = np.asarray(Image.fromarray(pixels).resize(inner, Image.Resampling.BILINEAR))
    square = np.zeros((size, size), np.uint8)
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    square[top : top + inner[1], left : left + inner[0]] = resized
    return square


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """Encode uint8 [size, size] as "png" (lossless), "jpeg" (quality 95) or "raw" (the pixels, row by row)."""
    if encoding == "raw":
        return pixels.tobytes()
    import cv2

    if encoding == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    else:  # of what every reader understands, what TensorFlow decodes fastest: see bench/png.py
        options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
        options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    return cv2.imencode(f".{encoding}", pixels, options)[1].tobytes()


def stored_pixels(pixels: np.ndarray, encoded: bytes, encoding: str) -> np.ndarray:
    """The pixels that a reader of `encoded` will see: those of a JPEG differ a little from what went in."""
    return decode_grey(encoded) if encoding == "jpeg" else pixels
