"""What makes bytes unusable as an image."""

MAX_PIXELS = 64 << 20  # 8192 x 8192; a small file that declares more is an attack or a mistake
MIN_SIDE = 32  # pixels; less is an icon or a placeholder


class ImageError(ValueError):
    """These bytes are not a usable image; the text says why."""


def require_size(width: int, height: int) -> None:
    """Raise ImageError unless an image of this size is worth decoding."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"declares {width} x {height} pixels, over the limit of {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width} x {height} pixels, under {MIN_SIDE} a side")
