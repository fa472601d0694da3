"""What val taught of an experiment's probabilities: where they become calls, and what they are worth."""

import pathlib
from typing import NamedTuple

import numpy as np

from cxr import experiment, storage
from cxr.evaluation.calibration import calibrate
from cxr.findings import FINDINGS, require_same_findings


class OperatingPoints(NamedTuple):
    """Of the 14 findings, in their order; nan where val had too little to learn it from."""

    thresholds: np.ndarray  # float64 [14], of probabilities as the model gives them: at or above is a call (Youden)
    slopes: np.ndarray  # float64 [14], of their logits, see `calibration.fit_platt`
    intercepts: np.ndarray  # float64 [14]

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities [..., 14] corrected so that 0.2 means one in five; as they are where nothing was learnt."""
        corrected = calibrate(probabilities, {"slope": self.slopes, "intercept": self.intercepts})
        return np.where(np.isnan(self.slopes), probabilities, corrected)

    def calls(self, probabilities: np.ndarray) -> list[bool | None]:
        """Whether each of 14 probabilities reaches its threshold; None where there is none.

        Calibration keeps the order, so calls are the same on both sides of it.
        """
        called = probabilities >= self.thresholds
        unknown = np.isnan(self.thresholds)
        return [None if none else bool(yes) for none, yes in zip(unknown, called, strict=True)]

    @property
    def is_empty(self) -> bool:
        """Whether no finding can be called."""
        return bool(np.isnan(self.thresholds).all())


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
        sha256 = storage.sha256_of(experiment.weights_path(model_dir, checkpoint))
        experiment.require_measured(result, sha256, path)
    found = result.get("findings", {})
    require_same_findings(list(found), str(path))
    try:
        thresholds = [finding["threshold"] for finding in found.values()]
        fitted = [finding.get("calibration") or {"slope": None, "intercept": None} for finding in found.values()]
        columns = thresholds, [line["slope"] for line in fitted], [line["intercept"] for line in fitted]
        return OperatingPoints(*(np.array(column, np.float64) for column in columns))  # None becomes nan
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a metrics file ({error!r}); make it again: {advice(model_dir, checkpoint)}"
        ) from error


def points_of(chosen: dict[str, dict]) -> OperatingPoints:
    """The operating points in what `scoring.choose` fitted."""
    lines = [of["calibration"] or {"slope": np.nan, "intercept": np.nan} for of in chosen.values()]
    columns = (
        [of["thresholds"]["youden"] for of in chosen.values()],
        [line["slope"] for line in lines],
        [line["intercept"] for line in lines],
    )
    return OperatingPoints(*(np.array(column, np.float64) for column in columns))


def advice(model_dir: pathlib.Path, checkpoint: str) -> str:
    """The command that makes the operating points."""
    last = "" if checkpoint != "last" else " --checkpoint last"
    return f"python evaluate.py --model_dir {model_dir} --split val{last}"
