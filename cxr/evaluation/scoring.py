"""Everything a metrics file says about predictions. Undefined is None."""

import pathlib

import numpy as np

from cxr import experiment, storage
from cxr.evaluation import calibration, metrics, thresholds
from cxr.evaluation.floors import metadata_floor, shuffled_labels
from cxr.evaluation.predictions import Predictions
from cxr.evaluation.subgroups import subgroup_report
from cxr.findings import FINDINGS


def choose(predictions: Predictions) -> dict[str, dict]:
    """Operating points and calibration of every finding, fitted to these predictions; only right for val."""
    chosen = {}
    for column, name in enumerate(FINDINGS):
        labels, probabilities = predictions.labels[:, column], predictions.probabilities[:, column]
        points = thresholds.choose_thresholds(labels, probabilities)
        chosen[name] = {"thresholds": points, "calibration": calibration.fit_platt(labels, probabilities)}
    return chosen


def chosen_on_val(folder: pathlib.Path, checkpoint: str, weights_sha256: str) -> dict[str, dict]:
    """What `choose` chose, from the metrics file of val in a folder of results; {} without that file.

    Nothing, rather than operating points fitted to the images they are judged on.

    Args:
        weights_sha256: of the weights that are scored now, which val must have been scored with.

    Raises:
        ValueError: the file is of other weights, or of a version that chose less.
    """
    path = experiment.metrics_path(folder, "val", checkpoint)
    result = storage.read_json(path) if path.is_file() else {"findings": {}}
    experiment.require_measured(result, weights_sha256, path)
    findings = result["findings"]
    if not all("operating_points" in finding for finding in findings.values()):
        raise ValueError(
            f"{path} has no operating points: an earlier version wrote it. "
            f"Evaluate --split val --checkpoint {checkpoint} of this experiment again"
        )
    return {
        name: {
            "thresholds": {
                point: float("nan") if values["threshold"] is None else values["threshold"]
                for point, values in finding["operating_points"].items()
            },
            "calibration": finding["calibration"],
        }
        for name, finding in findings.items()
    }


NOTHING = {"thresholds": dict.fromkeys(thresholds.POINTS, float("nan")), "calibration": None}


def score(predictions: Predictions, chosen: dict[str, dict], train: Predictions) -> dict:
    """Metrics, subgroups and floors of predictions.

    Args:
        chosen: what `choose` gave for val; findings that are not in it have no operating points.
        train: what the metadata floor is fitted on; its probabilities are not read.

    Returns:
        images, patients, loss, mean_auroc {value, low, high, findings: how many are defined}, findings {name: {...}},
        subgroups, floors; low and high are the 95 % interval over patients.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    mean, aurocs = metrics.aurocs_with_intervals(labels, probabilities, predictions.patient_ids)
    findings = {}
    for column, name in enumerate(FINDINGS):
        truth, scores = labels[:, column], probabilities[:, column]
        findings[name] = {
            **{key: aurocs[name][key] for key in ("auroc", "low", "high")},
            "average_precision": metrics.average_precision(truth, scores),
            "positives": aurocs[name]["positives"],
            **_at_operating_points(truth, scores, chosen.get(name, NOTHING)["thresholds"]),
            **_calibration(truth, scores, chosen.get(name, NOTHING)["calibration"]),
        }
    report = {
        "images": len(labels),
        "patients": len(np.unique(predictions.patient_ids)),
        "loss": metrics.log_loss(labels, probabilities) if len(labels) else float("nan"),
        "mean_auroc": mean,
        "findings": findings,
        "subgroups": subgroup_report(predictions),
        "floors": {"metadata": metadata_floor(train, predictions), "shuffled_labels": shuffled_labels(predictions)},
    }
    return metrics.none_for_nan(report)


def _at_operating_points(labels: np.ndarray, scores: np.ndarray, points: dict[str, float]) -> dict:
    """Youden's point flat, and all of them by name."""
    judged = {
        name: {"threshold": threshold, **thresholds.at_threshold(labels, scores, threshold)}
        for name, threshold in points.items()
    }
    flat = {key: judged["youden"][key] for key in ("threshold", "sensitivity", "specificity", "f1")}
    return flat | {"operating_points": judged}


def _calibration(labels: np.ndarray, probabilities: np.ndarray, fitted: dict[str, float] | None) -> dict:
    """How well calibrated the probabilities are, and how well after the correction fitted on val."""
    report = calibration.calibration_report(labels, probabilities)
    after = fitted and calibration.calibration_report(labels, calibration.calibrate(probabilities, fitted))
    return {**report, "calibration": fitted, "calibrated": after}
