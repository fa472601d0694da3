"""Fit one experiment; everything it produces lands in its model_dir.

    python train.py --model_dir experiments/simple_cnn --data_dir data/records

Reads params.json there. Writes train.log, history.csv, tensorboard/, best and last weights, resume/ and the val metrics
and predictions. Watch it: tensorboard --logdir experiments
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import sys
from typing import NamedTuple

import numpy as np
from etils import epath

from cxr import experiment, identity, storage
from cxr.engines.engine import LOCAL, NAMES, Engine
from cxr.errors import one_line_errors
from cxr.evaluation import provenance
from cxr.findings import FINDINGS
from cxr.networks import devices, runtime
from cxr.params import Params, as_json, load_params
from cxr.records import example, splits
from cxr.records.dataset import Dataset, open_dataset
from training import tensorboard
from training.run import Run, run_epochs

log = logging.getLogger("train")


class Start(NamedTuple):
    """Where a run begins, and where features for it are extracted."""

    resume: bool = False  # where it stopped
    restore_from: pathlib.Path | None = None  # with the best weights of an experiment of the same architecture
    allow_leak: bool = False  # even where networks were trained on patients of val
    engine: Engine = LOCAL


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="experiment folder with params.json")
    add("--data_dir", type=epath.Path, default="data/records", help="default: %(default)s")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue where the run in model_dir stopped")
    again.add_argument("--restore_from", type=pathlib.Path, metavar="DIR", help="begin with this experiment's weights")
    again.add_argument("--restart", action="store_true", help="move the run in model_dir aside and begin again")
    add("--deterministic", action="store_true", help="the same numbers in every run on a GPU too, where it is slower")
    add("--allow_leak", action="store_true", help="train over networks that have seen patients of val; val is marked")
    add("--engine", choices=NAMES, default="local", help="where features are extracted; default: %(default)s")
    add("--ray_address", metavar="A", help="of a running Ray cluster: auto, HOST:PORT; default: start one here")
    args = parser.parse_args(argv)
    if args.ray_address and args.engine != "ray":
        parser.error("--ray_address goes with --engine ray")
    return args


def read_splits(images: Dataset) -> dict[str, example.Index]:
    """Index every split from its records, every CRC checked, and see that no patient is in two of them."""
    indexes = {split: example.read_split_index(images.paths(split)) for split in splits.SPLITS}
    splits.require_disjoint({split: index.patient_ids.tolist() for split, index in indexes.items()})
    for split, index in indexes.items():
        if len(index.image_ids) != images.images(split):
            raise ValueError(f"{split} has {len(index.image_ids)} records, dataset.json says otherwise; build it again")
    return indexes


def existing(model_dir: pathlib.Path) -> pathlib.Path:
    """The folder of an experiment; FileNotFoundError, which says what one is, where there is none."""
    load_params(model_dir)
    return model_dir


def log_start(params: Params, images: Dataset, indexes: dict[str, example.Index]) -> None:
    """Say what is about to be trained on what."""
    changed = {k: v for k, v in dataclasses.asdict(params).items() if v != getattr(Params(), k)}
    log.info("%s @ %s   %s", params.model, experiment.git_sha(), json.dumps(changed))
    info = images.info
    log.info("data %s   split %s   fingerprint %s", images.folder, info["split"]["name"], info["fingerprint"][:12])
    for split, index in indexes.items():
        positives = "  ".join(f"{f} {n:,}" for f, n in zip(FINDINGS, index.labels.sum(axis=0).tolist(), strict=True))
        log.info("%-5s %7s images %6s patients   %s", split, f"{len(index.image_ids):,}",
                 f"{len(np.unique(index.patient_ids)):,}", positives)  # fmt: skip
    log.info("device %s", devices.describe_devices())
    log.info("left out: %s missing, %s rejected", f"{info['missing']:,}", f"{info['rejected']:,}")


def patients_seen(indexes: dict[str, example.Index], restore_from: pathlib.Path | None) -> dict[str, list[int]]:
    """The patients that the weights of a run will have seen, those of the weights it begins with included."""
    train, val = (set(indexes[split].patient_ids.tolist()) for split in ("train", "val"))
    for folder in provenance.experiments_below(restore_from) if restore_from else ():
        before = experiment.patients_of(folder)
        train |= set(before.get("train", ())) | (set(before.get("val", ())) - val)
    return {"train": sorted(train), "val": sorted(val)}


def begin(
    model_dir: pathlib.Path,
    params: Params,
    images: Dataset,
    indexes: dict[str, example.Index],
    *,
    networks: dict[str, str],
    start: Start,
) -> dict:
    """Write run.json before the first step, or compare a run that is resumed with it; returns what it says.

    Args:
        networks: SHA-256 of the weights of every extractor, by its name.

    Raises:
        ValueError: networks were trained on patients of val, or are not those that the run began with.
    """
    if (before := identity.begun(model_dir)) is not None:
        identity.require_networks(model_dir, networks)
        if before["device"] != (here := devices.describe_devices()):
            log.info("the run began on %s and continues on %s", before["device"], here)
        return before
    leak = provenance.training_leak(params, indexes["val"].patient_ids, start.restore_from)
    if not start.allow_leak:
        provenance.require_no_training_leak(leak)
    storage.write_json(model_dir / "dataset.json", images.info)
    storage.write_json(experiment.patients_path(model_dir), patients_seen(indexes, start.restore_from))
    run = identity.describe(
        params,
        networks=networks,
        fingerprint=images.info["fingerprint"],
        runtime=runtime.runtime_of(params.precision),
        device=devices.describe_devices(),
        restore_from=identity.weights_of(start.restore_from) if start.restore_from else None,
        leak=leak,
    )
    storage.write_json(identity.path_of(model_dir), run)
    return run


def fit_run(run: Run, images: Dataset, indexes: dict[str, example.Index], params: Params, start: Start) -> None:
    """Train a run from its start or from where it stopped, to its val metrics."""
    if not (start.resume and run.restore()):
        restore_from = identity.read(run.model_dir)["restore_from"]
        begins = f"with the best weights of {restore_from['model_dir']}" if restore_from else "from its initial weights"
        if restore_from:
            experiment.load_weights(run.model, identity.require_weights(restore_from), "best")
        if start.resume:
            log.info("no epoch had been finished: the run begins again %s", begins)
    run_epochs(run, indexes["val"])
    finish(run, images, params)
    tensorboard.show_end(run, indexes["val"])


def finish(run: Run, images: Dataset, params: Params) -> None:
    """Evaluate val with the best and the last weights and say what comes next."""
    from evaluate import evaluate_split

    for checkpoint in reversed(experiment.CHECKPOINTS):
        experiment.load_weights(run.model, run.model_dir, checkpoint)
        result = evaluate_split(
            run.model, "val", images, run.datasets, params=params, model_dir=run.model_dir, checkpoint=checkpoint
        )
        mean = result["mean_auroc"]
        if mean["value"] is None:
            log.info("%s weights: val AUROC undefined", checkpoint)
        else:
            log.info("%s weights: val mean AUROC %.4f [%.4f, %.4f] over %d findings", checkpoint, *mean.values())


def fit_head(
    params: Params,
    images: Dataset,
    model_dir: pathlib.Path,
    indexes: dict[str, example.Index],
    start: Start,
) -> None:
    """Train what an experiment trains from scratch: all of simple_cnn, or the head over cached features."""
    from cxr.networks.features import feature_datasets
    from model_fn import model_fn

    datasets, copies = {"image": images}, []
    if params.extractors:
        before = identity.begun(model_dir)
        of = {"runtime_name": before["runtime"] if before else None, "engine": start.engine}
        datasets = feature_datasets(params, images, **of)
        copies = [feature_datasets(params, images, copy=n, **of) for n in range(1, params.augmented_copies + 1)]
    extracted = {name: dataset.info for name, dataset in datasets.items() if name != "image"}
    networks = {name: info["extractor"]["sha256"] for name, info in extracted.items()}
    begin(model_dir, params, images, indexes, networks=networks, start=start)
    with devices.mirrored_devices().scope():
        model = model_fn(params, images.info, {name: info["dimension"] for name, info in extracted.items()})
        run = Run(params, model, datasets, model_dir, copies=copies)
    fit_run(run, images, indexes, params, start)


def fine_tune(
    params: Params,
    images: Dataset,
    model_dir: pathlib.Path,
    indexes: dict[str, example.Index],
    start: Start,
) -> None:
    """Train the head in model_dir/head, an experiment of its own, and then the whole model from there.

    A run that begins with the weights of another fine-tuned experiment begins with the second phase.
    """
    from cxr.networks import assembly
    from model_fn import model_fn

    head_dir, head_params = model_dir / "head", params.head_phase()
    with devices.mirrored_devices().scope():
        extractors = assembly.load_extractors(params, images.info)
    networks = {name: extractor.sha256 for name, extractor in extractors.items()}
    restore_from = begin(model_dir, params, images, indexes, networks=networks, start=start)["restore_from"]
    if not restore_from:
        head_dir.mkdir(exist_ok=True)
        storage.write_json(head_dir / "params.json", as_json(head_params))
        fit_head(head_params, images, head_dir, indexes, start)
    log.info("fine-tuning %s", params.fine_tune)
    with devices.mirrored_devices().scope():
        model = model_fn(params, images.info, extractors=extractors)
        if not restore_from:
            model.set_weights(assembly.trained_model(head_dir).get_weights())
        run = Run(params.last_phase(), model, {"image": images}, model_dir)
    fit_run(run, images, indexes, params, start)


def open_log(model_dir: pathlib.Path) -> None:
    """Send the log to the terminal and to the end of train.log."""
    log.setLevel(logging.INFO)
    for handler in log.handlers:
        handler.close()
    log.handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(model_dir / "train.log")]


def main(argv: list[str] | None = None) -> None:
    """Train one experiment."""
    args = parse_args(argv)
    with one_line_errors(), storage.exclusive(existing(args.model_dir), "training in"):
        params, images = load_params(args.model_dir), open_dataset(args.data_dir)
        if args.restart:
            experiment.move_aside(args.model_dir)
        elif not args.resume:
            experiment.require_untrained(args.model_dir)
        elif identity.begun(args.model_dir) is not None:  # before anything slow
            identity.require_params(args.model_dir, params)
            identity.require_dataset(args.model_dir, images.info["fingerprint"])
        open_log(args.model_dir)
        devices.prepare_devices(deterministic=args.deterministic)
        indexes = read_splits(images)
        log_start(params, images, indexes)
        phases = fine_tune if params.fine_tune else fit_head
        engine = Engine(args.engine, ray_address=args.ray_address)
        phases(params, images, args.model_dir, indexes, Start(args.resume, args.restore_from, args.allow_leak, engine))
        log.info("next: python evaluate.py --model_dir %s --data_dir %s", args.model_dir, args.data_dir)


if __name__ == "__main__":
    main()
