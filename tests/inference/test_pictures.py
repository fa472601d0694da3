import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxr.images.decode import decode_grey
from cxr.images.dicom_header import Header
from cxr.patient import UNKNOWN_PATIENT, Patient
from inference.pictures import is_rotated, read_picture

ROOT = Path(__file__).resolve().parents[2]
SOFT = np.clip(np.random.default_rng(0).normal(120, 40, (40, 48)), 0, 255).astype(np.uint8)  # 48 wide


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("pixels", "options", "warning"),
    [
        (SOFT[:, :40], {}, None),
        (SOFT[:, :40], {"size": 64}, "only 40 x 40 pixels; the model's input is 64 x 64"),
        (np.tile(SOFT, (1, 2)), {}, "96 x 40 pixels, far from square"),
        (np.full((40, 40), 7, np.uint8), {}, "blank or nearly so: the standard deviation of its grey values is 0.0"),
        (np.dstack([SOFT, 255 - SOFT, SOFT]), {}, "a colour image, expected a grey radiograph"),
        (np.dstack([SOFT, SOFT, SOFT]), {}, None),
        (np.dstack([SOFT, 255 - SOFT, SOFT]), {"kind": "JPEG"}, "a colour image, expected a grey radiograph"),
        (np.dstack([SOFT, SOFT, SOFT]), {"kind": "JPEG", "quality": 60}, None),
    ],
)
def test_an_image_unlike_a_radiograph_has_a_warning(pixels, options, warning):
    size = options.pop("size", 32) if options else 32
    picture = read_picture(encoded(pixels, **({"kind": "PNG"} | options)), size, UNKNOWN_PATIENT)
    assert picture.warnings == ((warning,) if warning else ())


@pytest.mark.parametrize(("orientation", "has_warning"), [(1, False), (6, True), (None, False)])
def test_an_exif_orientation_other_than_upright_has_a_warning(orientation, has_warning):
    tags = Image.Exif()
    if orientation:
        tags[0x0112] = orientation
    warnings = read_picture(encoded(SOFT[:, :40], "JPEG", exif=tags), 32, UNKNOWN_PATIENT).warnings
    text = "stored rotated or mirrored: its EXIF orientation is ignored, so save it upright"
    assert warnings == ((text,) if has_warning else ())


def png_with(place: str, orientation: int) -> bytes:
    """A PNG whose orientation is in one of the places where Pillow finds it."""
    tags, info = Image.Exif(), PngInfo()
    tags[0x0112] = orientation
    if place == "XMP":
        info.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{orientation}"/>', zip=True)
    elif place == "raw profile":
        info.add_text("Raw profile type exif", f"\nexif\n8\n{tags.tobytes().hex()}", zip=True)
    if place in ("XMP", "raw profile"):
        return encoded(SOFT, pnginfo=info)
    data = encoded(SOFT, exif=tags)
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4])]
    end = data.index(b"IEND") - 4
    return data if place == "before the pixels" else data[:start] + data[start + len(chunk) : end] + chunk + data[end:]


@pytest.mark.parametrize("place", ["before the pixels", "after the pixels", "XMP", "raw profile"])
def test_an_orientation_is_found_wherever_a_png_holds_it(place):
    assert [is_rotated(png_with(place, orientation)) for orientation in (1, 6)] == [False, True]


def test_a_png_that_holds_no_orientation_is_not_decoded_for_it(monkeypatch):
    monkeypatch.setattr(Image.Image, "getexif", lambda image: {0x0112: 6})  # instead of Pillow's, which decodes
    assert is_rotated(encoded(SOFT, "JPEG"))
    assert not is_rotated(encoded(SOFT))


def test_a_dicom_header_gives_patient_inputs_and_warnings():
    header = Header("CT", "HAND", "006M", "F", "LL")
    assert (header.age, header.sex, header.view_position) == (0.5, "F", None)
    assert header.oddities() == [
        "DICOM of modality CT, expected DX or CR or RG",
        "DICOM of body part HAND, expected CHEST",
        "DICOM of view position LL, expected PA or AP",
    ]
    assert Header("DX", "CHEST", "058Y", "O", "PA").oddities() == Header().oddities() == []
    assert (Header(patient_age="old").age, Header(patient_age="414").age, Header().sex) == (None, None, None)


def test_flags_override_the_dicom_header(shared_dir):
    pydicom = pytest.importorskip("pydicom")
    file = pydicom.dcmread(shared_dir / "odd/nih_dicom.dcm")
    file.PatientAge, file.PatientSex, file.ViewPosition = "058Y", "M", "AP"
    buffer = io.BytesIO()
    file.save_as(buffer)
    assert read_picture(buffer.getvalue(), 32, UNKNOWN_PATIENT).patient == Patient(58, "M", "AP")
    assert read_picture(buffer.getvalue(), 32, Patient(age=3.0, view_position="PA")).patient == Patient(3.0, "M", "PA")


READ_IN_THREADS = """
import concurrent.futures, pathlib, sys, warnings
from cxr.images.errors import ImageError
from cxr.patient import UNKNOWN_PATIENT
from inference.pictures import read_picture

def read(path):
    try:
        return path.name, f"mean {read_picture(path.read_bytes(), 32, UNKNOWN_PATIENT).pixels.mean():.1f}"
    except ImageError as error:
        return path.name, str(error)

files = sorted(pathlib.Path(sys.argv[1]).iterdir())
first = set(map(read, files))  # imports libraries, which add their own filters
before = list(warnings.filters)
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = set(pool.map(read, files * 200))
print(*(": ".join(pair) for pair in sorted(found | first)), sep="\\n")
print("filters unchanged:", warnings.filters == before)
"""


def warning_files() -> dict[str, bytes]:
    """Uniform grey images: some intact, some damaged, some that make Pillow or pydicom issue a warning."""
    samples = pytest.importorskip("pydicom.data")
    even = np.full((40, 40), 100, np.uint8)
    palette = io.BytesIO()
    indexed = Image.fromarray(np.zeros((40, 40), np.uint8), "P")
    indexed.putpalette([80, 80, 80])
    indexed.save(palette, "PNG", transparency=bytes([7, 9]))  # "Palette images with Transparency expressed in bytes"
    jpeg = encoded(even, "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5  # where the frame declares its height and width
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 1, 0)  # one of two tags
    dicom = Path(samples.get_testdata_file("CT_small.dcm")).read_bytes()
    return {
        "bomb.jpg": jpeg[:size] + struct.pack(">HH", 10_000, 10_000) + jpeg[size + 4 :],  # DecompressionBombWarning
        "exif.jpg": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:],  # "Corrupt EXIF data"
        "good.jpg": jpeg,
        "good.png": encoded(even + 20),
        "half.jpg": jpeg[:-20],
        "good.dcm": dicom,
        "letters.dcm": dicom.replace(b"ISO_IR 100", b"ISO_IR 999"),  # "Unknown encoding 'ISO_IR 999'"
        "palette.png": palette.getvalue(),
    }


def test_reading_in_threads_keeps_outcomes_apart_and_leaves_warning_filters_alone(tmp_path):
    files = warning_files()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    scan = decode_grey(files["good.dcm"]).mean()
    command = [sys.executable, "-W", "error", "-c", READ_IN_THREADS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout.splitlines(), done.stderr) == (
        [
            "bomb.jpg: declares 10000 x 10000 pixels, over the limit of 67,108,864",
            "exif.jpg: mean 100.0",
            f"good.dcm: mean {scan:.1f}",
            "good.jpg: mean 100.0",
            "good.png: mean 120.0",
            "half.jpg: broken image: image file is truncated (2 bytes not processed)",
            f"letters.dcm: mean {scan:.1f}",
            "palette.png: mean 80.0",
            "filters unchanged: True",
        ],
        "",
    )
