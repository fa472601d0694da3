"""All metrics of a metrics file. Undefined is None."""

import numpy as np

from cxr.evaluation import calibration, metrics, shortcuts, within
from cxr.evaluation.floors import metadata_floor, shuffled_labels
from cxr.evaluation.operating_points import NOT_FITTED, at_threshold
from cxr.evaluation.predictions import Metadata, Predictions
from cxr.evaluation.subgroups import subgroup_report
from cxr.findings import FINDINGS


def score_predictions(predictions: Predictions, fitted: dict[str, dict], train: Metadata) -> dict:
    """Metrics, subgroups, floors, and AUROC within and across groups.

    Args:
        fitted: what `operating_points.fit` gave for val; findings that are not in it have no operating points.
        train: labels and metadata of the training images, for the metadata floor.

    Returns:
        images, patients, loss, mean_auroc {value, low, high, findings: how many are defined}, findings {name: {...}},
        subgroups, floors, within, cross; low and high are the 95 % interval over patients.
    """
    labels = predictions.labels
    probabilities = predictions.probabilities
    pooled = within.resample_within(labels, probabilities, predictions.patient_ids, np.full(len(labels), "all"))
    aurocs = within.with_intervals(pooled.values, pooled.samples)
    findings = {}
    for column, name in enumerate(FINDINGS):
        truth = labels[:, column]
        scores = probabilities[:, column]
        points = fitted.get(name, NOT_FITTED)
        findings[name] = {
            **aurocs["findings"][name],
            "average_precision": metrics.average_precision(truth, scores),
            "positives": int(truth.sum()),
            **_at_operating_points(truth, scores, points["thresholds"]),
            **_calibration(truth, scores, points["calibration"]),
        }
    floor = metadata_floor(train, predictions.metadata, predictions.patient_ids)
    report = {
        "images": len(labels),
        "patients": len(np.unique(predictions.patient_ids)),
        "loss": metrics.log_loss(labels, probabilities) if len(labels) else float("nan"),
        "mean_auroc": aurocs["mean_auroc"],
        "findings": findings,
        "subgroups": subgroup_report(predictions),
        "floors": {"metadata": floor, "shuffled_labels": shuffled_labels(predictions)},
        "within": shortcuts.within_report(predictions, pooled),
        "cross": shortcuts.cross_report(predictions),
    }
    return metrics.none_for_nan(report)


def _at_operating_points(labels: np.ndarray, scores: np.ndarray, thresholds: dict[str, float]) -> dict:
    """The values at Youden's threshold, and under "operating_points" those at each threshold."""
    points = {
        name: {"threshold": threshold, **at_threshold(labels, scores, threshold)}
        for name, threshold in thresholds.items()
    }
    youden = {key: points["youden"][key] for key in ("threshold", "sensitivity", "specificity", "f1")}
    return youden | {"operating_points": points}


def _calibration(labels: np.ndarray, probabilities: np.ndarray, line: dict[str, float] | None) -> dict:
    """Calibration of the probabilities as predicted, and after the correction fitted on val."""
    report = calibration.calibration_report(labels, probabilities)
    after = line and calibration.calibration_report(labels, calibration.calibrate(probabilities, line))
    return {**report, "calibration": line, "calibrated": after}
