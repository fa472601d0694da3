"""An experiment as train.py, evaluate.py and tools/localize.py write it, with seeded scores instead of a network."""

import json
import shutil
from pathlib import Path

import numpy as np
from support.ready import write_identity

import evaluate
from cxr import experiment
from cxr.evaluation import literature, localization, overlays
from cxr.evaluation.boxes import Placement
from cxr.params import load_params
from cxr.records.dataset import open_dataset
from training.history import History

BOX = np.array([[256.0, 256.0, 512.0, 512.0]])


def make_experiment(folder: Path, data_dir: Path, *, splits: tuple[str, ...] = ("val", "test")) -> Path:
    """Write params.json, dataset.json, patients.json, history.csv, train.log and the results of some splits."""
    folder.mkdir(parents=True)
    images = open_dataset(data_dir)
    (folder / "params.json").write_text('{"image_size": 32, "learning_rate": 0.003}')
    shutil.copy(data_dir / "dataset.json", folder)
    write_identity(folder)
    experiment.weights_path(folder, "best").write_bytes(b"not a network: seeded scores replace it")
    seen = {split: np.unique(evaluate.split_index(images, split).patient_ids).tolist() for split in ("train", "val")}
    experiment.patients_path(folder).write_text(json.dumps(seen))
    (folder / "train.log").write_text(f"simple_cnn\ndata {data_dir}   split official   fingerprint 0\n")
    history = History(folder)
    history.rows = [{"epoch": n, "loss": 1 / n, "val_loss": 1.5 / n, "val_mean_auroc": 0.4 + n / 10} for n in (1, 2, 3)]
    history.write()
    for split in splits:
        score_split(folder, data_dir, split)
    return folder


def score_split(folder: Path, data_dir: Path, split: str) -> dict:
    """Let evaluate.py score a split, with seeded logits that correlate with the labels instead of a network's."""
    images = open_dataset(data_dir)
    labels = evaluate.split_index(images, split).labels
    logits = (2 * labels - 2 + np.random.default_rng(230).normal(size=labels.shape)).astype(np.float32)
    where = {"params": load_params(folder), "model_dir": folder, "checkpoint": "best"}
    return evaluate.score_split(logits, split, images, **where)


def add_localization(folder: Path) -> None:
    """Write a localization.json of one finding in one image, which the heat map hits, and its picture."""
    heat = np.zeros((64, 64))
    heat[17:31, 17:31] = 1  # inside the box, which is 16 to 32 here
    pixels = np.full((64, 64), 90, np.uint8)
    scores = localization.score_with_controls(heat, Placement(64, 64, 32), BOX, name="one")
    (folder / "localization").mkdir()
    picture = overlays.overlay(pixels, heat, annotated_nih=BOX, detected_nih=BOX, caption=["one"])
    (folder / "localization" / "Mass_1.png").write_bytes(picture)
    scored = [localization.ScoredFinding("00000001_000.png", 1, "Mass", scores, "Mass_1.png")]
    result = {
        "method": "grad_cam",
        "data_dir": "release",
        "boxed_images": 1,
        "absent": 0,
        "broken": {},
        "leak": {"patients": 0, "images": 0, "where": [], "unknown": []},
        "findings": localization.summarize(scored),
        "published_source": literature.LOCALIZATION_SOURCE,
        "overlays": ["Mass_1.png"],
    }
    (folder / "localization" / "localization.json").write_text(json.dumps(result))
