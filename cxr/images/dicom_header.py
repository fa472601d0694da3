"""What a DICOM header says of the picture and the patient: no more than a model is told, or a warning needs."""

import io
import math
from typing import NamedTuple

from cxr.patient import SEXES, VIEW_POSITIONS, parse_age

TAGS = ("Modality", "BodyPartExamined", "PatientAge", "PatientSex", "ViewPosition")
RADIOGRAPHS = ("DX", "CR", "RG")  # digital radiography, computed radiography, radiographic film
CHESTS = ("CHEST", "THORAX")


class Header(NamedTuple):
    """The elements of TAGS, upper case; "" where the file is silent."""

    modality: str = ""
    body_part: str = ""
    patient_age: str = ""
    patient_sex: str = ""
    view_position_text: str = ""

    @property
    def age(self) -> float | None:
        """Years; None where the file is silent, unreadable, or speaks of no human."""
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
        """Why this may be no frontal chest radiograph; where the file is silent, nothing is odd."""
        found = []
        if self.modality and self.modality not in RADIOGRAPHS:
            found.append(f"DICOM of modality {self.modality}, expected {' or '.join(RADIOGRAPHS)}")
        if self.body_part and not any(chest in self.body_part for chest in CHESTS):
            found.append(f"DICOM of body part {self.body_part}, expected {CHESTS[0]}")
        if self.view_position_text and self.view_position is None:
            found.append(f"DICOM of view position {self.view_position_text}, expected {' or '.join(VIEW_POSITIONS)}")
        return found


def read_header(data: bytes) -> Header:
    """Read the header of a file that `dicom.decode_dicom` has decoded: it is whole and not deflated."""
    import pydicom

    file = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(TAGS))
    return Header(*(" ".join(str(file.get(tag) or "").upper().split())[:40] for tag in TAGS))
