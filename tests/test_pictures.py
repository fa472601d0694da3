import io

import numpy as np
import pytest
from PIL import Image

from cxr.data.dicom_header import Header
from cxr.data.pictures import NOBODY, Patient, read_picture

SOFT = np.clip(np.random.default_rng(0).normal(120, 40, (40, 48)), 0, 255).astype(np.uint8)  # 48 wide


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("pixels", "options", "warning"),
    [
        (SOFT[:, :40], {}, None),
        (SOFT[:, :40], {"size": 64}, "40 x 40 pixels, fewer than the 64 a side that the model sees"),
        (np.tile(SOFT, (1, 2)), {}, "96 x 40 pixels, far from square"),
        (np.full((40, 40), 7, np.uint8), {}, "blank: its grey values have a standard deviation of 0.0"),
        (np.dstack([SOFT, 255 - SOFT, SOFT]), {}, "in colour, expected a grey radiograph"),
        (np.dstack([SOFT, SOFT, SOFT]), {}, None),
        (np.dstack([SOFT, 255 - SOFT, SOFT]), {"kind": "JPEG"}, "in colour, expected a grey radiograph"),
        (np.dstack([SOFT, SOFT, SOFT]), {"kind": "JPEG", "quality": 60}, None),
    ],
)
def test_what_looks_unlike_a_radiograph_is_said(pixels, options, warning):
    size = options.pop("size", 32) if options else 32
    picture = read_picture(encoded(pixels, **({"kind": "PNG"} | options)), size, NOBODY)
    assert picture.warnings == ((warning,) if warning else ())


@pytest.mark.parametrize(("orientation", "is_said"), [(1, False), (6, True), (None, False)])
def test_an_image_that_its_exif_tag_turns_is_said(orientation, is_said):
    tags = Image.Exif()
    if orientation:
        tags[0x0112] = orientation
    warnings = read_picture(encoded(SOFT[:, :40], "JPEG", exif=tags), 32, NOBODY).warnings
    said = "lies on its side or head as stored: its EXIF orientation is not followed, save it upright"
    assert warnings == ((said,) if is_said else ())


def test_a_header_tells_the_patient_and_what_is_no_chest_radiograph():
    header = Header("CT", "HAND", "006M", "F", "LL")
    assert (header.age, header.sex, header.view) == (0.5, "F", None)
    assert header.oddities() == [
        "DICOM of modality CT, expected DX or CR or RG",
        "DICOM of body part HAND, expected CHEST",
        "DICOM of view LL, expected PA or AP",
    ]
    assert Header("DX", "CHEST", "058Y", "O", "PA").oddities() == Header().oddities() == []
    assert (Header(patient_age="old").age, Header(patient_age="414").age, Header().sex) == (None, None, None)


def test_flags_go_before_the_header(shared_dir):
    pydicom = pytest.importorskip("pydicom")
    file = pydicom.dcmread(shared_dir / "odd/nih_dicom.dcm")
    file.PatientAge, file.PatientSex, file.ViewPosition = "058Y", "M", "AP"
    buffer = io.BytesIO()
    file.save_as(buffer)
    assert read_picture(buffer.getvalue(), 32, NOBODY).patient == Patient(58, "M", "AP")
    assert read_picture(buffer.getvalue(), 32, Patient(age=3.0, view="PA")).patient == Patient(3.0, "M", "PA")
