"""Files of an experiment for its report; optional ones are None where absent."""

import csv
import pathlib
from typing import NamedTuple

import numpy as np
from etils import epath

from cxr import experiment, identity, storage
from cxr.evaluation import provenance
from cxr.evaluation.predictions import Predictions, read_predictions
from cxr.findings import FINDINGS
from cxr.records.dataset import Dataset, open_dataset

CHECKPOINT = "best"
HARDEST = 4  # images of each kind of error and finding


class Evaluated(NamedTuple):
    """One split, scored by one experiment."""

    model_dir: pathlib.Path
    folder: pathlib.Path  # of the results: model_dir, or below its external/
    result: dict  # the metrics file
    run: dict  # run.json
    predictions: Predictions
    dataset: Dataset | None  # the images
    history: list[dict] | None  # a row per epoch; None in a row where undefined
    log: str | None  # train.log
    localization: dict | None  # localization.json
    experts: dict[str, dict] | None  # experts_{split}_best.json, by study
    last: dict | None  # the metrics file of val with the weights of the last epoch


def read_evaluated(model_dir: pathlib.Path, split: str, data_dir: epath.Path | None) -> Evaluated:
    """Read the results of an experiment.

    Args:
        data_dir: the images evaluated on; for another dataset than the one trained on, the results are in external/.

    Raises:
        FileNotFoundError: the experiment is not trained, or this split is not evaluated.
        ValueError: a file is unreadable, or metrics and predictions are of different runs.
    """
    identity.trained_params(model_dir)
    dataset = data_dir and open_dataset(data_dir)
    folder = provenance.results_dir(model_dir, dataset.info) if dataset else model_dir
    advice = f"Run: python evaluate.py --model_dir {model_dir} --data_dir {data_dir or 'RECORDS'} --split {split}"
    result, predictions = read_results(folder, split, advice)
    log = model_dir / "train.log"
    last = experiment.metrics_path(model_dir, "val", "last")
    localization = model_dir / "localization" / "localization.json"
    return Evaluated(
        model_dir=model_dir,
        folder=folder,
        result=result,
        run=identity.read(model_dir),
        predictions=predictions,
        dataset=dataset,
        history=read_history(model_dir / "history.csv"),
        log=log.read_text(errors="replace") if log.is_file() else None,
        localization=storage.read_json(localization) if localization.is_file() else None,
        experts=read_experts(experiment.experts_path(folder, split, CHECKPOINT), result["weights_sha256"], advice),
        last=storage.read_json(last) if last.is_file() else None,
    )


def read_results(folder: pathlib.Path, split: str, advice: str) -> tuple[dict, Predictions]:
    """The metrics and the predictions of a split; errors end with `advice`, the command that makes them."""
    path = experiment.metrics_path(folder, split, CHECKPOINT)
    if not path.is_file():
        other_split = {"test": "val", "val": "test"}[split]
        exists = experiment.metrics_path(folder, other_split, CHECKPOINT).is_file()
        hint = f"; or report --split {other_split}, which is evaluated" if exists else ""
        raise FileNotFoundError(f"no {path}. {advice}{hint}")
    result = storage.read_json(path)
    for key in ("floors", "within"):
        if key not in result:
            raise ValueError(f"{path} has no {key}: an earlier version wrote it. {advice}")
    predictions = read_predictions(experiment.predictions_path(folder, split, CHECKPOINT))
    if len(predictions.image_ids) != result["images"]:
        raise ValueError(
            f"{path} has {result['images']:,} images, the predictions beside it {len(predictions.image_ids):,}: "
            f"they are of different runs. {advice}"
        )
    return result, predictions


def read_experts(path: pathlib.Path, weights_sha256: str, advice: str) -> dict[str, dict] | None:
    """The comparison with radiologists' labels; None without the file.

    Raises:
        ValueError: other weights were compared.
    """
    if not path.is_file():
        return None
    report = storage.read_json(path)
    if any(study["weights_sha256"] != weights_sha256 for study in report.values()):
        raise ValueError(f"{path} is of other weights than the metrics beside it. {advice} --expert_labels DIR")
    return report


def read_history(path: pathlib.Path) -> list[dict] | None:
    """Rows of a history.csv as numbers; None without the file or without an epoch."""
    if not path.is_file():
        return None
    try:
        with path.open(newline="") as file:
            rows = [{key: float(cell) if cell else None for key, cell in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError) as error:  # a cell is not a number; a row is longer than the header
        raise ValueError(f"{path} is not a table of numbers ({error}); delete it to leave out the curves") from error
    return [row | {"epoch": int(row["epoch"])} for row in rows] or None


def hardest(predictions: Predictions, finding: str, threshold: float | None) -> dict[str, np.ndarray]:
    """Rows of the images furthest on the wrong side of the threshold of a finding, the worst first.

    Returns:
        {"false positives", "false negatives": int [at most HARDEST]}; both empty without a threshold.
    """
    column = FINDINGS.index(finding)
    scores = predictions.probabilities[:, column]
    positive = predictions.labels[:, column] == 1
    called = scores >= (np.nan if threshold is None else threshold)
    wrong = {"false positives": called & ~positive, "false negatives": ~called & positive & (threshold is not None)}
    descending = np.argsort(-scores, kind="stable")
    orders = {"false positives": descending, "false negatives": descending[::-1]}
    return {kind: orders[kind][mask[orders[kind]]][:HARDEST] for kind, mask in wrong.items()}
