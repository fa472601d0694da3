"""A shard is the unit of work: planned here, written whole by any worker, described by its report.

The bytes of a shard depend on the images, their rows, the seed and the options; not on the container, the worker, the
engine, or how often the build was interrupted.
"""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np
from etils import epath

from cxr import storage
from cxr.findings import FINDINGS
from cxr.images.decode import decode_grey
from cxr.images.encode import encode, stored_pixels
from cxr.images.errors import ImageError
from cxr.images.resize import resize_square
from cxr.records import example
from cxr.records.splits import SPLITS, unit_hash
from cxr.release.entries import ImageRow
from cxr.release.locations import Location, digest_of, read_bytes

FORMAT_VERSION = 2  # 2: the key view_position


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """What a worker needs to write one shard; small and picklable."""

    path: str
    split: str
    rows: list[ImageRow]
    locations: list[Location]
    image_size: int  # pixels, square
    encoding: str  # "png", "jpeg" or "raw"

    def relocated(self, moved: dict[str, Location]) -> "ShardJob":
        """The same job, for images that moved, by their id."""
        places = [moved.get(row.image_id, place) for row, place in zip(self.rows, self.locations, strict=True)]
        return dataclasses.replace(self, locations=places)


class Rejected(NamedTuple):
    """An image that could not be read, and why."""

    image_id: str
    reason: str
    digest: str = ""  # SHA-256 of its bytes, by which a later build sees that it has been mended


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What a finished shard holds."""

    file: str
    split: str
    images: int
    bytes: int
    sha256: str
    patient_ids: list[int]
    positives: list[int]  # per finding, in FINDINGS order
    rejected: list[Rejected]
    witness: str = ""  # SHA-256 of the bytes that its first image came in; "" of features

    @classmethod
    def from_json(cls, value: dict) -> "ShardReport":
        """Rebuild a report from its JSON form."""
        return cls(**{**value, "rejected": [Rejected(*pair) for pair in value["rejected"]]})


def plan_shards(
    splits: dict[str, list[ImageRow]],
    locations: dict[str, Location],
    output_dir: epath.Path,
    *,
    seed: int,
    shard_size: int,
    image_size: int,
    encoding: str,
) -> list[ShardJob]:
    """Cut every split into shards of at most `shard_size` images, equal to within one image.

    Records inside a split are in one seeded permutation, so a short shuffle buffer mixes them well in training.
    """
    jobs = []
    for split in SPLITS:
        rows = sorted(splits[split], key=lambda row: unit_hash(seed, "order", row.image_id))
        count = -(-len(rows) // shard_size)
        for index in range(count):
            part = rows[len(rows) * index // count : len(rows) * (index + 1) // count]
            path = output_dir / f"{split}-{index:05d}-of-{count:05d}.tfrecord"
            places = [locations[row.image_id] for row in part]
            jobs.append(ShardJob(str(path), split, part, places, image_size, encoding))
    return jobs


def plan_digest(jobs: list[ShardJob]) -> str:
    """SHA-256 over everything that decides the bytes of a dataset, but the images' own bytes."""
    digest = hashlib.sha256()
    for job in jobs:
        name = epath.Path(job.path).name
        digest.update(repr((FORMAT_VERSION, name, job.image_size, job.encoding, job.rows)).encode())
    return digest.hexdigest()


def write_shard(job: ShardJob) -> ShardReport:
    """Decode, resize, encode and write the images of one shard; what cannot be read is reported, not raised.

    Raises:
        OSError: the disk is full, the folder read-only, or an image vanished since the plan was made.
    """
    import cv2

    rejected, written = [], []
    with storage.whole_file(job.path) as file:
        for row, location in zip(job.rows, job.locations, strict=True):
            try:
                pixels = decode_grey(read_bytes(location))
            except ImageError as error:
                rejected.append(Rejected(row.image_id, str(error), digest_of(location)))
                continue
            pixels = resize_square(pixels, job.image_size)
            encoded = encode(pixels, job.encoding)
            stored = stored_pixels(pixels, encoded, job.encoding)
            mean, stddev = (float(value[0, 0]) for value in cv2.meanStdDev(stored))
            example.write_record(
                file, example.pack_image(row, encoded, encoding=job.encoding, mean=mean, stddev=stddev)
            )
            written.append(row)
    return report(job.path, job.split, written, rejected)


def report(path: str, split: str, written: list[ImageRow], rejected: list[Rejected]) -> ShardReport:
    """Describe a shard that has just been written."""
    file = epath.Path(path)
    positives = np.array([row.labels for row in written], int).reshape(-1, len(FINDINGS)).sum(axis=0)
    return ShardReport(
        file=file.name,
        split=split,
        images=len(written),
        bytes=file.stat().length,
        sha256=storage.sha256_of(file),
        patient_ids=sorted({row.patient_id for row in written}),
        positives=positives.tolist(),
        rejected=rejected,
    )
