"""The predictions for one image, and how they are written: as a table row, as a CSV row and as JSON."""

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cxr.evaluation import metrics
from cxr.evaluation.operating_points import OperatingPoints
from cxr.findings import FINDINGS
from inference.out_of_distribution import Judgement

ABBREVIATIONS = (
    *("Atel", "Card", "Effu", "Infi", "Mass", "Nodu", "Pneu", "Pnmx"),
    *("Cons", "Edem", "Emph", "Fibr", "PlTh", "Hern"),
)
NAME_WIDTH = 36  # characters of a file name in the table; a longer name is cut at its beginning


class Reading(NamedTuple):
    """The predictions for one image: 14 of each kind, in FINDINGS order."""

    probabilities: np.ndarray  # float64, uncalibrated: the model's sigmoid outputs, as in predictions_*.csv
    calibrated: np.ndarray  # float64, calibrated on val
    # Whether the probability is at or above the operating point; None without one, or if out of distribution.
    calls: list[bool | None]
    judgement: Judgement  # whether the image is out of distribution

    @property
    def called(self) -> list[str]:
        """Names of the findings at or above their operating points."""
        return [finding for finding, call in zip(FINDINGS, self.calls, strict=True) if call]


def interpret(probabilities: np.ndarray, points: OperatingPoints, judgement: Judgement) -> Reading:
    """Calibrate 14 probabilities and compare them with the operating points; no calls if out of distribution."""
    calls = [None] * len(FINDINGS) if judgement.out_of_distribution else points.calls(probabilities)
    return Reading(probabilities, points.calibrated(probabilities), calls, judgement)


def name_width(files: Iterable[str]) -> int:
    """Width of the table's first column."""
    return min(NAME_WIDTH, max(len(file) for file in files))


def table_header(width: int) -> str:
    """The two lines above the table."""
    return (
        "calibrated probabilities in percent; called: the findings at or above their operating points\n"
        f"{'file':{width}}{''.join(f'{short:>5}' for short in ABBREVIATIONS)}  called"
    )


def table_row(file: str, reading: Reading, width: int) -> str:
    """One line of the table."""
    name = file if len(file) <= width else "..." + file[3 - width :]
    if reading.judgement.out_of_distribution:
        called = "out of distribution"
    else:
        called = "?" if set(reading.calls) == {None} else ", ".join(reading.called) or "-"
    return f"{name:{width}}{''.join(f'{percent(p):>5}' for p in reading.calibrated)}  {called}"


def percent(probability: float) -> str:
    """Whole percent; "<1" and ">99" near the ends, because no probability is exactly 0 or 1."""
    if probability < 0.005:
        return "<1"
    return ">99" if probability >= 0.995 else f"{100 * probability:.0f}"


def to_csv(readings: Iterable[tuple[str, Reading]]) -> str:
    """file, prob_<Finding> x14, call_<Finding> x14, calibrated_<Finding> x14, out_of_distribution, distance.

    Calls and out_of_distribution are 0 or 1, empty if unknown; distance is empty if not fitted.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = (f"{kind}_{finding}" for kind in ("prob", "call", "calibrated") for finding in FINDINGS)
    writer.writerow(["file", *columns, "out_of_distribution", "distance"])
    for file, reading in readings:
        calls = ["" if call is None else int(call) for call in reading.calls]
        probabilities = [f"{p:.9g}" for p in reading.probabilities]
        calibrated = [f"{p:.9g}" for p in reading.calibrated]
        judged = ["" if value is None else f"{value:.9g}" for value in judgement_json(reading).values()]
        writer.writerow([file, *probabilities, *calls, *calibrated, *judged])
    return text.getvalue()


def judgement_json(reading: Reading) -> dict[str, float | None]:
    """{out_of_distribution: 0 or 1, distance}; None if unknown."""
    unlike, distance = reading.judgement
    return metrics.none_for_nan({"out_of_distribution": None if unlike is None else int(unlike), "distance": distance})


def as_json(reading: Reading, points: OperatingPoints) -> dict[str, dict]:
    """{finding: {probability, calibrated, threshold, calibrated_threshold, call}}; null without an operating point.

    `call` is null for an image that is out of distribution too. Compare `probability` with `threshold`, and
    `calibrated` with `calibrated_threshold`.
    """
    columns = {
        "probability": reading.probabilities.tolist(),
        "calibrated": reading.calibrated.tolist(),
        "threshold": points.thresholds.tolist(),
        "calibrated_threshold": points.calibrated(points.thresholds).tolist(),
        "call": reading.calls,
    }
    rows = {finding: {key: column[row] for key, column in columns.items()} for row, finding in enumerate(FINDINGS)}
    return metrics.none_for_nan(rows)
