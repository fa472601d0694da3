"""The epochs of a run: train, validate, keep the best weights, stop early, and explain a loss that is not finite."""

import logging
import time

import numpy as np

from cxr import experiment
from cxr.effects import PLATEAU_EPOCHS
from cxr.evaluation import metrics
from cxr.evaluation.within import mean_within_groups
from cxr.findings import FINDINGS
from cxr.records import example
from input_fn import batch_ids, input_fn
from training import figures, optimizers
from training.history import NAMES, POOLED, WITHIN
from training.run import Run
from training.start import criterion_of

log = logging.getLogger("train")
NAMED_IMAGES = 32  # of each batch in the error about a loss that is not finite


def run_epochs(run: Run, val: example.Index) -> None:
    """Run the remaining epochs; the best weights are those of the best epoch by `criterion_of`."""
    history = run.history
    history.criterion = criterion_of(val)
    params = run.params
    if history.rows:
        history.write()  # the run may have been killed after its state was saved, before its history
    else:
        figures.show_start(run)
    examples = figures.heat_map_examples(run, val)
    first = len(history.rows)
    for epoch in range(first, params.num_epochs):
        if history.epochs_since_best() >= params.early_stopping_patience:
            patience = params.early_stopping_patience
            log.info("no better %s for %d epochs: stopping", NAMES[history.criterion], patience)
            break
        if epoch == first and (old := experiment.move_aside(run.model_dir, experiment.RESULTS)):
            log.info("moved to %s: results of the weights that the next epochs may replace", old)
        trained = fit_epoch(run, epoch)
        probabilities = validate(run)
        history.rows.append({**trained, **val_columns(val, probabilities)})
        run.save(is_best=history.epochs_since_best() == 0)
        history.write()
        history.write_scalars()
        figures.show_epoch(run, epoch + 1, val.labels, probabilities, examples=examples)
        log.info(history.describe(params.num_epochs))


def fit_epoch(run: Run, epoch: int) -> dict:
    """Train one epoch; returns its row of history.csv without the val columns.

    Raises:
        ValueError: the loss or the weights became NaN or infinite; the text names the images of the last batches.
    """
    import keras

    if run.params.lr_schedule == "plateau":
        run.learning_rate.factor.assign(optimizers.PLATEAU_FACTOR ** run.history.plateaus(PLATEAU_EPOCHS))
    failed = []
    batches = input_fn("train", run.datasets, run.params, epoch=epoch, inputs=list(run.model.input))
    start = time.perf_counter()
    fitted = run.model.fit(batches, verbose=0, shuffle=False, callbacks=callbacks(run, epoch, failed))
    seconds = time.perf_counter() - start
    if failed:
        step, value = min(failed)  # the first one: asynchronous callbacks may arrive out of order
        raise not_finite_error(run, epoch, step, f"the loss of epoch {epoch + 1} is {value} from step {step + 1} on")
    if not all(np.isfinite(weight).all() for weight in run.model.get_weights()):  # must not be saved
        text = f"weights became NaN or infinite in the last step of epoch {epoch + 1}"
        raise not_finite_error(run, epoch, run.steps, text)
    return {
        "epoch": epoch + 1,
        "loss": fitted.history["loss"][-1],
        "learning_rate": float(keras.ops.convert_to_numpy(run.model.optimizer.learning_rate)),
        "seconds": round(seconds, 2),
        "images_per_second": round(run.steps * run.params.batch_size / seconds, 1),
    }


def callbacks(run: Run, epoch: int, failed: list) -> list:
    """Callbacks after each training step: update the moving average, and stop at a loss that is not finite.

    Args:
        failed: receives (step, loss) where the loss is NaN or infinite.
    """
    import keras

    def watch(step: int, logs: dict) -> None:
        if not np.isfinite(logs["loss"]):
            failed.append((step, logs["loss"]))
            run.model.stop_training = True

    watching = keras.callbacks.LambdaCallback(on_train_batch_end=watch)
    watching.async_safe = True  # a GPU need not wait for this callback
    if run.average is None:
        return [watching]
    start = epoch * run.steps
    averaging = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: run.average.update(start + step))
    return [watching, averaging]


def not_finite_error(run: Run, epoch: int, step: int, what: str) -> ValueError:
    """The error that names the images of a step whose loss is not finite, and those of the step before.

    Either batch may be the cause: a finite loss can have a gradient that is not finite, which shows one step later.
    """
    batches = []
    for number in (step, step - 1):
        if 0 <= number < run.steps:
            ids = batch_ids(run.datasets, run.params, epoch=epoch, step=number)
            rest = f" and {len(ids) - NAMED_IMAGES:,} more" if len(ids) > NAMED_IMAGES else ""
            batches.append(f"step {number + 1}: {', '.join(ids[:NAMED_IMAGES])}{rest}")
    return ValueError(
        f"{what}. Lower learning_rate in params.json or check the images of these steps, then train with --restart. "
        + "; ".join(batches)
    )


def validate(run: Run) -> np.ndarray:
    """Probabilities float64 [n, 14] of the val images."""
    with run.averaged():
        return metrics.sigmoid(run.predict_val().astype(np.float64))


def val_columns(val: example.Index, probabilities: np.ndarray) -> dict:
    """The val columns of history.csv: loss, mean and per-finding AUROC, and with groups the mean within them.

    None where undefined.
    """
    labels = val.labels
    if len(probabilities) == 0:
        return {"val_loss": None, POOLED: None, **{f"val_auroc_{finding}": None for finding in FINDINGS}}
    aurocs = [metrics.auroc(labels[:, column], probabilities[:, column]) for column in range(len(FINDINGS))]
    row = {
        "val_loss": metrics.log_loss(labels, probabilities),
        POOLED: metrics.mean_defined(aurocs),
        **({WITHIN: mean_within_groups(labels, probabilities, val.groups)} if val.groups.any() else {}),
        **{f"val_auroc_{finding}": value for finding, value in zip(FINDINGS, aurocs, strict=True)},
    }
    return metrics.none_for_nan(row)
