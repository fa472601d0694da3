"""A dataset under construction: the manifest of its finished shards, and dataset.json, which is written last."""

import csv
import dataclasses
import hashlib
import io
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from etils import epath

from cxr import storage
from cxr.findings import FINDINGS
from cxr.records.dataset import FILE
from cxr.records.shards import FORMAT_VERSION, ShardReport
from cxr.records.splits import SPLITS

MANIFEST = "manifest"  # folder: plan.json and one report per finished shard; a later build goes on from it
DESCRIPTIVE = ("containers", "unlisted")  # do not change a dataset's bytes


class Job(Protocol):
    """Anything that writes one shard."""

    path: str


class Building:
    """A dataset under construction in `output_dir`: which shards are whole, and what they hold."""

    def __init__(self, output_dir: epath.Path, inputs: dict, digest: str) -> None:
        """Open the folder for this plan.

        Args:
            inputs: what dataset.json will say of the inputs and options.
            digest: of the plan; decides whether the folder's finished shards belong to it.

        Raises:
            ValueError: the folder holds another dataset, or one of other options.
        """
        self.output_dir, self.inputs = output_dir, inputs
        self.manifest = output_dir / MANIFEST
        plan = {"digest": digest, "inputs": inputs}
        before = plan_of(output_dir)
        if before and before["digest"] != digest:
            raise _another(output_dir, _changes(before["inputs"], inputs))
        self.manifest.mkdir(parents=True, exist_ok=True)
        self._remove_partials()
        storage.write_json(self.manifest / "plan.json", plan)

    def _remove_partials(self) -> None:
        """Delete what killed writers have left: builds before this one, workers of lost machines."""
        for folder in (self.output_dir, self.manifest):
            for leftover in folder.glob("*" + storage.PARTIAL):
                leftover.unlink(missing_ok=True)

    def finished(
        self, jobs: list[Job], digest: Callable[[str], str] | None = None
    ) -> tuple[list[ShardReport], list[Job]]:
        """Sort jobs into the reports of shards that are whole, by their hash, and the jobs still to do.

        Args:
            digest: SHA-256 of the bytes of an image, by its id; a shard is done again when an image that it rejected
                has been mended since, or its first image is another one: the release was exchanged. None: of features.
        """
        done, waiting = [], []
        for job in jobs:
            report = self._report_of(epath.Path(job.path))
            same = report is not None and (digest is None or _same_images(report, job, digest))
            (done if same else waiting).append(report if same else job)
        if waiting:
            (self.output_dir / FILE).unlink(missing_ok=True)
        return done, waiting

    def _report_of(self, path: epath.Path) -> ShardReport | None:
        record = self._record_of(path.name)
        if not (record.exists() and path.exists()):
            return None
        report = ShardReport.from_json(storage.read_json(record))
        whole = path.stat().length == report.bytes and storage.sha256_of(path) == report.sha256
        return report if whole else None

    def _record_of(self, name: str) -> epath.Path:
        return self.manifest / f"{name.removesuffix('.tfrecord')}.json"

    def keep(self, report: ShardReport) -> None:
        """Note a finished shard, so that a restart need not write it again."""
        storage.write_json(self._record_of(report.file), dataclasses.asdict(report))

    def finish(self, reports: list[ShardReport], *, max_rejected: float) -> dict:
        """Write rejected.csv and then dataset.json; returns what it says.

        Raises:
            ValueError: more than the share `max_rejected` of the images was unreadable; no dataset.json then.
        """
        rejected = sorted(image for report in reports for image in report.rejected)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [("image_id", "reason"), *((image_id, reason) for image_id, reason, _ in rejected)]
        )
        storage.write_text(self.output_dir / "rejected.csv", text.getvalue())
        planned = sum(report.images for report in reports) + len(rejected)
        if len(rejected) > max_rejected * planned:
            raise ValueError(
                f"{len(rejected):,} of {planned:,} images could not be read, over --max_rejected {max_rejected:g}; "
                f"first: {rejected[0].image_id}: {rejected[0].reason}. All are in {self.output_dir / 'rejected.csv'}. "
                "Mend the files and run again (finished shards are kept), or raise --max_rejected."
            )
        splits = describe_splits(reports)
        info = {
            "format_version": FORMAT_VERSION,
            "findings": list(FINDINGS),
            **self.inputs,
            "rejected": len(rejected),
            "splits": splits,
            "fingerprint": fingerprint(splits),
        }
        self._remove_partials()
        storage.write_json(self.output_dir / FILE, info)
        return info


def _same_images(report: ShardReport, job: Job, digest: Callable[[str], str]) -> bool:
    """Whether the images of a shard are still those it was made of, by its first and by those it rejected."""
    if report.witness and report.witness != digest(job.rows[0].image_id):
        return False
    return all(digest(image_id) == before for image_id, _, before in report.rejected)


def plan_of(output_dir: epath.Path) -> dict | None:
    """What a folder was begun for: {"digest", "inputs"}; None if nothing was.

    Raises:
        ValueError: there are records in it, and no plan.
    """
    if (output_dir / MANIFEST / "plan.json").exists():
        return storage.read_json(output_dir / MANIFEST / "plan.json")
    if (output_dir / FILE).exists() or list(output_dir.glob("*.tfrecord")):
        raise ValueError(f"{output_dir} holds records of unknown origin; choose another --output_dir or delete it")
    return None


def require_same_options(output_dir: epath.Path, options: dict) -> None:
    """Raise ValueError when the folder was begun for a dataset of other options, as far as they are known by now."""
    before = plan_of(output_dir)
    changes = _changes(before["inputs"], options) if before else []
    if changes:
        raise _another(output_dir, changes)


def _another(output_dir: epath.Path, changes: list[str]) -> ValueError:
    return ValueError(
        f"{output_dir} holds another dataset ({'; '.join(changes) or 'of other images'}). "
        "Choose another --output_dir, or delete it."
    )


def _changes(before: dict, now: dict) -> list[str]:
    theirs, mine = _flat(before), _flat(now)
    return [f"{key} {theirs.get(key)}, now {mine.get(key)}" for key in mine if theirs.get(key) != mine.get(key)]


def _flat(inputs: dict) -> dict:
    """One level of keys, those left out that do not change the bytes."""
    flat = {}
    for key, value in inputs.items():
        flat.update({f"{key} {inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value})
    return {key: value for key, value in flat.items() if key.split()[-1] not in DESCRIPTIVE}


def describe_splits(reports: list[ShardReport]) -> dict[str, dict]:
    """The `splits` part of dataset.json: images, patients, positives per finding and the shards of every split."""
    splits = {}
    for split in SPLITS:
        mine = sorted((report for report in reports if report.split == split), key=lambda report: report.file)
        positives = Counter()
        for report in mine:
            positives.update(dict(zip(FINDINGS, report.positives, strict=True)))
        splits[split] = {
            "images": sum(report.images for report in mine),
            "patients": len({patient for report in mine for patient in report.patient_ids}),
            "positives": {finding: positives[finding] for finding in FINDINGS},
            "shards": [{"file": r.file, "images": r.images, "bytes": r.bytes, "sha256": r.sha256} for r in mine],
        }
    return splits


def fingerprint(splits: dict[str, dict]) -> str:
    """SHA-256 over the shard hashes, in order: two datasets with one fingerprint hold the same bytes."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for shard in splits[split]["shards"]:
            digest.update(f"{shard['file']} {shard['sha256']}\n".encode())
    return digest.hexdigest()
