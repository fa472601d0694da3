"""The start of a run: check the splits, describe the run in its log, and write run.json before the first step."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from cxr import experiment, identity, seen, storage
from cxr.engines.engine import LOCAL, Engine
from cxr.evaluation import pretraining, provenance
from cxr.evaluation.within import mean_within_groups
from cxr.findings import FINDINGS
from cxr.networks import devices, kept, runtime
from cxr.params import Params
from cxr.records import example, splits
from cxr.records.dataset import Dataset
from cxr.specs import extractor_name, extractor_names
from training.history import POOLED, WITHIN

log = logging.getLogger("train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What is trained on what, where it is kept, and how it begins."""

    params: Params
    images: Dataset
    indexes: dict[str, example.Index]  # by split
    model_dir: pathlib.Path
    resume: bool = False  # continue where the run stopped
    restore_from: pathlib.Path | None = None  # begin with the best weights of this experiment
    allow_leak: bool = False  # accept networks that were trained on patients of val
    engine: Engine = LOCAL  # where features are extracted


def read_splits(images: Dataset) -> dict[str, example.Index]:
    """Index every split from its records, with every CRC checked.

    Raises:
        ValueError: a patient is in two splits, or the records differ from dataset.json.
    """
    indexes = {split: example.read_split_index(images.paths(split)) for split in splits.SPLITS}
    splits.require_disjoint({split: index.patient_ids.tolist() for split, index in indexes.items()})
    for split, index in indexes.items():
        if len(index.image_ids) != images.num_images(split):
            raise ValueError(f"{split} has {len(index.image_ids)} records, dataset.json says otherwise; build it again")
    return indexes


def log_start(job: TrainingJob) -> None:
    """Log the parameters, the dataset and the device."""
    changed = {k: v for k, v in dataclasses.asdict(job.params).items() if v != getattr(Params(), k)}
    log.info("%s @ %s   %s", job.params.model, experiment.git_sha(), json.dumps(changed))
    info = job.images.info
    log.info("data %s   split %s   fingerprint %s", job.images.folder, info["split"]["name"], info["fingerprint"][:12])
    for split, index in job.indexes.items():
        positives = "  ".join(f"{f} {n:,}" for f, n in zip(FINDINGS, index.labels.sum(axis=0).tolist(), strict=True))
        num_images = f"{len(index.image_ids):,}"
        num_patients = f"{len(np.unique(index.patient_ids)):,}"
        log.info("%-5s %7s images %6s patients   %s", split, num_images, num_patients, positives)
    for name, sets in pretraining.networks_seen(job.params).items():
        log.info("network %s: has seen %s", name, seen.words(sets))
    if info["groups"] and not job.params.members:
        log_criterion(job.indexes["val"])
    log.info("left out: %s missing, %s rejected", f"{info['missing']:,}", f"{info['rejected']:,}")
    log.info("device %s", devices.describe_devices())


def criterion_of(val: example.Index) -> str:
    """The column of history.csv by which epochs are compared: WITHIN if the AUROC within groups is defined in val."""
    is_defined = not np.isnan(mean_within_groups(val.labels, np.zeros(val.labels.shape), val.groups))
    return WITHIN if is_defined else POOLED


def log_criterion(val: example.Index) -> None:
    """Log by which AUROC epochs are compared, for a dataset with groups."""
    names, counts = np.unique(val.groups, return_counts=True)
    groups = "  ".join(f"{name or 'none'} {count:,}" for name, count in zip(names, counts, strict=True))
    if criterion_of(val) == WITHIN:
        log.info("best epoch by the mean val AUROC within groups, not the pooled one; val images by group: %s", groups)
    else:
        log.info(
            "best epoch by the pooled val mean AUROC: no group of val has images with and without a finding; "
            "val images by group: %s",
            groups,
        )


def patients_seen(job: TrainingJob) -> dict[str, list[int]]:
    """The patients that the weights of a run will have seen, including those of the weights it begins with.

    An average has seen those of its members, and val.
    """
    train, val = (set(job.indexes[split].patient_ids.tolist()) for split in ("train", "val"))
    starts = [job.restore_from] if job.restore_from else []
    if job.params.members:
        train = set()
        starts = provenance.experiments_in(job.params)
    for start in starts:
        for folder in provenance.experiments_below(start):
            before = experiment.patients_of(folder)
            train |= set(before.get("train", ())) | (set(before.get("val", ())) - val)
    return {"train": sorted(train), "val": sorted(val)}


def begin_run(
    job: TrainingJob,
    networks: dict[str, str],
    *,
    prepared: dict[str, str] | None = None,
    members: Sequence[dict] = (),
) -> dict:
    """Write run.json before the first step; for a resumed run compare with it instead. Returns its content.

    Args:
        networks: SHA-256 of the weights of every extractor, by its name.
        prepared: SHA-256 of the files of its network, if OpenVINO runs it; they are copied into the experiment.
        members: of an average, see `identity.describe_members`.

    Raises:
        ValueError: networks were trained on patients of val, or differ from those that the run began with.
    """
    if (before := identity.begun(job.model_dir)) is not None:
        identity.require_networks(job.model_dir, networks)
        identity.require_members(job.model_dir, members)
        if before["device"] != (device := devices.describe_devices()):
            log.info("the run began on %s and continues on %s", before["device"], device)
        return before
    leak = provenance.training_leak(job.params, job.indexes["val"].patient_ids, job.restore_from)
    if not job.allow_leak:
        provenance.require_no_training_leak(leak)
    storage.write_json(job.model_dir / "dataset.json", job.images.info)
    storage.write_json(experiment.patients_path(job.model_dir), patients_seen(job))
    for name, spec in extractor_names(job.params.extractors).items() if prepared else ():
        kept.in_cache(job.images, extractor_name(spec), prepared[name]).copy(kept.path_of(job.model_dir, name))
    run = identity.describe(
        job.params,
        networks=networks,
        fingerprint=job.images.info["fingerprint"],
        runtime=runtime.runtime_of(job.params),
        device=devices.describe_devices(),
        restore_from=identity.weights_of(job.restore_from) if job.restore_from else None,
        leak=leak,
    )
    run["prepared"] = prepared or {}
    run |= identity.of_average(members) if members else {}
    storage.write_json(identity.path_of(job.model_dir), run)
    return run
