"""A dataset under construction: the manifest of its finished shards, and dataset.json, which is written last."""

import csv
import dataclasses
import hashlib
import io
from collections import Counter
from typing import Protocol

from etils import epath

from cxr import storage
from cxr.data.dataset import FILE
from cxr.data.shards import FORMAT_VERSION, ShardReport
from cxr.data.splits import SPLITS
from cxr.findings import FINDINGS

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
        if (self.manifest / "plan.json").exists():
            self._require_same(storage.read_json(self.manifest / "plan.json"), plan)
        elif (output_dir / FILE).exists() or list(output_dir.glob("*.tfrecord")):
            raise ValueError(f"{output_dir} holds records of unknown origin; choose another --output_dir or delete it")
        self.manifest.mkdir(parents=True, exist_ok=True)
        for leftover in [*output_dir.glob("*" + storage.PARTIAL), *self.manifest.glob("*" + storage.PARTIAL)]:
            leftover.unlink()
        storage.write_json(self.manifest / "plan.json", plan)

    def _require_same(self, before: dict, now: dict) -> None:
        if before["digest"] == now["digest"]:
            return
        theirs, mine = _flat(before["inputs"]), _flat(now["inputs"])
        changes = [f"{key} {theirs.get(key)}, now {mine.get(key)}" for key in mine if theirs.get(key) != mine.get(key)]
        raise ValueError(
            f"{self.output_dir} holds another dataset ({'; '.join(changes) or 'of other images'}). "
            "Choose another --output_dir, or delete it."
        )

    def finished(self, jobs: list[Job]) -> tuple[list[ShardReport], list[Job]]:
        """Sort jobs into the reports of shards that are whole, by their hash, and the jobs still to do.

        A shard that rejected an image is done again: the file may have been mended since.
        """
        done, waiting = [], []
        for job in jobs:
            report = self._report_of(epath.Path(job.path))
            if report is None:
                waiting.append(job)
            else:
                done.append(report)
        if waiting:
            (self.output_dir / FILE).unlink(missing_ok=True)
        return done, waiting

    def _report_of(self, path: epath.Path) -> ShardReport | None:
        record = self._record_of(path.name)
        if not (record.exists() and path.exists()):
            return None
        report = ShardReport.from_json(storage.read_json(record))
        whole = not report.rejected and path.stat().length == report.bytes and storage.sha256_of(path) == report.sha256
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
        rejected = sorted(pair for report in reports for pair in report.rejected)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("image_id", "reason"), *rejected])
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
        storage.write_json(self.output_dir / FILE, info)
        return info


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
