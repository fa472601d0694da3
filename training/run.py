"""The epochs of one run: what is trained, validated, kept, and resumed."""

import contextlib
import logging
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from cxr import experiment
from cxr.evaluation import metrics
from cxr.findings import FINDINGS
from cxr.networks import losses
from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import Dataset
from training import optimizers, tensorboard
from training.averaging import WeightAverage
from training.history import History

if TYPE_CHECKING:
    import keras

log = logging.getLogger("train")
NAMED_IMAGES = 32  # of a batch whose loss is no number


class Run:
    """A training run: the model, its optimizer and its history, and the files that follow them."""

    def __init__(
        self,
        params: Params,
        model: "keras.Model",
        datasets: dict[str, Dataset],
        model_dir: pathlib.Path,
        *,
        copies: Sequence[dict[str, Dataset]] = (),
    ) -> None:
        """Take a model that is to be trained.

        Args:
            datasets: by the model's inputs; it is evaluated on these, and trained on them.
            copies: the same with augmented training images: training epochs take turns with `datasets` and these.
        """
        self.params, self.model, self.datasets, self.model_dir = params, model, datasets, model_dir
        self.turns = [datasets, *copies]
        self.history = History(model_dir)
        images = next(iter(datasets.values())).images("train")
        self.steps = images // params.batch_size  # per epoch; the rest waits for another
        if self.steps == 0:
            raise ValueError(
                f"{images} training images are less than one batch of {params.batch_size}; "
                "build a larger dataset, or lower batch_size in params.json"
            )
        self.compile()
        self.average = WeightAverage(model, params.ema_decay) if params.ema_decay else None

    def compile(self) -> None:
        """Give the model its loss and optimizer."""
        import keras

        self.rate = optimizers.learning_rate(self.params, self.steps)
        optimizer = optimizers.make_optimizer(self.params, self.rate)
        if self.params.precision == "mixed_float16":  # its gradients would underflow
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        loss = losses.make_loss(self.params, next(iter(self.datasets.values())).info)
        self.model.compile(optimizer, loss, jit_compile=False, auto_scale_loss=False)
        optimizer.build(self.model.trainable_variables)

    def variables(self) -> list:
        """Weights, random state of dropout, the optimizer's step and moments, and the average of the weights."""
        averages = self.average.averages if self.average else []
        return [*self.model.variables, *self.model.optimizer.variables, *averages]

    def averaged(self) -> contextlib.AbstractContextManager:
        """The model as it is evaluated and kept: with the average of its weights, where there is one."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def save(self, *, is_best: bool) -> None:
        """Write weights and, last, the state to go on from; killed in between, the epoch is done again."""
        with self.averaged():
            for checkpoint in experiment.CHECKPOINTS if is_best else ("last",):
                experiment.save_weights(self.model, self.model_dir, checkpoint)
        story = {"fingerprint": self.fingerprint(), "history": self.history.rows}
        experiment.save_state(self.model_dir, [np.asarray(v) for v in self.variables()], story)

    def fingerprint(self) -> str:
        """Of the datasets it is trained on."""
        return " ".join(dataset.info["fingerprint"] for dataset in self.datasets.values())

    def restore(self) -> bool:
        """Continue from the state that `save` wrote; returns False where there is none yet."""
        state = experiment.load_state(self.model_dir, self.fingerprint())
        if state is None:
            return False
        values, self.history.rows = state
        for variable, value in zip(self.variables(), values, strict=True):
            variable.assign(value)
        return True


def run_epochs(run: Run, val: example.Index) -> None:
    """Run the epochs that are left; the best weights are those of the best val mean AUROC."""
    history, params = run.history, run.params
    if history.rows:
        history.write()  # the run may have ended between its state and its history
    else:
        tensorboard.show_start(run)
    show_epoch, first = tensorboard.epoch_board(run, val), len(history.rows)
    for epoch in range(first, params.num_epochs):
        if history.epochs_since_best() >= params.early_stopping_patience:
            log.info("no better val AUROC for %d epochs: stopping", params.early_stopping_patience)
            break
        if epoch == first and (old := experiment.move_aside(run.model_dir, experiment.RESULTS)):
            log.info("moved to %s: results of the weights that the next epochs may replace", old)
        trained, probabilities = fit_epoch(run, epoch), validate(run)
        history.rows.append({**trained, **val_columns(val.labels, probabilities)})
        run.save(is_best=history.epochs_since_best() == 0)
        history.write()
        history.write_scalars()
        show_epoch(epoch + 1, probabilities)
        log.info(history.describe(params.num_epochs))


def fit_epoch(run: Run, epoch: int) -> dict:
    """Train one epoch; returns its row of history.csv but for the val columns."""
    import keras

    from input_fn import input_fn

    if run.params.lr_schedule == "plateau":
        run.rate.factor.assign(optimizers.PLATEAU_FACTOR ** run.history.plateaus(optimizers.PLATEAU_EPOCHS))
    datasets, failed = run.turns[epoch % len(run.turns)], []
    batches = input_fn("train", datasets, run.params, epoch=epoch, inputs=list(run.model.input))
    start = time.perf_counter()
    fitted = run.model.fit(batches, verbose=0, shuffle=False, callbacks=callbacks(run, epoch, failed))
    loss, seconds = fitted.history["loss"][-1], time.perf_counter() - start
    if failed:
        step, value = min(failed)  # the first: callbacks that nobody waits for may come out of order
        raise no_number(run, epoch, step, f"the loss of epoch {epoch + 1} is {value} from step {step + 1} on")
    if not all(np.isfinite(weight).all() for weight in run.model.get_weights()):  # these must not be saved
        raise no_number(run, epoch, run.steps, f"the last step of epoch {epoch + 1} left weights that are no numbers")
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "learning_rate": float(keras.ops.convert_to_numpy(run.model.optimizer.learning_rate)),
        "seconds": round(seconds, 2),
        "images_per_second": round(run.steps * run.params.batch_size / seconds, 1),
    }


def callbacks(run: Run, epoch: int, failed: list) -> list:
    """What happens after a training step: the average moves, and a loss that is no number goes into `failed`."""
    import keras

    def watch(step: int, logs: dict) -> None:
        if not np.isfinite(logs["loss"]):
            failed.append((step, logs["loss"]))
            run.model.stop_training = True

    watching = keras.callbacks.LambdaCallback(on_train_batch_end=watch)
    watching.async_safe = True  # a GPU need not wait until somebody has looked
    if run.average is None:
        return [watching]
    start = epoch * run.steps
    return [
        watching,
        keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: run.average.update(start + step)),
    ]


def no_number(run: Run, epoch: int, step: int, what: str) -> ValueError:
    """The error that names the images of a step whose loss is no number, and those of the step before.

    Either may be the cause: a loss that is a number can have a gradient that is none, and that shows a step later.
    """
    from input_fn import batch_ids

    datasets, named = run.turns[epoch % len(run.turns)], []
    for place in (step, step - 1):
        if 0 <= place < run.steps:
            ids = batch_ids(datasets, run.params, epoch=epoch, step=place)
            rest = f" and {len(ids) - NAMED_IMAGES:,} more" if len(ids) > NAMED_IMAGES else ""
            named.append(f"step {place + 1}: {', '.join(ids[:NAMED_IMAGES])}{rest}")
    return ValueError(
        f"{what}; lower learning_rate in params.json, or look at the images it may come from, and --restart. "
        + "; ".join(named)
    )


def validate(run: Run) -> np.ndarray:
    """Probabilities float64 [n, 14] of the val images."""
    from evaluate import predict_logits

    with run.averaged():
        logits = predict_logits(run.model, "val", run.datasets, run.params).astype(np.float64)
    return expit(logits)


def val_columns(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """The val columns of history.csv: loss, mean and per-finding AUROC; None where undefined."""
    if len(probabilities) == 0:
        return {"val_loss": None, "val_mean_auroc": None, **{f"val_auroc_{finding}": None for finding in FINDINGS}}
    aurocs = [metrics.auroc(labels[:, column], probabilities[:, column]) for column in range(len(FINDINGS))]
    row = {
        "val_loss": metrics.log_loss(labels, probabilities),
        "val_mean_auroc": metrics.mean_defined(aurocs),
        **{f"val_auroc_{finding}": value for finding, value in zip(FINDINGS, aurocs, strict=True)},
    }
    return metrics.none_for_nan(row)
