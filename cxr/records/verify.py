"""Read a finished dataset again and compare it with dataset.json, with itself and with the release it came from."""

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
from cxr.records.checks import Contents, ShardCheck, check_shard
from cxr.records.dataset import FILE, read_info
from cxr.records.splits import SPLITS, split_rows
from cxr.release.release import Release, read_release


class Verified(NamedTuple):
    """The outcome of checking a dataset."""

    images: int
    bytes: int
    faults: list[str]  # one line each: the file, what it holds, what was expected

    def require_sound(self, data_dir: epath.PathLike) -> None:
        """Raise ValueError with the first fault and the number of all, if there is any."""
        if self.faults:
            raise ValueError(
                f"{data_dir}: {len(self.faults):,} fault{'s' * (len(self.faults) > 1)}, first: {self.faults[0]}. "
                "Run the same build_dataset.py command again, it rewrites damaged shards; if it finds nothing to do, "
                "build from the right release into another --output_dir."
            )


def verify(
    data_dir: epath.PathLike,
    release_dir: epath.PathLike | None = None,
    *,
    engine: Engine = LOCAL,
    on_shard: Callable[[int], object] = lambda size: None,
) -> Verified:
    """Read every byte of a dataset of images or of features again.

    Checked are frames, CRCs, size and hash of every shard; that every record holds what its kind must; the counts of
    every split; that no image is there twice and no patient in two splits; the fingerprint; and, where the release is
    given, every row and its split against the CSV and the lists, and that every image of the CSV is accounted for.
    Of every shard the first image is decoded and compared with its recorded mean and standard deviation; the others are
    not decoded: their bytes are those that were hashed when they were written.

    Args:
        on_shard: is told the bytes of each shard when it has been read.

    Raises:
        FileNotFoundError: no finished dataset, or no release.
        ValueError: dataset.json or the release cannot be read. What is wrong with the records is returned, not raised.
    """
    data_dir = epath.Path(data_dir)
    info = read_info(data_dir)
    release = None if release_dir is None else read_release(epath.Path(release_dir), info["split"]["name"])
    found = []
    for contents in mapping.run(check_shard, plan_checks(data_dir, info), engine):
        found.append(contents)
        on_shard(contents.bytes)
    found.sort(key=lambda contents: contents.file)
    images = sum(len(part.rows) for part in found)
    faults = [fault for contents in found for fault in contents.faults]
    faults += [*compare_counts(found, info), *find_repeats(found), *find_strangers(data_dir, info)]
    faults += compare_rejected(found, data_dir, info)
    if release:
        faults += [*compare_source(info, release, images), *compare_rows(found, info, release)]
    return Verified(images, sum(part.bytes for part in found), faults)


def plan_checks(data_dir: epath.Path, info: dict) -> list[ShardCheck]:
    """One check for every shard that dataset.json names."""
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


def compare_counts(found: list[Contents], info: dict) -> Iterator[str]:
    """Yield where images, patients, positives or the fingerprint are not what dataset.json says."""
    for split in SPLITS:
        rows = [row for part in found if part.split == split for row in part.rows]
        positives = np.array([row.labels for row in rows], int).reshape(-1, len(FINDINGS)).sum(axis=0).tolist()
        counted = {"images": len(rows), "patients": len({row.patient_id for row in rows})}
        counted |= dict(zip(FINDINGS, positives, strict=True))
        said = {**info["splits"][split], **info["splits"][split]["positives"]}
        for name, count in counted.items():
            if said[name] != count:
                yield f"{FILE} says {split} has {name} {said[name]:,}, its records have {count:,}"
    fingerprint = building.fingerprint(info["splits"])
    if fingerprint != info["fingerprint"]:
        yield f"{FILE} has fingerprint {info['fingerprint']}, the hashes of its shards give {fingerprint}"


def find_repeats(found: list[Contents]) -> Iterator[str]:
    """Yield images that are there twice and patients that are in two splits."""
    files, homes = {}, {}
    for part in found:
        for row in part.rows:
            if row.image_id in files:
                yield f"{part.file} has image {row.image_id}, which is in {files[row.image_id]} already"
            files[row.image_id] = part.file
            if homes.setdefault(row.patient_id, part.split) != part.split:
                yield f"{part.file} has patient {row.patient_id}, who is in {homes[row.patient_id]} too"


def find_strangers(data_dir: epath.Path, info: dict) -> Iterator[str]:
    """Yield shards that lie in the folder and are no part of the dataset: a reader that lists files would take them."""
    known = {shard["file"] for split in SPLITS for shard in info["splits"][split]["shards"]}
    for name in sorted(path.name for path in data_dir.glob("*.tfrecord")):
        if name not in known:
            yield f"{name} lies in the folder and is no part of the dataset"


def compare_rejected(found: list[Contents], data_dir: epath.Path, info: dict) -> Iterator[str]:
    """Yield where rejected.csv is not the list that dataset.json counts, or names an image that has a record."""
    path = data_dir / "rejected.csv"
    try:
        rejected = [row[0] for row in csv.reader(path.read_text().splitlines())][1:] if path.exists() else []
    except (UnicodeDecodeError, csv.Error, IndexError) as error:
        yield f"{path.name} is not a readable CSV: {error}"
        return
    if len(rejected) != info["rejected"]:
        yield f"{path.name} has {len(rejected):,} images, expected {info['rejected']:,}"
    here = {row.image_id for part in found for row in part.rows}
    yield from (f"{path.name} has image {image_id}, which has a record" for image_id in rejected if image_id in here)


def compare_source(info: dict, release: Release, images: int) -> Iterator[str]:
    """Yield where the release is not the one of the dataset, or has images that are nowhere accounted for."""
    source = info["source"]
    if source["csv_sha256"] != release.csv_sha256:
        built = f"{source['csv']} with sha256 {source['csv_sha256']}"
        yield f"{FILE} was built from {built}, the release has {release.csv} with {release.csv_sha256}"
    if info["kind"] == "images" and info["patients_sampled"] is None:
        accounted = images + info["missing"] + info["rejected"]
        if accounted != len(release.rows):
            yield (
                f"{FILE} accounts for {accounted:,} images ({images:,} in records, {info['missing']:,} missing, "
                f"{info['rejected']:,} rejected), {release.csv} lists {len(release.rows):,}"
            )


def compare_rows(found: list[Contents], info: dict, release: Release) -> Iterator[str]:
    """Yield where a record says something else than the CSV, or is not in the split where it belongs."""
    listed = {row.image_id: row for row in release.rows}
    present = [listed[row.image_id] for part in found for row in part.rows if row.image_id in listed]
    split = info["split"]
    sides = split_rows(present, release.homes, ratios=tuple(split["ratios"]), seed=split["seed"])
    home = {row.image_id: side for side, rows in sides.items() for row in rows}
    for part in found:
        for row in part.rows:
            if row.image_id not in listed:
                yield f"{part.file} has image {row.image_id}, which {release.csv} does not list"
                continue
            expected = listed[row.image_id]
            for name, has, says in zip(
                row._fields, row, expected._replace(age=float(np.float32(expected.age))), strict=True
            ):
                if has != says and not (name == "age" and math.isnan(has) and math.isnan(says)):
                    yield f"{part.file} has {name} {has} for {row.image_id}, {release.csv} says {says}"
            if home[row.image_id] != part.split:
                yield f"{part.file} has image {row.image_id}, which belongs to {home[row.image_id]}"
