"""The predictions for one image, and how they are written: as a table row, as a CSV row and as JSON."""

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cxr.evaluation import metrics
from cxr.evaluation.operating_points import OperatingPoints
from cxr.findings import FINDINGS

ABBREVIATIONS = (
    *("Atel", "Card", "Effu", "Infi", "Mass", "Nodu", "Pneu", "Pnmx"),
    *("Cons", "Edem", "Emph", "Fibr", "PlTh", "Hern"),
)
NAME_WIDTH = 36  # characters of a file name in the table; a longer name is cut at its beginning


class Reading(NamedTuple):
    """The predictions for one image: 14 of each kind, in FINDINGS order."""

    probabilities: np.ndarray  # float64, uncalibrated: the model's sigmoid outputs, as in predictions_*.csv
    calibrated: np.ndarray  # float64, calibrated on val
    calls: list[bool | None]  # whether the probability is at or above the operating point; None without one

    @property
    def called(self) -> list[str]:
        """Names of the findings at or above their operating points."""
        return [finding for finding, call in zip(FINDINGS, self.calls, strict=True) if call]


def interpret(probabilities: np.ndarray, points: OperatingPoints) -> Reading:
    """Calibrate 14 probabilities and compare them with the operating points."""
    return Reading(probabilities, points.calibrated(probabilities), points.calls(probabilities))


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
    called = "?" if set(reading.calls) == {None} else ", ".join(reading.called) or "-"
    return f"{name:{width}}{''.join(f'{percent(p):>5}' for p in reading.calibrated)}  {called}"


def percent(probability: float) -> str:
    """Whole percent; "<1" and ">99" near the ends, because no probability is exactly 0 or 1."""
    if probability < 0.005:
        return "<1"
    return ">99" if probability >= 0.995 else f"{100 * probability:.0f}"


def to_csv(readings: Iterable[tuple[str, Reading]]) -> str:
    """file, prob_<Finding> x14, call_<Finding> x14 (0 or 1, empty if unknown), calibrated_<Finding> x14."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *(f"{kind}_{finding}" for kind in ("prob", "call", "calibrated") for finding in FINDINGS)])
    for file, reading in readings:
        calls = ["" if call is None else int(call) for call in reading.calls]
        probabilities = [f"{p:.9g}" for p in reading.probabilities]
        calibrated = [f"{p:.9g}" for p in reading.calibrated]
        writer.writerow([file, *probabilities, *calls, *calibrated])
    return text.getvalue()


def as_json(reading: Reading, points: OperatingPoints) -> dict[str, dict]:
    """{finding: {probability, calibrated, threshold, calibrated_threshold, call}}; null without an operating point.

    Compare `probability` with `threshold`, and `calibrated` with `calibrated_threshold`.
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
