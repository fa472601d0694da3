"""Validate untrusted requests: the query parameters, and the image file in the body."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cxr.findings import FINDINGS
from cxr.patient import OLDEST, SEXES, VIEW_POSITIONS, Patient

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_BYTES = 32 << 20  # largest upload; 3000 x 3000 pixels of 16 bits, uncompressed, are 18 MB
MAX_SECONDS = 60  # for an upload to arrive; a stalled one must not block others
TOO_LARGE = f"larger than {MAX_BYTES >> 20} MB, which is more than a radiograph needs"
PATIENT_PARAMETERS = ("age", "sex", "view_position")


class RequestError(ValueError):
    """A request is rejected. The text is the answer, `status` its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def require_known(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Raise RequestError for an unknown query parameter."""
    for name in query:
        if name not in known:
            raise RequestError(422, f"unknown parameter {name[:20]}: expected {', '.join(known)}")


def parse_patient(query: Mapping[str, str]) -> Patient:
    """Read age (years), sex and view position; missing and empty values are unknown.

    Raises:
        RequestError: a value is impossible or a parameter is unknown.
    """
    require_known(query, PATIENT_PARAMETERS)
    age, sex, view_position = (query.get(name, "") for name in PATIENT_PARAMETERS)
    try:
        years = float(age) if age else None
    except ValueError:
        years = math.nan
    if years is not None and not 0 <= years <= OLDEST:
        raise RequestError(422, f"age {age[:20]}: expected 0 to {OLDEST} years")
    for name, value, known in (("sex", sex, SEXES), ("view_position", view_position, VIEW_POSITIONS)):
        if value and value not in known:
            raise RequestError(422, f"{name} {value[:20]}: expected {' or '.join(known)}")
    return Patient(years, sex or None, view_position or None)


def parse_finding(query: Mapping[str, str]) -> str | None:
    """Read the finding of the heat map; None for no heat map.

    Raises:
        RequestError: it is not one of the 14, or a parameter is unknown.
    """
    require_known(query, ("finding",))
    finding = query.get("finding", "")
    if finding and finding not in FINDINGS:
        raise RequestError(422, f"finding {finding[:20]}: expected {', '.join(FINDINGS)}")
    return finding or None


async def read_image(request: "Request") -> bytes:
    """Read the body, an image file; stop as soon as it is larger than MAX_BYTES.

    Raises:
        RequestError: the body is too large, too slow, or a form.
    """
    import anyio

    if int(request.headers.get("content-length", 0)) > MAX_BYTES:
        raise RequestError(413, TOO_LARGE)
    data = bytearray()
    try:
        with anyio.fail_after(MAX_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BYTES:
                    raise RequestError(413, TOO_LARGE)
    except TimeoutError as error:
        raise RequestError(408, f"the image did not arrive within {MAX_SECONDS} seconds; send it again") from error
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise RequestError(415, "send the file itself as the body, not a form: curl --data-binary @FILE")
    return bytes(data)
