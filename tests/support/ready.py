"""Experiments that can predict, made without training: random weights and chosen operating points."""

import json
import shutil
from pathlib import Path

import numpy as np

from cxr import experiment, identity, storage
from cxr.evaluation import out_of_distribution
from cxr.findings import FINDINGS
from cxr.images.appearance import LENGTH
from cxr.params import load_params


def make_experiment(folder: Path, dataset: Path, *, points: bool = True, **params) -> Path:
    """An experiment on a built dataset.

    With points, every finding has threshold 0.5 and calibration slope 2, intercept -1, except Hernia, which has no
    positives in val. Only an image that fails a check, a blank one for example, is out of distribution.
    """
    import keras

    from cxr.networks import assembly
    from model_fn import model_fn

    folder.mkdir(parents=True)
    small = {"image_size": 32, "num_channels": 4, "num_blocks": 2} if params.get("model") is None else {}
    (folder / "params.json").write_text(json.dumps(small | params))
    shutil.copy(dataset / "dataset.json", folder)
    loaded = load_params(folder)
    info = experiment.dataset_of(folder)
    extractors = assembly.load_extractors(loaded, info)
    model = model_fn(loaded, info, extractors=extractors)
    write_identity(folder, {name: extractor.sha256 for name, extractor in extractors.items()})
    trained = model.get_layer(loaded.model) if loaded.extractors else model
    random = keras.random.SeedGenerator(1)
    for variable in trained.trainable_variables:  # biases too, so that all probabilities differ
        variable.assign(variable + 0.3 * keras.random.normal(variable.shape, seed=random))
    experiment.save_weights(trained, folder, "best")
    if points:
        known = {"threshold": 0.5, "calibration": {"slope": 2.0, "intercept": -1.0}}
        scored = {"auroc": 0.75, "low": 0.7, "high": 0.8, "positives": 9, "sensitivity": 0.6, "specificity": 0.7}
        findings = dict.fromkeys(FINDINGS, known | scored)
        findings["Hernia"] = dict.fromkeys(known | scored) | {"positives": 0}
        mean = {"value": 0.75, "low": 0.7, "high": 0.8, "findings": 13}
        result = {"images": 20, "patients": 12, "mean_auroc": mean, "findings": findings}
        (folder / "metrics_val_best.json").write_text(json.dumps(result))
    write_distances(folder)
    return folder


def write_distances(folder: Path, threshold: float = 1000.0) -> None:
    """Write distances from the zero vector, with a covariance of 1: the norm of the appearance."""
    fitted = out_of_distribution.Distances(np.zeros(LENGTH), np.eye(LENGTH), threshold)
    out_of_distribution.write(folder, fitted, experiment.dataset_of(folder)["fingerprint"])


def write_identity(folder: Path, networks: dict[str, str] | None = None, **changes) -> None:
    """Write the run.json of an untrained experiment from its params.json and dataset.json."""
    params = load_params(folder)
    run = identity.describe(
        params,
        networks=networks or {},
        fingerprint=experiment.dataset_of(folder)["fingerprint"],
        runtime="keras",
        device="CPU",
    )
    storage.write_json(identity.path_of(folder), run | changes)
