"""One image as somebody hands it in: its pixels, who is on it, and whether it looks like a chest radiograph."""

import io
from typing import NamedTuple

import numpy as np

from cxr.images import dicom
from cxr.images.decode import FORMATS, decode_grey
from cxr.images.dicom_header import Header, read_header
from cxr.images.resize import resize_square
from cxr.patient import Patient

BLANK = 3.0  # grey levels: standard deviation of an image without content; chest radiographs have 40 to 80
COLOUR = 4.0  # grey levels by which the channels of a pixel differ on average; JPEG makes up to 2 of grey
OBLONG = 1.5  # longer side over shorter; plates for chests have 1 to 1.25
ORIENTATION = 0x0112  # EXIF tag; 1 is as stored
COLOUR_SIDE = 256  # pixels; colour is looked for in no more than that


class Picture(NamedTuple):
    """One image, read."""

    pixels: np.ndarray  # uint8 [height, width], of the file
    square: np.ndarray  # uint8 [size, size], as the model sees it
    patient: Patient
    warnings: tuple[str, ...]  # how it is unlike a frontal chest radiograph


def read_picture(data: bytes, image_size: int, patient: Patient) -> Picture:
    """Read PNG, JPEG, WebP or DICOM exactly as a dataset is built.

    Args:
        image_size: pixels a side that the model sees.
        patient: what is known besides; it goes before what a DICOM header says.

    Raises:
        ImageError: see `decode_grey`.
        ImportError: it is DICOM, and requirements/dicom.txt is not installed.
    """
    pixels = decode_grey(data)
    header = read_header(data) if dicom.is_dicom(data) else Header()
    odd = [*header.oddities(), *oddities(pixels, image_size)]
    if not dicom.is_dicom(data) and has_colour(data):
        odd.append("in colour, expected a grey radiograph")
    if not dicom.is_dicom(data) and is_turned(data):
        odd.append("lies on its side or head as stored: its EXIF orientation is not followed, save it upright")
    square = resize_square(pixels, image_size)
    return Picture(pixels, square, patient.or_else(Patient(header.age, header.sex, header.view_position)), tuple(odd))


def oddities(pixels: np.ndarray, image_size: int) -> list[str]:
    """How uint8 [height, width] is unlike a chest radiograph that a model of this image size was trained on."""
    import cv2

    height, width = pixels.shape
    found = []
    if max(height, width) < image_size:
        found.append(f"{width} x {height} pixels, fewer than the {image_size} a side that the model sees")
    if max(height, width) > OBLONG * min(height, width):
        found.append(f"{width} x {height} pixels, far from square")
    deviation = cv2.meanStdDev(pixels)[1].item()  # as pixels.std(), which takes 490 MB and 3 s at MAX_PIXELS
    if deviation < BLANK:
        found.append(f"blank: its grey values have a standard deviation of {deviation:.1f}")
    return found


def has_colour(data: bytes) -> bool:
    """Whether a PNG, JPEG or WebP that `decode_grey` has decoded is more than grey."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
            return False
        image.draft("RGB", (COLOUR_SIDE, COLOUR_SIDE))  # a JPEG is decoded no larger than needed
        rgb = image.convert("RGB").reduce(max(1, min(image.size) // COLOUR_SIDE))
    channels = np.asarray(rgb).astype(np.int16)
    return float((channels.max(axis=2) - channels.min(axis=2)).mean()) > COLOUR


def is_turned(data: bytes) -> bool:
    """Whether the EXIF tag of a PNG, JPEG or WebP asks a viewer to turn or mirror it; telephones write such files."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # the pixels are whole, see `has_colour`; only the tags are broken
        return False
