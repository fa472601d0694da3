"""Experiments whose identity tests compare, and what evaluate.py and predict.py say of them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from support.runs import make_experiment, run_train

from cxr import experiment
from cxr.findings import FINDINGS
from cxr.images.encode import encode
from cxr.params import Params
from cxr.patient import UNKNOWN_PATIENT
from cxr.records.dataset import open_dataset
from inference.predictor import Predictor
from input_fn import input_fn

HEAD = {"model": "feature_extractor", "hidden_units": [8], "batch_size": 8, "num_epochs": 2, "learning_rate": 0.03}


def save_mobilenet(path: Path, seed: int = 0) -> dict:
    """A MobileNet as an extractor of params.json, with kernels so large that its features are not all 0."""
    import keras

    keras.utils.set_random_seed(seed)
    network = keras.applications.MobileNet(include_top=False, alpha=0.25, weights=None, input_shape=(32, 32, 3))
    network.set_weights([weight * 5 if weight.ndim == 4 else weight for weight in network.get_weights()])
    network.save_weights(path)
    return {"source": "keras", "name": "MobileNet", "alpha": 0.25, "weights": str(path), "image_size": 32}


def train_head(folder: Path, data_dir: Path, spec: dict, **changes) -> Path:
    return run_train(make_experiment(folder, HEAD, extractors=[spec], **changes), data_dir)


def error_of(main, *flags: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(flag) for flag in flags])
    return str(caught.value)


def scored(model_dir: Path, split: str = "val") -> np.ndarray:
    """Probabilities [n, 14] of the predictions CSV."""
    rows = csv.DictReader(experiment.predictions_path(model_dir, split, "best").read_text().splitlines())
    return np.array([[float(row[f"prob_{finding}"]) for finding in FINDINGS] for row in rows])


def predicted(model_dir: Path, data_dir: Path, split: str = "val", checkpoint: str = "best") -> np.ndarray:
    """The predictions of predict.py for the images of a split."""
    batches = input_fn(split, {"image": open_dataset(data_dir)}, Params(), inputs=["image"])
    squares = np.concatenate([inputs["image"].numpy() for inputs, _ in batches])
    predictor = Predictor(model_dir, checkpoint)
    pictures = [predictor.read(png_of(square), UNKNOWN_PATIENT) for square in squares]
    return np.stack([reading.probabilities for reading in predictor.predict(pictures)])


def png_of(square: np.ndarray) -> bytes:
    return encode(square[:, :, 0], "png")
