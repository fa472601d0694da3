"""Read one image file: its pixels, the patient inputs, and warnings where it is unlike a chest radiograph."""

import io
from typing import NamedTuple

import numpy as np

from cxr.images import dicom
from cxr.images.decode import FORMATS, decode_grey
from cxr.images.dicom_header import Header, read_header
from cxr.images.resize import resize_square
from cxr.patient import Patient

MIN_DEVIATION = 3.0  # grey levels; the standard deviation of a chest radiograph is 40 to 80
MAX_COLOUR = 4.0  # grey levels: mean difference between the channels of a pixel; JPEG gives grey images up to 2
MAX_ASPECT = 1.5  # longer side over shorter; chest radiographs have 1 to 1.25
EXIF_ORIENTATION = 0x0112  # tag number; the value 1 means upright
COLOUR_SIDE = 256  # pixels; images are reduced to about this size before the test for colour


class Picture(NamedTuple):
    """One image, decoded and resized."""

    pixels: np.ndarray  # uint8 [height, width], as in the file
    square: np.ndarray  # uint8 [size, size], the input of the model
    patient: Patient
    warnings: tuple[str, ...]  # how the image differs from a frontal chest radiograph


def read_picture(data: bytes, image_size: int, patient: Patient) -> Picture:
    """Read PNG, JPEG, WebP or DICOM exactly as build_dataset.py does.

    Args:
        image_size: side of the model's input in pixels.
        patient: known patient inputs; a DICOM header fills in only what is unknown here.

    Raises:
        ImageError: see `decode_grey`.
        ImportError: the file is DICOM and requirements/dicom.txt is not installed.
    """
    pixels = decode_grey(data)
    if dicom.is_dicom(data):
        header = read_header(data)
        warnings = [*header.oddities(), *warnings_about(pixels, image_size)]
    else:
        header = Header()
        warnings = [*warnings_about(pixels, image_size), *warnings_about_file(data)]
    known = patient.or_else(Patient(header.age, header.sex, header.view_position))
    return Picture(pixels, resize_square(pixels, image_size), known, tuple(warnings))


def warnings_about(pixels: np.ndarray, image_size: int) -> list[str]:
    """Say how uint8 [height, width] pixels differ from the chest radiographs that a model was trained on."""
    import cv2

    height, width = pixels.shape
    warnings = []
    if max(height, width) < image_size:
        warnings.append(f"only {width} x {height} pixels; the model's input is {image_size} x {image_size}")
    if max(height, width) > MAX_ASPECT * min(height, width):
        warnings.append(f"{width} x {height} pixels, far from square")
    deviation = cv2.meanStdDev(pixels)[1].item()  # pixels.std() takes 490 MB and 3 s for the largest images
    if deviation < MIN_DEVIATION:
        warnings.append(f"blank or nearly so: the standard deviation of its grey values is {deviation:.1f}")
    return warnings


def warnings_about_file(data: bytes) -> list[str]:
    """Say what is unusual in a PNG, JPEG or WebP file that `decode_grey` has decoded: colour and EXIF orientation."""
    warnings = []
    if has_colour(data):
        warnings.append("a colour image, expected a grey radiograph")
    if is_rotated(data):
        warnings.append("stored rotated or mirrored: its EXIF orientation is ignored, so save it upright")
    return warnings


def has_colour(data: bytes) -> bool:
    """Whether the pixels of a PNG, JPEG or WebP file have colour; a grey image stored as RGB has none."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
            return False
        image.draft("RGB", (COLOUR_SIDE, COLOUR_SIDE))  # a JPEG is decoded no larger than needed
        rgb = image.convert("RGB").reduce(max(1, min(image.size) // COLOUR_SIDE))
    channels = np.asarray(rgb).astype(np.int16)
    return float((channels.max(axis=2) - channels.min(axis=2)).mean()) > MAX_COLOUR


def is_rotated(data: bytes) -> bool:
    """Whether the EXIF orientation asks a viewer to rotate or mirror the image, as in photographs by a phone."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF data; the pixels have been decoded before
        return False
