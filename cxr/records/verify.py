"""Verify a finished dataset: read it again, compare it with its dataset.json and with the release it was built from."""

import csv
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from cxr.engines import mapping
from cxr.engines.engine import LOCAL, Engine
from cxr.findings import FINDINGS
from cxr.records import building
from cxr.records.dataset import FILE, read_info
from cxr.records.shards import count_groups
from cxr.records.splits import SPLITS, split_rows
from cxr.records.verify_shard import ShardCheck, ShardContents, check_shard
from cxr.release.entries import ImageRow
from cxr.release.release import Release, read_release, with_groups


class Verified(NamedTuple):
    """The result of verifying a dataset."""

    num_images: int
    bytes: int
    faults: list[str]  # one line each: the file, what it contains, what was expected

    def require_no_faults(self, data_dir: epath.PathLike) -> None:
        """Raise ValueError with the first fault and their number, if there are any."""
        if self.faults:
            raise ValueError(
                f"{data_dir}: {len(self.faults):,} fault{'s' * (len(self.faults) > 1)}, first: {self.faults[0]}. "
                "Run the same build_dataset.py command again: it rewrites damaged shards. If it finds nothing to do, "
                "build from the right release into another --output_dir."
            )


def verify(
    data_dir: epath.PathLike,
    release_dir: epath.PathLike | None = None,
    *,
    groups: epath.PathLike | None = None,
    engine: Engine = LOCAL,
    on_shard: Callable[[int], object] = lambda size: None,
) -> Verified:
    """Read every byte of a dataset, of images or of features, and check it.

    Every shard: framing, CRCs, size and hash; every record: its contents. Every split: the counts in dataset.json, no
    image twice, no patient in two splits. Then the fingerprint. With a release: every row and its split against the CSV
    and the lists, and that every image of the CSV is accounted for. With a groups file also: the group of every row.
    The first image of every shard is decoded and compared with its recorded mean and standard deviation. The others are
    not decoded: the hash shows that their bytes are unchanged.

    Args:
        groups: the groups file of the build; read only with a release.
        on_shard: called with the size in bytes of each shard that has been read.

    Raises:
        FileNotFoundError: no finished dataset, no release, or no groups file.
        ValueError: dataset.json, the release or the groups file is invalid. Faults of records are returned, not raised.
    """
    data_dir = epath.Path(data_dir)
    info = read_info(data_dir)
    release = None if release_dir is None else read_release(epath.Path(release_dir), info["split"]["name"])
    release = with_groups(release, epath.Path(groups)) if release and groups else release
    shards = []
    for shard in mapping.run(check_shard, plan_checks(data_dir, info), engine):
        shards.append(shard)
        on_shard(shard.bytes)
    shards.sort(key=lambda shard: shard.file)
    num_images = sum(len(shard.rows) for shard in shards)
    faults = [fault for shard in shards for fault in shard.faults]
    faults += [*compare_counts(shards, info), *find_duplicates(shards), *find_unlisted_shards(data_dir, info)]
    faults += compare_rejected(shards, data_dir, info)
    if release:
        faults += [*compare_source(info, release, num_images), *compare_rows(shards, info, release)]
        faults += compare_groups(shards, release) if groups else []
    return Verified(num_images, sum(shard.bytes for shard in shards), faults)


def plan_checks(data_dir: epath.Path, info: dict) -> list[ShardCheck]:
    """One check for every shard in dataset.json."""
    size = info["dimension" if info["kind"] == "features" else "image_size"]
    return [
        ShardCheck(
            path=str(data_dir / shard["file"]),
            split=split,
            **{key: shard[key] for key in ("images", "bytes", "sha256")},
            kind=info["kind"],
            encoding=info.get("encoding"),
            size=size,
        )
        for split in SPLITS
        for shard in info["splits"][split]["shards"]
    ]


def compare_counts(shards: list[ShardContents], info: dict) -> Iterator[str]:
    """Yield differences from the images, patients, positives, groups and fingerprint in dataset.json."""
    for split in SPLITS:
        rows = [row for shard in shards if shard.split == split for row in shard.rows]
        positives = np.array([row.labels for row in rows], int).reshape(-1, len(FINDINGS)).sum(axis=0).tolist()
        counted = {"images": len(rows), "patients": len({row.patient_id for row in rows})}
        counted |= dict(zip(FINDINGS, positives, strict=True))
        said = {**info["splits"][split], **info["splits"][split]["positives"]}
        for name, count in counted.items():
            if said[name] != count:
                yield f"{FILE} says {split} has {name} {said[name]:,}, its records have {count:,}"
    counted = count_groups([row for shard in shards for row in shard.rows])
    for name in sorted(counted.keys() | info["groups"].keys()):
        if counted.get(name, 0) != info["groups"].get(name, 0):
            yield (
                f"{FILE} says group {name} has images {info['groups'].get(name, 0):,}, "
                f"the records have {counted.get(name, 0):,}"
            )
    fingerprint = building.fingerprint(info["splits"])
    if fingerprint != info["fingerprint"]:
        yield f"{FILE} has fingerprint {info['fingerprint']}, the hashes of its shards give {fingerprint}"


def find_duplicates(shards: list[ShardContents]) -> Iterator[str]:
    """Yield images that appear twice and patients that are in two splits."""
    files, splits = {}, {}
    for shard in shards:
        for row in shard.rows:
            if row.image_id in files:
                yield f"{shard.file} has image {row.image_id}, which is also in {files[row.image_id]}"
            files[row.image_id] = shard.file
            if splits.setdefault(row.patient_id, shard.split) != shard.split:
                yield f"{shard.file} has patient {row.patient_id}, who is also in {splits[row.patient_id]}"


def find_unlisted_shards(data_dir: epath.Path, info: dict) -> Iterator[str]:
    """Yield shards in the folder that are not in dataset.json: a reader that lists files would read them."""
    known = {shard["file"] for split in SPLITS for shard in info["splits"][split]["shards"]}
    for name in sorted(path.name for path in data_dir.glob("*.tfrecord")):
        if name not in known:
            yield f"{name} is in the folder but not in {FILE}"


def compare_rejected(shards: list[ShardContents], data_dir: epath.Path, info: dict) -> Iterator[str]:
    """Yield differences between rejected.csv and dataset.json, and rejected images that have a record."""
    path = data_dir / "rejected.csv"
    try:
        rejected = [row[0] for row in csv.reader(path.read_text().splitlines())][1:] if path.exists() else []
    except (UnicodeDecodeError, csv.Error, IndexError) as error:
        yield f"{path.name} is not a readable CSV: {error}"
        return
    if len(rejected) != info["rejected"]:
        yield f"{path.name} has {len(rejected):,} images, expected {info['rejected']:,}"
    recorded = {row.image_id for shard in shards for row in shard.rows}
    for image_id in rejected:
        if image_id in recorded:
            yield f"{path.name} has image {image_id}, which has a record"


def compare_source(info: dict, release: Release, num_images: int) -> Iterator[str]:
    """Yield if the release is not that of the dataset, or if the dataset does not account for all its images."""
    source = info["source"]
    if source["csv_sha256"] != release.csv_sha256:
        built = f"{source['csv']} with sha256 {source['csv_sha256']}"
        yield f"the dataset was built from {built}, the release has {release.csv} with {release.csv_sha256}"
    if info["kind"] == "images" and info["patients_sampled"] is None:
        accounted = num_images + info["missing"] + info["rejected"]
        if accounted != len(release.rows):
            yield (
                f"{FILE} accounts for {accounted:,} images ({num_images:,} in records, {info['missing']:,} missing, "
                f"{info['rejected']:,} rejected), {release.csv} lists {len(release.rows):,}"
            )


def compare_rows(shards: list[ShardContents], info: dict, release: Release) -> Iterator[str]:
    """Yield records that differ from the CSV, and records that are in the wrong split."""
    listed = {row.image_id: row for row in release.rows}
    present = [listed[row.image_id] for shard in shards for row in shard.rows if row.image_id in listed]
    split = info["split"]
    splits = split_rows(present, release.assigned, ratios=tuple(split["ratios"]), seed=split["seed"])
    split_of = {row.image_id: name for name, rows in splits.items() for row in rows}
    for shard in shards:
        for row in shard.rows:
            if row.image_id not in listed:
                yield f"{shard.file} has image {row.image_id}, which is not in {release.csv}"
                continue
            for difference in _differences(row, listed[row.image_id]):
                yield f"{shard.file}, image {row.image_id}: {difference} in {release.csv}"
            if split_of[row.image_id] != shard.split:
                yield f"{shard.file} has image {row.image_id}, which belongs to {split_of[row.image_id]}"


def compare_groups(shards: list[ShardContents], release: Release) -> Iterator[str]:
    """Yield records whose group differs from the groups file."""
    group_of = {row.image_id: row.group for row in release.rows}
    for shard in shards:
        for row in shard.rows:
            expected = group_of.get(row.image_id, row.group)
            if row.group != expected:
                yield (
                    f"{shard.file}, image {row.image_id}: group {row.group or 'none'}, "
                    f"but {expected or 'none'} in the groups file"
                )


def _differences(recorded: ImageRow, listed: ImageRow) -> Iterator[str]:
    """Yield the differing fields of a record and a row of the CSV, such as "age 7.0, but 21.0". Groups are left out."""
    rounded = listed._replace(age=float(np.float32(listed.age)), group=recorded.group)  # as records store it
    for name, value, expected in zip(recorded._fields, recorded, rounded, strict=True):
        both_unknown = name == "age" and math.isnan(value) and math.isnan(expected)
        if value != expected and not both_unknown:
            yield f"{name} {value}, but {expected}"
