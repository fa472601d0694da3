"""Thresholds and calibration fitted on val."""

import pathlib
from typing import NamedTuple

import numpy as np

from cxr import experiment, identity, storage
from cxr.evaluation.calibration import calibrate, fit_platt
from cxr.evaluation.metrics import called_at_thresholds
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS, require_same_findings

POINTS = ("youden", "sensitivity_90", "best_f1")
SENSITIVITY = 0.9  # reached by "sensitivity_90" on the images it is fitted to
NOT_FITTED = {"thresholds": dict.fromkeys(POINTS, float("nan")), "calibration": None}


class OperatingPoints(NamedTuple):
    """Of the 14 findings, in their order; nan where val could not define them."""

    thresholds: np.ndarray  # float64 [14], Youden's, of uncalibrated probabilities; at or above is a call
    slopes: np.ndarray  # float64 [14], of their logits, see `calibration.fit_platt`
    intercepts: np.ndarray  # float64 [14]

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities [..., 14] calibrated so that 0.2 means one in five; unchanged where there is no calibration."""
        corrected = calibrate(probabilities, {"slope": self.slopes, "intercept": self.intercepts})
        return np.where(np.isnan(self.slopes), probabilities, corrected)

    def calls(self, probabilities: np.ndarray) -> list[bool | None]:
        """Whether each of 14 uncalibrated probabilities reaches its threshold; None where there is none.

        Calibration keeps the order, so calibrated probabilities and thresholds give the same calls.
        """
        called = probabilities >= self.thresholds
        undefined = np.isnan(self.thresholds)
        return [None if none else bool(call) for none, call in zip(undefined, called, strict=True)]

    @property
    def is_empty(self) -> bool:
        """Whether no finding has a threshold."""
        return bool(np.isnan(self.thresholds).all())


def choose_thresholds(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The threshold of each operating point of one finding; scores at or above it are calls.

    "youden" maximises sensitivity + specificity - 1 (Youden 1950), "best_f1" maximises F1, "sensitivity_90" is the
    highest that still finds 90 % of the positives. Ties go to the highest threshold: fewer calls.

    Args:
        labels: int [n] of 0 and 1. scores: [n].

    Returns:
        A score by name; nan where one class is absent.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return dict.fromkeys(POINTS, float("nan"))
    hits, called = called_at_thresholds(labels, scores)
    places = {
        "youden": np.argmax(hits / positives - (called - hits) / negatives),
        "sensitivity_90": np.argmax(hits >= SENSITIVITY * positives),  # the first that does
        "best_f1": np.argmax(2 * hits / (positives + called)),
    }
    descending = np.sort(scores)[::-1]
    return {name: float(descending[called[places[name]] - 1]) for name in POINTS}


def at_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float]:
    """Sensitivity, specificity, precision (PPV) and F1 when scores at or above `threshold` are calls.

    nan where undefined: everything at a threshold of nan, precision without calls, the others without their class.
    """
    called = scores >= threshold
    hits = int((called & (labels == 1)).sum())
    positives = int(labels.sum())
    calls = int(called.sum())
    negatives = len(labels) - positives
    if np.isnan(threshold):
        return dict.fromkeys(("sensitivity", "specificity", "precision", "f1"), float("nan"))
    return {
        "sensitivity": hits / positives if positives else float("nan"),
        "specificity": 1 - (calls - hits) / negatives if negatives else float("nan"),
        "precision": hits / calls if calls else float("nan"),
        "f1": 2 * hits / (positives + calls) if positives else float("nan"),
    }


def fit(predictions: Predictions) -> dict[str, dict]:
    """{finding: {"thresholds": by operating point, "calibration"}}, fitted to these predictions: use only val's."""
    fitted = {}
    for column, name in enumerate(FINDINGS):
        labels = predictions.labels[:, column]
        probabilities = predictions.probabilities[:, column]
        points = choose_thresholds(labels, probabilities)
        fitted[name] = {"thresholds": points, "calibration": fit_platt(labels, probabilities)}
    return fitted


def read_fitted(folder: pathlib.Path, checkpoint: str, weights_sha256: str) -> dict[str, dict]:
    """What `fit` gave, from the metrics file of val in a folder of results; {} without that file.

    Without it there are no operating points: those fitted to the scored images themselves would be too good.

    Args:
        weights_sha256: of the weights that are scored now; val must have been scored with the same ones.

    Raises:
        ValueError: the file is of other weights, or an earlier version wrote it.
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


def points_of(fitted: dict[str, dict]) -> OperatingPoints:
    """The result of `fit` as arrays."""
    thresholds = [finding["thresholds"]["youden"] for finding in fitted.values()]
    return _as_arrays(thresholds, [finding["calibration"] for finding in fitted.values()])


def read_points(model_dir: pathlib.Path, checkpoint: str) -> OperatingPoints:
    """Read the metrics of val; without that file every point is nan.

    Raises:
        ValueError: it is of other findings or weights, or not a metrics file.
    """
    path = experiment.metrics_path(model_dir, "val", checkpoint)
    if not path.is_file():
        return OperatingPoints(*(np.full(len(FINDINGS), np.nan) for _ in OperatingPoints._fields))
    result = storage.read_json(path)
    if "weights_sha256" in result:
        experiment.require_measured(result, identity.weights_sha256(model_dir, checkpoint), path)
    findings = result.get("findings", {})
    require_same_findings(list(findings), str(path))
    try:
        thresholds = [finding["threshold"] for finding in findings.values()]
        return _as_arrays(thresholds, [finding.get("calibration") for finding in findings.values()])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a metrics file ({error!r}); make it again: {advice(model_dir, checkpoint)}"
        ) from error


def _as_arrays(thresholds: list[float | None], calibrations: list[dict | None]) -> OperatingPoints:
    """None becomes nan."""
    lines = [calibration or {"slope": None, "intercept": None} for calibration in calibrations]
    columns = [thresholds, [line["slope"] for line in lines], [line["intercept"] for line in lines]]
    return OperatingPoints(*(np.array(column, np.float64) for column in columns))


def advice(model_dir: pathlib.Path, checkpoint: str) -> str:
    """The command that fits the operating points."""
    last = "" if checkpoint != "last" else " --checkpoint last"
    return f"python evaluate.py --model_dir {model_dir} --split val{last}"
