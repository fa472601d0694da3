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
import time
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cxr import experiment, storage
from cxr.data import engines, records, splits
from cxr.data.dataset import Dataset, open_dataset
from cxr.errors import one_line_errors
from cxr.evaluation import metrics
from cxr.findings import FINDINGS
from cxr.history import History
from cxr.networks import precision
from cxr.params import Params, load_params

if TYPE_CHECKING:
    import keras

log = logging.getLogger("train")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="experiment folder with params.json")
    add("--data_dir", type=epath.Path, default="data/records", help="default: %(default)s")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue where the run in model_dir stopped")
    again.add_argument("--restart", action="store_true", help="move the run in model_dir aside and begin anew")
    add("--engine", choices=engines.NAMES, default="local", help="where features are extracted; default: %(default)s")
    add("--ray_address", metavar="A", help="of a running Ray cluster: auto, HOST:PORT; default: start one here")
    args = parser.parse_args(argv)
    if args.ray_address and args.engine != "ray":
        parser.error("--ray_address goes with --engine ray")
    return args


def read_splits(images: Dataset) -> dict[str, records.Index]:
    """Index every split from its records, every CRC checked, and see that no patient is in two of them."""
    indexes = {split: records.read_index(images.paths(split)) for split in splits.SPLITS}
    splits.require_disjoint({split: index.patient_ids.tolist() for split, index in indexes.items()})
    for split, index in indexes.items():
        if len(index.image_ids) != images.images(split):
            raise ValueError(f"{split} has {len(index.image_ids)} records, dataset.json says otherwise; build it again")
    return indexes


class Run:
    """A training run: the model, its optimizer and its history, and the files that follow them."""

    def __init__(
        self, params: Params, model: "keras.Model", datasets: dict[str, Dataset], model_dir: pathlib.Path
    ) -> None:
        self.params, self.model, self.datasets, self.model_dir = params, model, datasets, model_dir
        self.history = History(model_dir)
        images = next(iter(datasets.values())).images("train")
        self.steps = images // params.batch_size  # per epoch; the rest waits for another
        if self.steps == 0:
            raise ValueError(
                f"{images} training images are less than one batch of {params.batch_size}; "
                "build a larger dataset, or lower batch_size in params.json"
            )
        self.compile()

    def compile(self) -> None:
        """Give the model its loss and optimizer."""
        import keras

        from cxr.networks import optimizers

        optimizer = optimizers.make_optimizer(self.params, self.steps)
        if self.params.precision == "mixed_float16":  # its gradients would underflow
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        self.model.compile(
            optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False, auto_scale_loss=False
        )
        optimizer.build(self.model.trainable_variables)

    def variables(self) -> list:
        """Weights, random state of dropout, and the optimizer's step and moments."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def save(self, *, is_best: bool) -> None:
        """Write weights and, last, the state to go on from; killed in between, the epoch is done again."""
        for checkpoint in experiment.CHECKPOINTS if is_best else ("last",):
            experiment.save_weights(self.model, self.model_dir, checkpoint)
        story = {"params": described(self.params), "fingerprint": self.fingerprint(), "history": self.history.rows}
        experiment.save_state(self.model_dir, [np.asarray(v) for v in self.variables()], story)

    def fingerprint(self) -> str:
        """Of the datasets it is trained on."""
        return " ".join(dataset.info["fingerprint"] for dataset in self.datasets.values())

    def restore(self) -> None:
        """Take up the state that `save` wrote; without one, begin anew."""
        state = experiment.load_state(self.model_dir, described(self.params), self.fingerprint())
        if state is None:
            log.info("the run had not finished its first epoch: beginning anew")
            return
        values, self.history.rows = state
        for variable, value in zip(self.variables(), values, strict=True):
            variable.assign(value)


def described(params: Params) -> dict:
    """The parameters as they read in JSON."""
    return json.loads(json.dumps(dataclasses.asdict(params)))


def fit_epoch(run: Run, epoch: int) -> dict:
    """Train one epoch; returns its row of history.csv but for the val columns."""
    import keras

    from input_fn import input_fn

    batches = input_fn("train", run.datasets, run.params, epoch=epoch, inputs=list(run.model.input))
    start = time.perf_counter()
    loss = run.model.fit(batches, verbose=0, shuffle=False).history["loss"][-1]
    seconds = time.perf_counter() - start
    if not np.isfinite(loss):
        raise ValueError(f"the loss of epoch {epoch + 1} is {loss}; lower learning_rate in params.json and --restart")
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "learning_rate": float(keras.ops.convert_to_numpy(run.model.optimizer.learning_rate)),
        "seconds": round(seconds, 2),
        "images_per_second": round(run.steps * run.params.batch_size / seconds, 1),
    }


def validate(run: Run, index: records.Index) -> dict:
    """The val columns of history.csv: loss, mean and per-finding AUROC; None where undefined."""
    from evaluate import predict_logits

    logits = predict_logits(run.model, "val", run.datasets, run.params).astype(np.float64)
    if len(logits) == 0:
        return {"val_loss": None, "val_mean_auroc": None, **{f"val_auroc_{finding}": None for finding in FINDINGS}}
    aurocs = [metrics.auroc(index.labels[:, column], logits[:, column]) for column in range(len(FINDINGS))]
    row = {
        "val_loss": metrics.log_loss(index.labels, 1 / (1 + np.exp(-logits))),
        "val_mean_auroc": metrics.mean_defined(aurocs),
        **{f"val_auroc_{finding}": value for finding, value in zip(FINDINGS, aurocs, strict=True)},
    }
    return metrics.none_for_nan(row)


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


def train(run: Run, val: records.Index) -> None:
    """Run the epochs that are left; the best weights are those of the best val mean AUROC."""
    history, params = run.history, run.params
    if history.rows:
        history.write()  # the run may have ended between its state and its history
    for epoch in range(len(history.rows), params.num_epochs):
        if history.epochs_since_best() >= params.early_stopping_patience:
            log.info("no better val AUROC for %d epochs: stopping", params.early_stopping_patience)
            break
        history.rows.append({**fit_epoch(run, epoch), **validate(run, val)})
        run.save(is_best=history.epochs_since_best() == 0)
        history.write()
        history.write_scalars()
        log.info(history.describe(params.num_epochs))


def fit(run: Run, images: Dataset, indexes: dict[str, records.Index], params: Params, *, resume: bool) -> None:
    """Train a run from its start or from where it stopped, to its val metrics; first note on what and on whom."""
    if resume:
        run.restore()
    storage.write_json(run.model_dir / "dataset.json", images.info)
    seen = {split: np.unique(indexes[split].patient_ids).tolist() for split in ("train", "val")}
    storage.write_json(experiment.patients_path(run.model_dir), seen)
    train(run, indexes["val"])
    finish(run, images, params)


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
    *,
    resume: bool,
    engine: engines.Engine,
) -> None:
    """Train what an experiment trains from scratch: all of simple_cnn, or the head over cached features."""
    from model_fn import model_fn, training_datasets

    datasets = training_datasets(params, images, engine=engine)
    widths = {name: dataset.info["dimension"] for name, dataset in datasets.items() if name != "image"}
    with precision.mirrored_devices().scope():
        run = Run(params, model_fn(params, images.info, widths), datasets, model_dir)
    fit(run, images, indexes, params, resume=resume)


def fine_tune(
    params: Params,
    images: Dataset,
    model_dir: pathlib.Path,
    indexes: dict[str, records.Index],
    *,
    resume: bool,
    engine: engines.Engine,
) -> None:
    """Train the head in model_dir/head, an experiment of its own, and then the whole model from there."""
    from model_fn import trained_model, training_datasets, untrained_model

    head_dir, head_params = model_dir / "head", dataclasses.replace(params, fine_tune=None)
    head_dir.mkdir(exist_ok=True)
    storage.write_json(head_dir / "params.json", described(head_params))
    fit_head(head_params, images, head_dir, indexes, resume=resume, engine=engine)
    log.info("fine-tuning %s", params.fine_tune)
    with precision.mirrored_devices().scope():
        model = untrained_model(params, images.info)
        model.set_weights(trained_model(head_dir).get_weights())
        run = Run(params.last_phase(), model, training_datasets(params, images, whole=True), model_dir)
    fit(run, images, indexes, params, resume=resume)


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
        phases(params, images, args.model_dir, indexes, resume=args.resume, engine=engine)
        log.info("next: python evaluate.py --model_dir %s --data_dir %s", args.model_dir, args.data_dir)


if __name__ == "__main__":
    main()
