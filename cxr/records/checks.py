"""Read one shard of a finished dataset again: its frames, CRCs, hash and records. The worker's side of `verify`."""

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

# Grey levels: float32 rounds a mean by 1e-5; TensorFlow's default JPEG transform moves it by 0.3 to 0.5.
TOLERANCE = 1e-3
STARTS = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "raw": b""}  # of the bytes of an image


@dataclasses.dataclass(frozen=True)
class ShardCheck:
    """What dataset.json says of one shard; small and picklable."""

    path: str
    split: str
    images: int
    bytes: int
    sha256: str
    kind: str  # "images" or "features"
    encoding: str | None  # of images
    size: int  # of what a record holds: pixels a side, or how many features


class Contents(NamedTuple):
    """What a shard was found to hold."""

    file: str
    split: str
    bytes: int
    rows: list[ImageRow]  # in their order, up to the first damage
    faults: list[str]  # one line each


def check_shard(check: ShardCheck) -> Contents:
    """Read one shard through, once. What is wrong is returned, never raised: the next shard is to be read as well."""
    path, digest, size, rows, faults = epath.Path(check.path), hashlib.sha256(), 0, [], []
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
        has = {"bytes": size, "images": len(rows), "sha256": digest.hexdigest()}
        said = {name: getattr(check, name) for name in has}
        faults += [
            f"{path.name} has {name} {has[name]}, expected {said[name]}" for name in has if has[name] != said[name]
        ]
    return Contents(path.name, check.split, size, rows, faults)


def read_row(record: bytes, check: ShardCheck, *, with_pixels: bool = False) -> tuple[ImageRow | None, str | None]:
    """(the row of a record, None if there is none; what is wrong with the record, None if nothing).

    Args:
        with_pixels: decode the image as well and compare it with its mean and standard deviation.
    """
    from google.protobuf.message import DecodeError

    try:
        feature = example.features_of(record)
        row = example.row_of(feature)
        fault = payload_fault(feature, check)
        if with_pixels and fault is None and check.kind == "images":
            fault = pixel_fault(feature, check)
    except (DecodeError, IndexError, UnicodeDecodeError) as error:
        return None, f"is no record of a dataset of {check.kind}: {error}"
    if len(row.labels) != len(FINDINGS) or not set(row.labels) <= {0, 1}:
        return None, f"({row.image_id}) has labels {row.labels}, expected {len(FINDINGS)} times 0 or 1"
    return row, fault and f"({row.image_id}) {fault}"


def payload_fault(feature, check: ShardCheck) -> str | None:
    """What is wrong with the bytes of an image, or with its features; None if nothing. IndexError without any."""
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
    return None if encoded and encoded.startswith(STARTS[encoding]) else f"holds no {encoding} image"


def pixel_fault(feature, check: ShardCheck) -> str | None:
    """Where the decoded pixels of an image are not of the size, mean or stddev recorded; None if they are.

    It sees what no hash can: that this machine decodes an image to other pixels than the one that built the dataset.
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
    for name, has, recorded in zip(
        ("mean", "stddev"), (pixels.mean(), pixels.std()), example.statistics_of(feature), strict=True
    ):
        if not abs(has - recorded) <= TOLERANCE:  # so that nan is a fault
            return f"has pixels of {name} {has:.3f}, expected the recorded {recorded:.3f}"
    return None
