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

import board
from cxr import experiment, storage
from cxr.data import engines, records, splits
from cxr.data.dataset import Dataset, open_dataset
from cxr.errors import one_line_errors
from cxr.findings import FINDINGS
from cxr.networks import precision
from cxr.params import Params, as_json, load_params
from fit import Run, run_epochs

log = logging.getLogger("train")


class Start(NamedTuple):
    """Where a run begins, and where features for it are extracted."""

    resume: bool = False  # where it stopped
    restore_from: pathlib.Path | None = None  # with the best weights of an experiment of the same architecture
    engine: engines.Engine = engines.LOCAL


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="experiment folder with params.json")
    add("--data_dir", type=epath.Path, default="data/records", help="default: %(default)s")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue where the run in model_dir stopped")
    again.add_argument("--restore_from", type=pathlib.Path, metavar="DIR", help="begin with this experiment's weights")
    again.add_argument("--restart", action="store_true", help="move the run in model_dir aside and begin anew")
    engines.add_flags(parser, "features are extracted")
    args = parser.parse_args(argv)
    engines.check_flags(parser, args)
    return args


def read_splits(images: Dataset) -> dict[str, records.Index]:
    """Index every split from its records, every CRC checked, and see that no patient is in two of them."""
    indexes = {split: records.read_index(images.paths(split)) for split in splits.SPLITS}
    splits.require_disjoint({split: index.patient_ids.tolist() for split, index in indexes.items()})
    for split, index in indexes.items():
        if len(index.image_ids) != images.images(split):
            raise ValueError(f"{split} has {len(index.image_ids)} records, dataset.json says otherwise; build it again")
    return indexes


def log_start(params: Params, images: Dataset, indexes: dict[str, records.Index]) -> None:
    """Say what is about to be trained on what."""
    changed = {k: v for k, v in dataclasses.asdict(params).items() if v != getattr(Params(), k)}
    log.info("%s @ %s   %s", params.model, experiment.git_sha(), json.dumps(changed))
    info = images.info
    log.info("data %s   split %s   fingerprint %s", images.folder, info["split"]["name"], info["fingerprint"][:12])
    for split, index in indexes.items():
        positives = "  ".join(f"{f} {n:,}" for f, n in zip(FINDINGS, index.labels.sum(axis=0).tolist(), strict=True))
        log.info("%-5s %7s images %6s patients   %s", split, f"{len(index.image_ids):,}",
                 f"{len(np.unique(index.patient_ids)):,}", positives)  # fmt: skip
    log.info("left out: %s missing, %s rejected", f"{info['missing']:,}", f"{info['rejected']:,}")


def patients_seen(indexes: dict[str, records.Index], restore_from: pathlib.Path | None) -> dict[str, list[int]]:
    """Whom the weights of a run will have seen, those it begins with included.

    Raises:
        ValueError: those were trained on patients of val.
    """
    train, val = (set(indexes[split].patient_ids.tolist()) for split in ("train", "val"))
    before = experiment.patients_of(restore_from) if restore_from else {}
    known = set(before.get("train", ()))
    if known & val:
        raise ValueError(
            f"{len(known & val):,} patients of val were in training of {restore_from}: val scores would be too good; "
            "build the dataset with the split that it was trained on"
        )
    return {"train": sorted(train | known | set(before.get("val", ())) - val), "val": sorted(val)}


def fit_run(run: Run, images: Dataset, indexes: dict[str, records.Index], params: Params, start: Start) -> None:
    """Train a run from its start or from where it stopped, to its val metrics; first note on what and on whom."""
    seen = patients_seen(indexes, start.restore_from)
    if start.restore_from:
        experiment.load_weights(run.model, start.restore_from, "best")
    if start.resume:
        run.restore()
    storage.write_json(run.model_dir / "dataset.json", images.info)
    if not (start.resume and experiment.patients_of(run.model_dir)):  # it may have begun with weights of others
        storage.write_json(experiment.patients_path(run.model_dir), seen)
    run_epochs(run, indexes["val"])
    finish(run, images, params)
    board.show_end(run, indexes["val"])


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
    indexes: dict[str, records.Index],
    start: Start,
) -> None:
    """Train what an experiment trains from scratch: all of simple_cnn, or the head over cached features."""
    from assemble import training_datasets, training_views
    from model_fn import model_fn

    datasets = training_datasets(params, images, engine=start.engine)
    widths = {name: dataset.info["dimension"] for name, dataset in datasets.items() if name != "image"}
    views = training_views(params, images, datasets, engine=start.engine)
    with precision.mirrored_devices().scope():
        run = Run(params, model_fn(params, images.info, widths), datasets, model_dir, views=views)
    fit_run(run, images, indexes, params, start)


def fine_tune(
    params: Params,
    images: Dataset,
    model_dir: pathlib.Path,
    indexes: dict[str, records.Index],
    start: Start,
) -> None:
    """Train the head in model_dir/head, an experiment of its own, and then the whole model from there.

    A run that begins with the weights of another fine-tuned experiment begins with the second phase.
    """
    from assemble import trained_model, training_datasets, untrained_model

    head_dir, head_params = model_dir / "head", params.head_phase()
    if not start.restore_from:
        head_dir.mkdir(exist_ok=True)
        storage.write_json(head_dir / "params.json", as_json(head_params))
        fit_head(head_params, images, head_dir, indexes, start)
    log.info("fine-tuning %s", params.fine_tune)
    with precision.mirrored_devices().scope():
        model = untrained_model(params, images.info)
        if not start.restore_from:
            model.set_weights(trained_model(head_dir).get_weights())
        run = Run(params.last_phase(), model, training_datasets(params, images, whole=True), model_dir)
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
    with one_line_errors():
        params, images = load_params(args.model_dir), open_dataset(args.data_dir)
        if args.restart:
            experiment.move_aside(args.model_dir)
        elif not args.resume:
            experiment.require_untrained(args.model_dir)
        open_log(args.model_dir)
        indexes = read_splits(images)
        log_start(params, images, indexes)
        phases = fine_tune if params.fine_tune else fit_head
        engine = engines.Engine(args.engine, ray_address=args.ray_address)
        phases(params, images, args.model_dir, indexes, Start(args.resume, args.restore_from, engine))
        log.info("next: python evaluate.py --model_dir %s --data_dir %s", args.model_dir, args.data_dir)


if __name__ == "__main__":
    main()
