"""Read one image file: its pixels, the patient inputs, and warnings where it is unlike a chest radiograph."""

import io
from typing import NamedTuple

import numpy as np

from cxr.evaluation.boxes import Placement
from cxr.images import dicom
from cxr.images.appearance import appearance_of
from cxr.images.decode import FORMATS, PNG_START, decode_grey, png_chunks
from cxr.images.dicom_header import Header, read_header
from cxr.images.resize import resize_square
from cxr.patient import Patient

MIN_DEVIATION = 3.0  # grey levels; the standard deviation of a chest radiograph is 40 to 80
MAX_COLOUR = 4.0  # grey levels: mean difference between the channels of a pixel; JPEG gives grey images up to 2
MAX_ASPECT = 1.5  # longer side over shorter; chest radiographs have 1 to 1.25
EXIF_ORIENTATION = 0x0112  # tag number; the value 1 means upright
PNG_ORIENTATION = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}  # the chunks that can hold it
ROTATED = "stored rotated or mirrored: its EXIF orientation is ignored, so save it upright"
COLOUR_SIDE = 256  # pixels; images are reduced to about this size before the test for colour


class Picture(NamedTuple):
    """One image, decoded and resized."""

    pixels: np.ndarray  # uint8 [height, width], as in the file
    square: np.ndarray  # uint8 [size, size], the input of the model
    patient: Patient
    warnings: tuple[str, ...]  # how the image differs from a frontal chest radiograph
    fails_check: bool  # one of the warnings alone makes it out of distribution: see `disqualifying`
    appearance: np.ndarray  # float64 [73], see `appearance_of`


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
        failed, notes = header.oddities(), []
    else:
        header = Header()
        failed = ["a colour image, expected a grey radiograph"] if has_colour(data) else []
        notes = [ROTATED] if is_rotated(data) else []
    failed += disqualifying(pixels)
    height, width = pixels.shape
    if max(height, width) < image_size:
        notes.append(f"only {width} x {height} pixels; the model's input is {image_size} x {image_size}")
    known = patient.or_else(Patient(header.age, header.sex, header.view_position))
    square = resize_square(pixels, image_size)
    appearance = appearance_of(without_margins(square, height, width))
    return Picture(pixels, square, known, (*failed, *notes), bool(failed), appearance)


def disqualifying(pixels: np.ndarray) -> list[str]:
    """Reasons why uint8 [height, width] pixels are not a frontal chest radiograph, whatever the distance says.

    So are colour and a DICOM header of another modality, body part or view position. A small image and an EXIF
    orientation are worth a warning, but such an image can be a chest radiograph: there the distance decides.
    """
    import cv2

    height, width = pixels.shape
    reasons = []
    if max(height, width) > MAX_ASPECT * min(height, width):
        reasons.append(f"{width} x {height} pixels, far from square")
    deviation = cv2.meanStdDev(pixels)[1].item()  # pixels.std() takes 490 MB and 3 s for the largest images
    if deviation < MIN_DEVIATION:
        reasons.append(f"blank or nearly so: the standard deviation of its grey values is {deviation:.1f}")
    return reasons


def without_margins(square: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut off the black margins that `resize_square` added to an image of this height and width."""
    placement = Placement(width, height, len(square))
    left, top = placement.corner
    inner_width, inner_height = placement.inner
    return square[top : top + inner_height, left : left + inner_width]


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

    # A PNG may hold it after its pixels, so Pillow would decode every PNG here, which takes longer than `decode_grey`.
    if data.startswith(PNG_START) and PNG_ORIENTATION.isdisjoint(name for name, _, _ in png_chunks(data)):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF data; the pixels have been decoded before
        return False
