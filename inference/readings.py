"""What a model says of one image, as a row of a table, of a CSV, and as JSON."""

import csv
import io
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cxr.evaluation.operating_points import OperatingPoints
from cxr.findings import FINDINGS

CODES = ("Atel", "Card", "Effu", "Infi", "Mass", "Nodu", "Pneu", "Pnmx", "Cons", "Edem", "Emph", "Fibr", "PlTh", "Hern")
NAME_WIDTH = 36  # characters of a file's name in the table; longer ones lose their beginning


class Reading(NamedTuple):
    """Of one image; 14 of each, in FINDINGS order."""

    probabilities: np.ndarray  # float64, as the model gives them, and as predictions_*.csv and thresholds have them
    calibrated: np.ndarray  # float64, corrected by what val taught
    calls: list[bool | None]  # at or above the operating point; None where there is none

    @property
    def called(self) -> list[str]:
        """Names of the findings that are called."""
        return [finding for finding, call in zip(FINDINGS, self.calls, strict=True) if call]


def read(probabilities: np.ndarray, points: OperatingPoints) -> Reading:
    """The reading of 14 probabilities."""
    return Reading(probabilities, points.calibrated(probabilities), points.calls(probabilities))


def name_width(files: Iterable[str]) -> int:
    """How wide the first column of the table is."""
    return min(NAME_WIDTH, max(len(file) for file in files))


def table_header(width: int) -> str:
    """The two lines above the table."""
    return (
        "calibrated probabilities in percent; last, what is at or above its operating point\n"
        f"{'file':{width}}{''.join(f'{code:>5}' for code in CODES)}  called"
    )


def table_row(file: str, reading: Reading, width: int) -> str:
    """One line of the table."""
    name = file if len(file) <= width else "..." + file[3 - width :]
    called = "?" if set(reading.calls) == {None} else ", ".join(reading.called) or "-"
    return f"{name:{width}}{''.join(f'{percent(p):>5}' for p in reading.calibrated)}  {called}"


def percent(probability: float) -> str:
    """Whole percent; what would read as none or all although it is not is "<1" or ">99"."""
    if probability < 0.005:
        return "<1"
    return ">99" if probability >= 0.995 else f"{100 * probability:.0f}"


def to_csv(readings: Iterable[tuple[str, Reading]]) -> str:
    """file, prob_<Finding> x14, call_<Finding> x14 (0 or 1, empty where unknown), calibrated_<Finding> x14."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *(f"{kind}_{finding}" for kind in ("prob", "call", "calibrated") for finding in FINDINGS)])
    for file, reading in readings:
        calls = ["" if call is None else int(call) for call in reading.calls]
        numbers = [[f"{p:.9g}" for p in column] for column in (reading.probabilities, reading.calibrated)]
        writer.writerow([file, *numbers[0], *calls, *numbers[1]])
    return text.getvalue()


def as_json(reading: Reading, points: OperatingPoints) -> dict[str, dict]:
    """{finding: {probability, calibrated, threshold, calibrated_threshold, call}}; null where val taught nothing.

    `threshold` goes with `probability`, `calibrated_threshold` with `calibrated`.
    """
    columns = (
        reading.probabilities,
        reading.calibrated,
        points.thresholds,
        points.calibrated(points.thresholds),
        reading.calls,
    )
    keys = ("probability", "calibrated", "threshold", "calibrated_threshold", "call")
    rows = zip(FINDINGS, zip(*columns, strict=True), strict=True)
    return {finding: {key: _plain(value) for key, value in zip(keys, row, strict=True)} for finding, row in rows}


def _plain(value: float | bool | None) -> float | bool | None:
    if value is None or isinstance(value, bool):
        return value
    return None if math.isnan(value) else float(value)
