"""The phases of a training job: the head (or all of simple_cnn) from scratch, then perhaps fine-tuning."""

import dataclasses
import logging

from cxr import experiment, identity, storage
from cxr.networks import assembly, devices
from cxr.networks.features import feature_datasets
from cxr.params import as_json
from evaluate import score_split
from model_fn import model_fn
from training import figures
from training.epochs import run_epochs
from training.members import average_members
from training.run import Run
from training.start import TrainingJob, begin_run

log = logging.getLogger("train")


def train_experiment(job: TrainingJob) -> None:
    """Train an experiment through all of its phases; an average has none."""
    if job.params.members:
        log_result("best", average_members(job))
    elif job.params.fine_tune:
        fine_tune(job)
    else:
        fit_head(job)


def fit_head(job: TrainingJob) -> None:
    """Train what an experiment trains from scratch: all of simple_cnn, or the head over cached features."""
    datasets = {"image": job.images}
    if job.params.extractors:
        before = identity.begun(job.model_dir)
        trained = job.model_dir if before else None
        datasets = feature_datasets(job.params, job.images, trained=trained, engine=job.engine)
    extracted = {name: dataset.info for name, dataset in datasets.items() if name != "image"}
    for name, info in extracted.items():
        log.info("network %s: fed %s", name, info.get("fed", "as an earlier version fed it"))
    prepared = {name: info["network_sha256"] for name, info in extracted.items() if "network_sha256" in info}
    begin_run(job, {name: info["extractor"]["sha256"] for name, info in extracted.items()}, prepared=prepared)
    with devices.mirrored_devices().scope():
        model = model_fn(job.params, job.images.info, {name: info["dimension"] for name, info in extracted.items()})
        run = Run(job.params, model, datasets, job.model_dir)
    fit_run(run, job)


def fine_tune(job: TrainingJob) -> None:
    """Train the head in model_dir/head, an experiment of its own, and then the whole model from there.

    A run that begins with the weights of another fine-tuned experiment begins with the second phase.
    """
    head_dir = job.model_dir / "head"
    with devices.mirrored_devices().scope():
        extractors = assembly.load_extractors(job.params, job.images.info)
    networks = {name: extractor.sha256 for name, extractor in extractors.items()}
    restore_from = begin_run(job, networks)["restore_from"]
    if not restore_from:
        head_dir.mkdir(exist_ok=True)
        head_job = dataclasses.replace(job, params=job.params.head_phase(), model_dir=head_dir)
        storage.write_json(head_dir / "params.json", as_json(head_job.params))
        fit_head(head_job)
    log.info("fine-tuning %s", job.params.fine_tune)
    with devices.mirrored_devices().scope():
        model = model_fn(job.params, job.images.info, extractors=extractors)
        if not restore_from:
            model.set_weights(assembly.trained_model(head_dir).get_weights())
        run = Run(job.params.last_phase(), model, {"image": job.images}, job.model_dir)
    fit_run(run, job)


def fit_run(run: Run, job: TrainingJob) -> None:
    """Train a run from its start, or from where it stopped, and evaluate it on val."""
    if not (job.resume and run.restore()):
        restore_from = identity.read(run.model_dir)["restore_from"]
        if restore_from:
            experiment.load_weights(run.model, identity.require_weights(restore_from), "best")
        if job.resume:
            origin = f"the best weights of {restore_from['model_dir']}" if restore_from else "its initial weights"
            log.info("no epoch was finished: the run begins again with %s", origin)
    val = job.indexes["val"]
    run_epochs(run, val)
    evaluate_checkpoints(run, job)
    figures.show_features(run, val)


def evaluate_checkpoints(run: Run, job: TrainingJob) -> None:
    """Evaluate val with the last and then the best weights, and log the results."""
    for checkpoint in reversed(experiment.CHECKPOINTS):
        experiment.load_weights(run.model, run.model_dir, checkpoint)
        where = {"params": job.params, "model_dir": run.model_dir, "checkpoint": checkpoint}
        result = score_split(run.predict_val(), "val", job.images, **where)
        log_result(checkpoint, result)


def log_result(checkpoint: str, result: dict) -> None:
    """Log the mean AUROC of a metrics file, pooled and, with groups, within them."""
    log_mean(checkpoint, "val mean AUROC", result["mean_auroc"])
    if "group" in result["within"]:
        log_mean(checkpoint, "val mean AUROC within groups", result["within"]["group"]["mean_auroc"])


def log_mean(checkpoint: str, name: str, mean: dict) -> None:
    """Log a mean AUROC of a metrics file with its interval."""
    if mean["value"] is None:
        log.info("%s weights: %s undefined", checkpoint, name)
    else:
        numbers = [mean[key] for key in ("value", "low", "high", "findings")]
        log.info("%s weights: %s %.4f [%.4f, %.4f] over %d findings", checkpoint, name, *numbers)
