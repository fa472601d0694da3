"""A shard is the unit of work: planned here, written by any worker, described by its report.

The bytes of a shard depend only on the images, their rows, the seed and the options. They do not depend on the
containers of the images, the worker, the engine, or on interruptions of the build.
"""

import dataclasses
import hashlib
from collections import Counter
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

FORMAT_VERSION = 2  # 2: the keys view_position and group


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """The small, picklable input of a worker that writes one shard."""

    path: str
    split: str
    rows: list[ImageRow]
    locations: list[Location]
    image_size: int  # pixels, square
    encoding: str  # "png", "jpeg" or "raw"

    def relocated(self, moved: dict[str, Location]) -> "ShardJob":
        """The same job with new locations for some images, given by image id."""
        locations = [moved.get(row.image_id, old) for row, old in zip(self.rows, self.locations, strict=True)]
        return dataclasses.replace(self, locations=locations)


class Rejected(NamedTuple):
    """An unreadable image and the reason."""

    image_id: str
    reason: str
    digest: str = ""  # SHA-256 of its bytes, by which a later build notices that the file was replaced


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """The contents of a finished shard."""

    file: str
    split: str
    images: int
    bytes: int
    sha256: str
    patient_ids: list[int]
    positives: list[int]  # per finding, in FINDINGS order
    rejected: list[Rejected]
    first_image_sha256: str = ""  # of the original bytes; "" for features
    groups: dict[str, int] = dataclasses.field(default_factory=dict)  # images by group; those without one are left out

    @classmethod
    def from_json(cls, value: dict) -> "ShardReport":
        """Rebuild a report from its JSON form."""
        return cls(**{**value, "rejected": [Rejected(*fields) for fields in value["rejected"]]})


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
    """Cut every split into shards of at most `shard_size` images, whose sizes differ by at most one.

    The records of a split are in a seeded random order, so a small shuffle buffer is enough in training.
    """
    jobs = []
    for split in SPLITS:
        rows = sorted(splits[split], key=lambda row: unit_hash(seed, "order", row.image_id))
        count = -(-len(rows) // shard_size)
        for index in range(count):
            part = rows[len(rows) * index // count : len(rows) * (index + 1) // count]
            path = output_dir / f"{split}-{index:05d}-of-{count:05d}.tfrecord"
            part_locations = [locations[row.image_id] for row in part]
            jobs.append(ShardJob(str(path), split, part, part_locations, image_size, encoding))
    return jobs


def plan_digest(jobs: list[ShardJob]) -> str:
    """SHA-256 over everything that determines the bytes of a dataset, except the bytes of its images."""
    digest = hashlib.sha256()
    for job in jobs:
        name = epath.Path(job.path).name
        digest.update(repr((FORMAT_VERSION, name, job.image_size, job.encoding, job.rows)).encode())
    return digest.hexdigest()


def write_shard(job: ShardJob) -> ShardReport:
    """Decode, resize, encode and write the images of one shard; unreadable images are reported, not raised.

    Raises:
        OSError: the disk is full, the folder is read-only, or an image was removed after the plan was made.
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
        groups=count_groups(written),
    )


def count_groups(rows: list[ImageRow]) -> dict[str, int]:
    """The number of images of every group, by name; images without a group are left out."""
    return dict(sorted(Counter(row.group for row in rows if row.group).items()))
