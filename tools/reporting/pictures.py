"""Images of records and of tools/localize.py, small enough for a page."""

import numpy as np

from cxr.images.decode import decode_grey
from cxr.records import example
from cxr.records.dataset import Dataset
from tools.reporting.figures import uri_of

SIDE = 192  # pixels on the longer side, at most
QUALITY = 85  # of JPEG; about 5 kB per image


def picture_uri(pixels: np.ndarray, side: int = SIDE) -> str:
    """Pixels uint8 [height, width] or RGB [height, width, 3] as a data: URI of at most `side` pixels per side."""
    import cv2

    scale = side / max(pixels.shape[:2])
    if scale < 1:
        size = [max(1, round(length * scale)) for length in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]  # OpenCV writes BGR
    return uri_of(cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes(), "image/jpeg")


def record_uri(feature, info: dict) -> str:
    """The image of a record as a data: URI.

    Args:
        info: dataset.json of an image dataset.
    """
    encoded = feature["image/encoded"].bytes_list.value[0]
    if info["encoding"] == "raw":
        return picture_uri(np.frombuffer(encoded, np.uint8).reshape(info["image_size"], info["image_size"]))
    return picture_uri(decode_grey(encoded))


def pictures_of(dataset: Dataset, split: str, image_ids: set[str]) -> dict[str, str]:
    """The images of a split with these ids, as data: URIs by id."""
    found = {}
    for path in dataset.paths(split) if image_ids else ():
        for record in example.read_records(path):
            feature = example.features_of(record)
            image_id = example.row_of(feature).image_id
            if image_id in image_ids:
                found[image_id] = record_uri(feature, dataset.info)
    return found


def overlay_uri(data: bytes) -> str:
    """A PNG of tools/localize.py as a smaller JPEG."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return picture_uri(pixels[..., ::-1], side=900)
