"""What somebody asks of the model, on the page or at the endpoint, checked: it comes from anywhere."""

import base64
import math

from cxr.data.entries import OLDEST, SEXES, VIEWS
from cxr.data.images import ImageError
from cxr.data.pictures import Patient
from cxr.findings import FINDINGS
from tools.serving.gate import MAX_BYTES, TOO_LARGE
from tools.serving.samples import Sample


class ImpossiblePatient(ValueError):
    """Nobody is like that; the text says why, for the person who asked."""


def patient_of(age: object, sex: object, view: object) -> Patient:
    """A patient from text or numbers; None and "" are unknown.

    Raises:
        ImpossiblePatient: a value is impossible.
    """
    years = None
    if age not in (None, ""):
        try:
            years = float(age)
        except (TypeError, ValueError):
            years = math.nan
        if not 0 <= years <= OLDEST:
            raise ImpossiblePatient(f"age {str(age)[:20]}: expected 0 to {OLDEST} years")
    for name, value, known in (("sex", sex, SEXES), ("view", view, VIEWS)):
        if value not in (None, "", *known):
            raise ImpossiblePatient(f"{name} {str(value)[:20]}: expected {' or '.join(known)}")
    return Patient(years, sex or None, view or None)


def image_of(asked: dict, samples: list[Sample]) -> bytes:
    """The bytes of the image that the page asks about: {"sample": number}, or {"data": base64} of a file.

    Raises:
        ImageError: nothing has arrived, or more than MAX_BYTES.
    """
    if asked.get("too_large"):  # the page has looked before sending it
        raise ImageError(TOO_LARGE)
    number, data = asked.get("sample"), asked.get("data")
    if isinstance(number, int) and 0 <= number < len(samples):
        return samples[number].png
    try:
        image = base64.b64decode(data, validate=True)
    except (TypeError, ValueError):
        raise ImageError("nothing has arrived; choose the file again") from None
    if len(image) > MAX_BYTES:
        raise ImageError(TOO_LARGE)
    return image


def finding_of(asked: dict) -> str | None:
    """The finding whose heat map is asked for, or None."""
    return asked.get("finding") if asked.get("finding") in FINDINGS else None
