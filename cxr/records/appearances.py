"""Read how the images of a split look: see `images.appearance`."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from cxr.images.appearance import LENGTH, appearance_of
from cxr.images.decode import decode_grey
from cxr.records import example
from cxr.records.dataset import Dataset

LIMIT = 4096  # images of a split, its first: records are in random order. All 8,991 of a train split measured no better


def read_appearances(images: Dataset, split: str) -> np.ndarray:
    """Appearances float64 [n, 73] of the first LIMIT images of a split; repeated calls read the records once."""
    return _read_once(tuple(images.paths(split)), images.info["fingerprint"], images.info["image_size"])


@functools.lru_cache(maxsize=2)  # train and val of one dataset; a rebuilt one has another fingerprint
def _read_once(paths: tuple[str, ...], fingerprint: str, size: int) -> np.ndarray:
    found = [appearance_of(pixels) for pixels in _read(paths, size)]
    return np.array(found, np.float64).reshape(-1, LENGTH)


def read_pixels(images: Dataset, split: str) -> Iterator[np.ndarray]:
    """The first LIMIT images of a split, uint8 [size, size] each."""
    return _read(tuple(images.paths(split)), images.info["image_size"])


def _read(paths: tuple[str, ...], size: int) -> Iterator[np.ndarray]:
    records = itertools.chain.from_iterable(map(example.read_records, paths))
    return (_pixels(record, size) for record in itertools.islice(records, LIMIT))


def _pixels(record: bytes, size: int) -> np.ndarray:
    """The pixels of a record, uint8 [size, size]."""
    feature = example.features_of(record)
    encoded = feature["image/encoded"].bytes_list.value[0]
    if feature["image/format"].bytes_list.value[0] == b"raw":
        return np.frombuffer(encoded, np.uint8).reshape(size, size)
    return decode_grey(encoded)
