"""A dataset during its build: the manifest of finished shards, and dataset.json, which is written last."""

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

MANIFEST = "manifest"  # folder with plan.json and a report per finished shard, from which a later build resumes
DESCRIPTIVE = ("containers", "unlisted")  # inputs that do not change the bytes of a dataset


class Job(Protocol):
    """The input of a worker that writes one shard."""

    path: str


class Building:
    """A dataset during its build in `output_dir`: its finished shards and their contents."""

    def __init__(self, output_dir: epath.Path, inputs: dict, digest: str) -> None:
        """Open the folder for a plan.

        Args:
            inputs: the inputs and options, as dataset.json will record them.
            digest: digest of the plan; finished shards of another plan are not used.

        Raises:
            ValueError: the folder contains another dataset, or one with other options.
        """
        self.output_dir, self.inputs = output_dir, inputs
        self.manifest = output_dir / MANIFEST
        plan = {"digest": digest, "inputs": inputs}
        before = plan_of(output_dir)
        if before and before["digest"] != digest:
            raise _other_dataset_error(output_dir, _changes(before["inputs"], inputs))
        self.manifest.mkdir(parents=True, exist_ok=True)
        self.remove_partials()
        storage.write_json(self.manifest / "plan.json", plan)

    def remove_partials(self) -> None:
        """Delete the unfinished files of killed workers and of earlier builds."""
        for folder in (self.output_dir, self.manifest):
            storage.remove_partials(folder)

    def finished(
        self, jobs: list[Job], digest: Callable[[str], str] | None = None
    ) -> tuple[list[ShardReport], list[Job]]:
        """Divide jobs into (reports of finished shards whose hash is right, jobs that are still to do).

        Args:
            digest: function from image id to SHA-256 of the original bytes; None for features. A shard is written
                again if one of its rejected images, or its first image, has changed: the release was replaced.
        """
        done, waiting = [], []
        for job in jobs:
            report = self._report_of(epath.Path(job.path))
            if report is not None and (digest is None or _same_images(report, job, digest)):
                done.append(report)
            else:
                waiting.append(job)
        if waiting:
            (self.output_dir / FILE).unlink(missing_ok=True)
        return done, waiting

    def _report_of(self, path: epath.Path) -> ShardReport | None:
        """The report of a finished shard; None if the shard or its report is absent or damaged."""
        report_path = self._report_path(path.name)
        if not (report_path.exists() and path.exists()):
            return None
        report = ShardReport.from_json(storage.read_json(report_path))
        whole = path.stat().length == report.bytes and storage.sha256_of(path) == report.sha256
        return report if whole else None

    def _report_path(self, name: str) -> epath.Path:
        return self.manifest / f"{name.removesuffix('.tfrecord')}.json"

    def keep(self, report: ShardReport) -> None:
        """Save the report of a finished shard, so that a restarted build does not write the shard again."""
        storage.write_json(self._report_path(report.file), dataclasses.asdict(report))

    def finish(self, reports: list[ShardReport], *, max_rejected: float) -> dict:
        """Write rejected.csv and then dataset.json; returns the contents of dataset.json.

        Raises:
            ValueError: more than the share `max_rejected` of the images is unreadable; dataset.json is not written.
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
                "Fix the files and run again (finished shards are kept), or raise --max_rejected."
            )
        splits = describe_splits(reports)
        info = {
            "format_version": FORMAT_VERSION,
            "findings": list(FINDINGS),
            **self.inputs,
            "rejected": len(rejected),
            "groups": describe_groups(reports),
            "splits": splits,
            "fingerprint": fingerprint(splits),
        }
        self.remove_partials()
        storage.write_json(self.output_dir / FILE, info)
        return info


def _same_images(report: ShardReport, job: Job, digest: Callable[[str], str]) -> bool:
    """Whether a shard was made from the present images: its first image and its rejected ones are compared."""
    if report.first_image_sha256 and report.first_image_sha256 != digest(job.rows[0].image_id):
        return False
    return all(digest(rejected.image_id) == rejected.digest for rejected in report.rejected)


def plan_of(output_dir: epath.Path) -> dict | None:
    """The plan of the dataset in a folder, {"digest", "inputs"}; None for a new folder.

    Raises:
        ValueError: the folder has records and no plan.
    """
    if (output_dir / MANIFEST / "plan.json").exists():
        return storage.read_json(output_dir / MANIFEST / "plan.json")
    if (output_dir / FILE).exists() or list(output_dir.glob("*.tfrecord")):
        raise ValueError(f"{output_dir} contains records of unknown origin; choose another --output_dir or delete it")
    return None


def require_same_options(output_dir: epath.Path, options: dict) -> None:
    """Raise ValueError if the folder contains a dataset with other options. `options` may be a part of the inputs."""
    before = plan_of(output_dir)
    changes = _changes(before["inputs"], options) if before else []
    if changes:
        raise _other_dataset_error(output_dir, changes)


def _other_dataset_error(output_dir: epath.Path, changes: list[str]) -> ValueError:
    return ValueError(
        f"{output_dir} contains another dataset ({'; '.join(changes) or 'other images'}). "
        "Choose another --output_dir, or delete it."
    )


def _changes(before: dict, now: dict) -> list[str]:
    """The differing inputs, such as "image_size 128, now 224"."""
    old, new = _flat(before), _flat(now)
    return [f"{key} {old.get(key)}, now {new[key]}" for key in new if old.get(key) != new[key]]


def _flat(inputs: dict) -> dict:
    """Nested inputs as one level of keys, without those that do not change the bytes."""
    flat = {}
    for key, value in inputs.items():
        flat.update({f"{key} {inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value})
    return {key: value for key, value in flat.items() if key.split()[-1] not in DESCRIPTIVE}


def describe_splits(reports: list[ShardReport]) -> dict[str, dict]:
    """The `splits` part of dataset.json: images, patients, positives per finding and the shards of every split."""
    splits = {}
    for split in SPLITS:
        members = sorted((report for report in reports if report.split == split), key=lambda report: report.file)
        positives = Counter()
        for report in members:
            positives.update(dict(zip(FINDINGS, report.positives, strict=True)))
        splits[split] = {
            "images": sum(report.images for report in members),
            "patients": len({patient for report in members for patient in report.patient_ids}),
            "positives": {finding: positives[finding] for finding in FINDINGS},
            "shards": [{"file": r.file, "images": r.images, "bytes": r.bytes, "sha256": r.sha256} for r in members],
        }
    return splits


def describe_groups(reports: list[ShardReport]) -> dict[str, int]:
    """The `groups` part of dataset.json: the number of images of every group, by name."""
    counts = Counter()
    for report in reports:
        counts.update(report.groups)
    return dict(sorted(counts.items()))


def fingerprint(splits: dict[str, dict]) -> str:
    """SHA-256 over the shard hashes, in order: datasets with equal fingerprints have the same bytes."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for shard in splits[split]["shards"]:
            digest.update(f"{shard['file']} {shard['sha256']}\n".encode())
    return digest.hexdigest()
