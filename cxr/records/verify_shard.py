"""Verify one shard of a finished dataset: its framing, CRCs, hash and records. `verify` runs this in workers."""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np
from etils import epath

from cxr.findings import FINDINGS
from cxr.images.decode import decode_grey
from cxr.images.errors import ImageError
from cxr.records import example
from cxr.release.entries import ImageRow

# Grey levels. Rounding to float32 changes a mean by 1e-5, TensorFlow's default JPEG transform by 0.3 to 0.5.
TOLERANCE = 1e-3
STARTS = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "raw": b""}  # first bytes of an encoded image


@dataclasses.dataclass(frozen=True)
class ShardCheck:
    """The entry of one shard in dataset.json; small and picklable."""

    path: str
    split: str
    images: int
    bytes: int
    sha256: str
    kind: str  # "images" or "features"
    encoding: str | None  # None for features
    size: int  # of a record: pixels per side, or the number of features


class ShardContents(NamedTuple):
    """The rows of a shard and its faults."""

    file: str
    split: str
    bytes: int
    rows: list[ImageRow]  # in order, up to the first damaged record
    faults: list[str]  # one line each


def check_shard(check: ShardCheck) -> ShardContents:
    """Read one shard once and return its faults. Nothing is raised, so that the other shards are read as well."""
    path = epath.Path(check.path)
    digest = hashlib.sha256()
    size = 0
    rows, faults = [], []
    try:
        size = path.stat().length
        for number, record in enumerate(example.read_records(path, digest)):
            row, fault = read_row(record, check, with_pixels=number == 0)
            rows += [row] if row else []
            faults += [f"{path.name} record {number} {fault}"] if fault else []
    except example.CorruptRecordError as error:
        faults.append(str(error).split(". Run")[0].replace(check.path, path.name))
    except FileNotFoundError:
        faults.append(f"{path.name} is absent, expected {check.bytes:,} bytes")
    except OSError as error:
        faults.append(f"{path.name} cannot be read: {error}")
    else:
        actual = {"bytes": size, "images": len(rows), "sha256": digest.hexdigest()}
        for name, value in actual.items():
            expected = getattr(check, name)
            if value != expected:
                faults.append(f"{path.name} has {name} {value}, expected {expected}")
    return ShardContents(path.name, check.split, size, rows, faults)


def read_row(record: bytes, check: ShardCheck, *, with_pixels: bool = False) -> tuple[ImageRow | None, str | None]:
    """(row, fault) of a record; each is None if there is none.

    Args:
        with_pixels: also decode the image and compare it with its mean and standard deviation.
    """
    from google.protobuf.message import DecodeError

    try:
        feature = example.features_of(record)
        row = example.row_of(feature)
        fault = payload_fault(feature, check)
        if with_pixels and fault is None and check.kind == "images":
            fault = pixel_fault(feature, check)
    except (DecodeError, IndexError, UnicodeDecodeError) as error:
        return None, f"is not a record of a dataset of {check.kind}: {error}"
    if len(row.labels) != len(FINDINGS) or not set(row.labels) <= {0, 1}:
        return None, f"({row.image_id}) has labels {row.labels}, expected {len(FINDINGS)} times 0 or 1"
    return row, fault and f"({row.image_id}) {fault}"


def payload_fault(feature, check: ShardCheck) -> str | None:
    """The fault of the encoded image or of the features, None if there is none. IndexError if they are absent."""
    if check.kind == "features":
        found = len(feature["features"].bytes_list.value[0]) / 2  # float16
        return None if found == check.size else f"has {found:g} features, expected {check.size}"
    encoding = feature["image/format"].bytes_list.value[0].decode()
    if encoding != check.encoding:
        return f"is stored as {encoding!r}, expected {check.encoding!r}"
    if not (feature["image/mean"].float_list.value and feature["image/stddev"].float_list.value):
        return "has no mean or no stddev"
    encoded = feature["image/encoded"].bytes_list.value[0]
    if encoding == "raw" and len(encoded) != check.size**2:
        return f"has {len(encoded):,} pixels, expected {check.size**2:,}"
    return None if encoded and encoded.startswith(STARTS[encoding]) else f"does not contain a {encoding} image"


def pixel_fault(feature, check: ShardCheck) -> str | None:
    """The fault if the decoded pixels differ from the recorded size, mean or stddev; None if they agree.

    A hash cannot reveal that this machine decodes an image to other pixels than the machine of the build.
    """
    encoded = feature["image/encoded"].bytes_list.value[0]
    try:
        pixels = (
            np.frombuffer(encoded, np.uint8).reshape(check.size, check.size)
            if check.encoding == "raw"
            else decode_grey(encoded)
        )
    except ImageError as error:
        return f"cannot be decoded: {error}"
    if pixels.shape != (check.size, check.size):
        height, width = pixels.shape
        return f"has {width} x {height} pixels, expected {check.size} x {check.size}"
    actual = {"mean": pixels.mean(), "stddev": pixels.std()}
    for (name, value), recorded in zip(actual.items(), example.statistics_of(feature), strict=True):
        if not abs(value - recorded) <= TOLERANCE:  # a comparison with NaN is False, so NaN is a fault
            return f"has pixels of {name} {value:.3f}, expected the recorded {recorded:.3f}"
    return None
