"""Patient inputs: age, sex and view position, and their codes in records and models."""

import math
from typing import NamedTuple

OLDEST = 120  # years; the 2017 CSV has ages up to 414
SEXES = {"F": 0, "M": 1}
VIEW_POSITIONS = {"PA": 0, "AP": 1}
UNKNOWN = -1  # code of an unknown sex or view position; an unknown age is NaN


class Patient(NamedTuple):
    """The inputs that describe a patient; None where unknown."""

    age: float | None = None  # years
    sex: str | None = None  # F or M
    view_position: str | None = None  # PA or AP

    def or_else(self, other: "Patient") -> "Patient":
        """This patient, with unknown fields filled from `other`."""
        return Patient(*(ours if ours is not None else theirs for ours, theirs in zip(self, other, strict=True)))

    def codes(self) -> dict[str, float]:
        """The codes in records and models: age in years or NaN; sex 0 F, 1 M; view position 0 PA, 1 AP; -1 unknown."""
        age = math.nan if self.age is None else self.age
        return {
            "age": age,
            "sex": SEXES.get(self.sex, UNKNOWN),
            "view_position": VIEW_POSITIONS.get(self.view_position, UNKNOWN),
        }


UNKNOWN_PATIENT = Patient()


def parse_age(text: str) -> float:
    """Years from "058Y" (2017 CSV; also "013M" months, "001D" days; DICOM also "006W" weeks) or "58" (2020 CSV).

    Returns NaN for an empty cell and for an impossible age (below 0 or over 120). ValueError if it is not a number.
    """
    text = text.strip()
    if not text:
        return math.nan
    per_year = {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}.get(text[-1])
    age = float(text[:-1]) / per_year if per_year else float(text)
    return age if 0 <= age <= OLDEST else math.nan
