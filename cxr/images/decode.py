"""From the bytes of an image file, PNG, JPEG, WebP or DICOM, to grey pixels."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np

from cxr.images import dicom
from cxr.images.errors import ImageError, require_size

FORMATS = ("PNG", "JPEG", "WEBP")  # the formats that Pillow may decode, recognised by content and not by file name
PNG_START = b"\x89PNG\r\n\x1a\n"
FAST_MODES = {0: "mono", 2: "rgb", 6: "rgba"}  # colour type of an 8-bit PNG -> its name in kornia_rs

# A decoder's warning either does not change the pixels or is an ImageError here. The filter is set once per process:
# warnings.catch_warnings around a call changes the filters of all threads, and overlapping calls leave them changed.
warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")


def decode_grey(data: bytes) -> np.ndarray:
    """Decode PNG, JPEG, WebP or DICOM to uint8 [height, width].

    Colour becomes luminance (ITU-R 601). Transparency is dropped: the RGBA files of the release are grey and opaque.
    16-bit PNGs keep the high byte. An animation gives its first frame. `dicom.decode_dicom` describes DICOM.
    The checksums of a PNG reveal every changed bit. JPEG, WebP and DICOM have no checksums: there only damage that
    stops the decoder is noticed.

    Raises:
        ImageError: not an image, cut off, damaged, too large to be plausible, or smaller than 32 pixels per side.
        ImportError: it is DICOM, and requirements/dicom.txt is not installed.
    """
    if dicom.is_dicom(data):
        return dicom.decode_dicom(data)
    try:
        if data.startswith(PNG_START):
            return _decode_png(data)
        return _decode_with_pillow(data)
    except (ImageError, MemoryError, KeyboardInterrupt):  # too little memory is not a fault of the image
        raise
    except BaseException as error:  # a decoder may raise anything; a panic in Rust is not an Exception
        raise ImageError(f"broken image: {str(error) or type(error).__name__}") from error


def _decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG; the common kinds with kornia_rs, 2.5 times as fast as Pillow (docs/performance.md)."""
    if len(data) < 26 or data[12:16] != b"IHDR":
        raise ImageError(f"broken image: no PNG header ({len(data):,} bytes)")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    require_size(width, height)
    if depth != 8 or colour not in FAST_MODES:
        _require_intact_png(data)
        return _decode_with_pillow(data)
    import kornia_rs.io

    pixels = kornia_rs.io.decode_image_png_u8(data, (height, width), FAST_MODES[colour])
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    from PIL import Image

    return _to_grey(Image.fromarray(pixels))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of every chunk of a PNG up to IEND; the four bytes from `end` on are its checksum.

    Of a file that is cut off, the last `end` plus four lies behind the end of the file.
    """
    name, start = b"", len(PNG_START)
    while name != b"IEND" and start <= len(data):
        name = data[start + 4 : start + 8]
        end = start + 8 + int.from_bytes(data[start : start + 4])
        yield name, start, end
        start = end + 4


def _require_intact_png(data: bytes) -> None:
    """Raise ImageError unless every chunk is complete and matches its checksum: Pillow does not check pixel data."""
    for _, start, end in png_chunks(data):
        if len(data) < end + 4:
            raise ImageError(f"broken image: cut off inside the PNG chunk at byte {start:,}")
        if zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise ImageError(f"broken image: damaged PNG chunk at byte {start:,}")


def _decode_with_pillow(data: bytes) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            require_size(*image.size)
            return _to_grey(image)
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"not a PNG, JPEG, WebP or DICOM image ({_describe(data)})") from error


def _to_grey(image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit PNG
        return (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
    if image.mode != "L":
        image = image.convert("RGB").convert("L")  # RGB first: it drops alpha, "L" alone would blend it
    return np.array(image)


def _describe(data: bytes) -> str:
    """The size of unknown data and, if it is text, how it starts: often it is a web page."""
    text = data[:40].decode("ascii", "replace").split("\n")[0].strip()
    is_text = text and text.isascii() and text.isprintable()
    return f"{len(data):,} bytes, starting {text!r}" if is_text else f"{len(data):,} bytes"
