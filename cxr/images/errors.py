"""The error of an unusable image, and the limits of its size."""

MAX_PIXELS = 64 << 20  # 8192 x 8192; a file that declares more is an attack or damaged
MIN_SIDE = 32  # pixels; a smaller image is an icon or a placeholder


class ImageError(ValueError):
    """These bytes are not a usable image; the text says why."""


def require_size(width: int, height: int) -> None:
    """Raise ImageError if an image of this size must not be decoded."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"declares {width} x {height} pixels, over the limit of {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width} x {height} pixels, under {MIN_SIDE} a side")
