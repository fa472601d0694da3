"""The DICOM header elements that are patient inputs of a model, or that reveal an image of another kind."""

import io
import math
from typing import NamedTuple

from cxr.images.errors import ImageError
from cxr.patient import SEXES, VIEW_POSITIONS, parse_age

TAGS = ("Modality", "BodyPartExamined", "PatientAge", "PatientSex", "ViewPosition")
RADIOGRAPHS = ("DX", "CR", "RG")  # digital radiography, computed radiography, radiographic film
CHESTS = ("CHEST", "THORAX")


class Header(NamedTuple):
    """The elements of TAGS in upper case; "" for an absent one."""

    modality: str = ""
    body_part: str = ""
    patient_age: str = ""
    patient_sex: str = ""
    view_position_text: str = ""

    @property
    def age(self) -> float | None:
        """Years; None for an absent, unreadable or impossible age."""
        try:
            age = parse_age(self.patient_age)
        except ValueError:
            return None
        return None if math.isnan(age) else age

    @property
    def sex(self) -> str | None:
        """F or M; None for anything else."""
        return self.patient_sex if self.patient_sex in SEXES else None

    @property
    def view_position(self) -> str | None:
        """PA or AP; None for anything else."""
        return self.view_position_text if self.view_position_text in VIEW_POSITIONS else None

    def oddities(self) -> list[str]:
        """Reasons why this may not be a frontal chest radiograph. An absent element is not a reason."""
        found = []
        if self.modality and self.modality not in RADIOGRAPHS:
            found.append(f"DICOM of modality {self.modality}, expected {' or '.join(RADIOGRAPHS)}")
        if self.body_part and not any(chest in self.body_part for chest in CHESTS):
            found.append(f"DICOM of body part {self.body_part}, expected {CHESTS[0]}")
        if self.view_position_text and self.view_position is None:
            found.append(f"DICOM of view position {self.view_position_text}, expected {' or '.join(VIEW_POSITIONS)}")
        return found


def read_header(data: bytes) -> Header:
    """Read the header of a file that `dicom.decode_dicom` has decoded: it is complete and not deflated.

    Raises:
        ImageError: an element of TAGS cannot be parsed, for example because its value representation is unknown.
    """
    import pydicom

    file = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(TAGS))
    return Header(*(_text(file, tag) for tag in TAGS))


def _text(file, tag: str) -> str:
    try:
        value = file.get(tag)  # pydicom parses an element only now, and raises many kinds of errors
    except Exception as error:
        # Without the text of the error, which may quote the value: patient data.
        raise ImageError(f"broken DICOM: {tag} cannot be read ({type(error).__name__})") from error
    return " ".join(str(value or "").upper().split())[:40]
