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

import numpy as np
from etils import epath

from cxr import experiment, storage
from cxr.data import dataset, records, splits
from cxr.errors import one_line_errors
from cxr.evaluation import metrics
from cxr.findings import FINDINGS
from cxr.params import Params, load_params

log = logging.getLogger("train")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", type=pathlib.Path, required=True, help="experiment folder with params.json")
    parser.add_argument("--data_dir", type=epath.Path, default="data/records", help="default: %(default)s")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue where the run in model_dir stopped")
    again.add_argument("--restart", action="store_true", help="move the run in model_dir aside and begin anew")
    return parser.parse_args(argv)


def read_splits(data_dir: epath.Path, info: dict) -> dict[str, records.Index]:
    """Index every split from its records, every CRC checked, and see that no patient is in two of them."""
    indexes = {split: records.read_index(dataset.shard_paths(data_dir, info, split)) for split in splits.SPLITS}
    splits.require_disjoint({split: index.patient_ids.tolist() for split, index in indexes.items()})
    for split, index in indexes.items():
        if len(index.image_ids) != info["splits"][split]["images"]:
            raise ValueError(f"{split} has {len(index.image_ids)} records, dataset.json says otherwise; build it again")
    return indexes


class Run:
    """A training run: the model, its optimizer and its history, and the files that follow them."""

    def __init__(self, params: Params, info: dict, data_dir: epath.Path, model_dir: pathlib.Path) -> None:
        from model_fn import model_fn

        self.params, self.info, self.data_dir, self.model_dir = params, info, data_dir, model_dir
        self.history: list[dict] = []
        self.model = model_fn(params, info)
        self.steps = info["splits"]["train"]["images"] // params.batch_size  # per epoch; the rest waits for another
        if self.steps == 0:
            raise ValueError(
                f"{info['splits']['train']['images']} training images are less than one batch of {params.batch_size}; "
                "build a larger dataset, or lower batch_size in params.json"
            )
        self.compile()

    def compile(self) -> None:
        """Give the model its loss and optimizer."""
        import keras

        from cxr.networks import optimizers

        optimizer = optimizers.make_optimizer(self.params, self.steps)
        self.model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
        optimizer.build(self.model.trainable_variables)

    @property
    def best(self) -> float:
        """Best val mean AUROC so far; nan before the first defined one."""
        return max((row["val_mean_auroc"] for row in self.history if row["val_mean_auroc"] is not None), default=np.nan)

    def epochs_since_best(self) -> int:
        """Epochs without a better val mean AUROC; 0 where it is undefined, so that best follows last."""
        values = [row["val_mean_auroc"] for row in self.history]
        if not values or values[-1] is None:
            return 0
        return len(values) - 1 - values.index(max(value for value in values if value is not None))

    def variables(self) -> list:
        """Weights, random state of dropout, and the optimizer's step and moments."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def save(self, *, is_best: bool) -> None:
        """Write weights and, last, the state to go on from; killed in between, the epoch is done again."""
        for checkpoint in experiment.CHECKPOINTS if is_best else ("last",):
            experiment.save_weights(self.model, self.model_dir, checkpoint)
        story = {"params": self.described(), "fingerprint": self.info["fingerprint"], "history": self.history}
        experiment.save_state(self.model_dir, [np.asarray(v) for v in self.variables()], story)

    def described(self) -> dict:
        """The parameters as they read in JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self.params)))

    def restore(self) -> None:
        """Take up the state that `save` wrote; without one, begin anew."""
        state = experiment.load_state(self.model_dir, self.described(), self.info["fingerprint"])
        if state is None:
            log.info("the run had not finished its first epoch: beginning anew")
            return
        values, self.history = state
        for variable, value in zip(self.variables(), values, strict=True):
            variable.assign(value)


def fit_epoch(run: Run, epoch: int) -> dict:
    """Train one epoch; returns its row of history.csv but for the val columns."""
    from input_fn import input_fn

    batches = input_fn("train", run.data_dir, run.params, info=run.info, epoch=epoch, inputs=list(run.model.input))
    start = time.perf_counter()
    loss = run.model.fit(batches, verbose=0, shuffle=False).history["loss"][-1]
    seconds = time.perf_counter() - start
    if not np.isfinite(loss):
        raise ValueError(f"the loss of epoch {epoch + 1} is {loss}; lower learning_rate in params.json and --restart")
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "learning_rate": float(run.model.optimizer.learning_rate),
        "seconds": round(seconds, 2),
        "images_per_second": round(run.steps * run.params.batch_size / seconds, 1),
    }


def validate(run: Run, index: records.Index) -> dict:
    """The val columns of history.csv: loss, mean and per-finding AUROC; None where undefined."""
    from evaluate import predict_logits

    logits = predict_logits(run.model, "val", run.data_dir, run.params, run.info).astype(np.float64)
    if len(logits) == 0:
        return {"val_loss": None, "val_mean_auroc": None, **{f"val_auroc_{finding}": None for finding in FINDINGS}}
    aurocs = [metrics.auroc(index.labels[:, column], logits[:, column]) for column in range(len(FINDINGS))]
    row = {
        "val_loss": metrics.log_loss(index.labels, 1 / (1 + np.exp(-logits))),
        "val_mean_auroc": metrics.mean_defined(aurocs),
        **{f"val_auroc_{finding}": value for finding, value in zip(FINDINGS, aurocs, strict=True)},
    }
    return metrics.none_for_nan(row)


def write_history(run: Run) -> None:
    """Write history.csv whole."""
    import pandas as pd

    storage.write_text(run.model_dir / "history.csv", pd.DataFrame(run.history).to_csv(index=False))


def write_scalars(writer, row: dict) -> None:
    """Write one row of the history as TensorBoard scalars."""
    import tensorflow as tf

    with writer.as_default(step=row["epoch"]):
        for key, value in row.items():
            if key != "epoch" and value is not None:
                tf.summary.scalar(key.replace("val_auroc_", "val_auroc/"), value)


def log_start(params: Params, info: dict, indexes: dict[str, records.Index], data_dir: epath.Path) -> None:
    """Say what is about to be trained on what."""
    changed = {k: v for k, v in dataclasses.asdict(params).items() if v != getattr(Params(), k)}
    log.info("%s @ %s   %s", params.model, experiment.git_sha(), json.dumps(changed))
    log.info("data %s   split %s   fingerprint %s", data_dir, info["split"]["name"], info["fingerprint"][:12])
    for split, index in indexes.items():
        positives = "  ".join(f"{f} {n:,}" for f, n in zip(FINDINGS, index.labels.sum(axis=0).tolist(), strict=True))
        log.info("%-5s %7s images %6s patients   %s", split, f"{len(index.image_ids):,}",
                 f"{len(np.unique(index.patient_ids)):,}", positives)  # fmt: skip
    log.info("left out: %s missing, %s rejected", f"{info['missing']:,}", f"{info['rejected']:,}")


def log_epoch(run: Run, row: dict) -> None:
    """One line per epoch."""
    auroc = "undefined" if row["val_mean_auroc"] is None else f"{row['val_mean_auroc']:.4f} (best {run.best:.4f})"
    log.info(
        "epoch %3d/%d   loss %.4f   val AUROC %s   %.0f img/s   %.0f s",
        row["epoch"], run.params.num_epochs, row["loss"], auroc, row["images_per_second"], row["seconds"],
    )  # fmt: skip


def train(run: Run, val: records.Index) -> None:
    """Run the epochs that are left; the best weights are those of the best val mean AUROC."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(run.model_dir / "tensorboard"))
    if run.history:
        write_history(run)  # the run may have ended between its state and its history
    for epoch in range(len(run.history), run.params.num_epochs):
        if run.epochs_since_best() >= run.params.early_stopping_patience:
            log.info("no better val AUROC for %d epochs: stopping", run.params.early_stopping_patience)
            break
        run.history.append({**fit_epoch(run, epoch), **validate(run, val)})
        run.save(is_best=run.epochs_since_best() == 0)
        write_history(run)
        write_scalars(writer, run.history[-1])
        writer.flush()
        log_epoch(run, run.history[-1])


def finish(run: Run) -> None:
    """Evaluate val with the best and the last weights and say what comes next."""
    from evaluate import evaluate_split

    for checkpoint in reversed(experiment.CHECKPOINTS):
        experiment.load_weights(run.model, run.model_dir, checkpoint)
        result = evaluate_split(
            run.model, "val", data_dir=run.data_dir, params=run.params, model_dir=run.model_dir, checkpoint=checkpoint
        )
        mean = result["mean_auroc"]
        if mean["value"] is None:
            log.info("%s weights: val AUROC undefined", checkpoint)
        else:
            log.info("%s weights: val mean AUROC %.4f [%.4f, %.4f] over %d findings", checkpoint, *mean.values())
    log.info("next: python evaluate.py --model_dir %s --data_dir %s", run.model_dir, run.data_dir)


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
        params, info = load_params(args.model_dir), dataset.open_dataset(args.data_dir)
        if args.restart:
            experiment.move_aside(args.model_dir)
        elif not args.resume:
            experiment.require_untrained(args.model_dir)
        open_log(args.model_dir)
        indexes = read_splits(args.data_dir, info)
        log_start(params, info, indexes, args.data_dir)
        run = Run(params, info, args.data_dir, args.model_dir)
        if args.resume:
            run.restore()
        storage.write_json(args.model_dir / "dataset.json", info)
        train(run, indexes["val"])
        finish(run)


if __name__ == "__main__":
    main()
