import struct
import sys

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from support.damage import assert_pixels_or_image_error
from support.dicom_files import RAMP, dicom_file, jpeg, lossless_jpeg, lut, pydicom_file

from cxr.images import dicom
from cxr.images.decode import decode_grey
from cxr.images.errors import ImageError

FLAT = {value: np.full((32, 40), value, np.uint16) for value in (0, 100, 1000, 2000, 3000, 4095)}
FLAT[1000][0, 0] = 1001  # without a window a flat image has no contrast
MINUS = np.full((32, 40), -24, np.int16)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        pytest.param(
            dicom_file(FLAT[2000], WindowCenter=2000, WindowWidth=1000), 128, id="centre: (0.5/999 + 0.5) 255"
        ),
        pytest.param(dicom_file(FLAT[1000], WindowCenter=2000, WindowWidth=1000), 0, id="below the window: black"),
        pytest.param(dicom_file(FLAT[3000], WindowCenter=2000, WindowWidth=1000), 255, id="above the window: white"),
        pytest.param(dicom_file(FLAT[3000], WindowCenter=[2000, 1], WindowWidth=[1000, 1]), 255, id="the first window"),
        pytest.param(
            dicom_file(FLAT[3000], WindowCenter=2000, WindowWidth=1000, PhotometricInterpretation="MONOCHROME1"),
            0,
            id="MONOCHROME1 is inverted",
        ),
        pytest.param(
            dicom_file(FLAT[100], WindowCenter=0, WindowWidth=201, RescaleSlope=2, RescaleIntercept=-200),
            128,
            id="rescale first: 100 becomes 0, (0.5/200 + 0.5) 255",
        ),
        pytest.param(
            dicom_file(MINUS, WindowCenter=0, WindowWidth=201), 98, id="signed: ((-24 + 0.5)/200 + 0.5) 255 = 97.54"
        ),
        pytest.param(
            dicom_file(FLAT[2000], WindowCenter=2000, WindowWidth=100, VOILUTFunction="SIGMOID"), 128, id="sigmoid"
        ),
        pytest.param(
            dicom_file(FLAT[100], VOILUTSequence=lut(0, 51, 255, first=99, bits=8)), 51, id="VOI LUT: 100 is its second"
        ),
        pytest.param(
            dicom_file(
                FLAT[100],
                ModalityLUTSequence=lut(0, 3000, first=99, bits=16),
                WindowCenter=2000,
                WindowWidth=1000,
            ),
            255,
            id="modality LUT, then window",
        ),
        pytest.param(dicom_file(FLAT[4095].astype(np.uint8) * 0 + 9, bits=8), 9, id="8 bits: as stored"),
        pytest.param(dicom_file(np.full((32, 40), 63, np.uint8), bits=6), 255, id="6 bits: 63 is white"),
        pytest.param(
            dicom_file(FLAT[2000] | 0xF000, WindowCenter=2000, WindowWidth=1000),
            128,
            id="bits above the 12 are ignored",
        ),
    ],
)
def test_stored_values_become_the_grey_values_of_a_screen(data, value):
    assert np.unique(decode_grey(data)).tolist() == [value]


def test_without_a_window_the_range_of_values_is_stretched_to_black_and_white():
    expected = np.rint(RAMP / RAMP.max() * 255)
    np.testing.assert_array_equal(decode_grey(dicom_file()), expected)
    np.testing.assert_array_equal(decode_grey(dicom_file(RAMP + 200)), expected)
    np.testing.assert_array_equal(decode_grey(dicom_file(WindowCenter=2000, WindowWidth=0)), expected)


def test_padding_does_not_affect_the_range_of_values():
    padded = RAMP + 200
    padded[:, :10] = 0
    grey = decode_grey(dicom_file(padded, PixelPaddingValue=0))
    assert (grey[:, :10].max(), grey[0, 10], grey.max()) == (
        0,
        0,
        255,
    )  # pixel (0, 10) is 230, the smallest that is not padding


@pytest.mark.parametrize(("kind", "value"), [("MONOCHROME1", 0), ("MONOCHROME2", 4095)])
def test_padding_is_black_whatever_its_value(kind, value):
    padded = RAMP // 2 + 200
    padded[:, :10] = value
    grey = decode_grey(dicom_file(padded, PhotometricInterpretation=kind, PixelPaddingValue=value))
    assert (grey[:, :10].max(), grey[:, 10:].max()) == (0, 255)


def test_padding_may_be_a_range():
    padded = RAMP + 200
    padded[:, :10] = np.arange(10)  # 0 to 9
    assert decode_grey(dicom_file(padded, PixelPaddingValue=0))[0, 10] > 0  # 1 is the smallest value
    grey = decode_grey(dicom_file(padded, PixelPaddingValue=0, PixelPaddingRangeLimit=9))
    assert (grey[:, :10].max(), grey[0, 10], grey.max()) == (0, 0, 255)


def test_an_empty_rescale_is_ignored():
    data = dicom_file(FLAT[2000], WindowCenter=2000, WindowWidth=1000, RescaleSlope="", RescaleIntercept="")
    assert np.unique(decode_grey(data)).tolist() == [128]


@pytest.mark.parametrize(
    ("syntax", "frame", "bits", "tolerance"),
    [
        pytest.param(uid.JPEGLosslessSV1, lossless_jpeg(RAMP), 12, 0, id="lossless JPEG"),
        pytest.param(uid.JPEGBaseline8Bit, jpeg((RAMP >> 4).astype(np.uint8), quality=95), 8, 8, id="JPEG"),
        pytest.param(uid.JPEG2000Lossless, jpeg(RAMP, "JPEG2000", no_jp2=True), 12, 0, id="JPEG 2000"),
    ],
)
def test_compressed_pixels_equal_the_uncompressed_ones(syntax, frame, bits, tolerance):
    pixels = RAMP if bits == 12 else (RAMP >> 4).astype(np.uint8)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    plain = decode_grey(dicom_file(pixels, bits=bits, **window)).astype(int)
    grey = decode_grey(dicom_file(pixels, bits=bits, syntax=syntax, frame=frame, **window))
    assert abs(grey - plain).max() <= tolerance


@pytest.mark.parametrize("name", ["implicit", "RLE", "bigendian", "jp2klossless", "jpeg_ls_lossless"])
def test_every_compression_of_one_scan_gives_the_same_grey(name):
    plain, other = (decode_grey(pydicom_file(f"MR_small{ending}.dcm")) for ending in ("", f"_{name}"))
    assert plain.shape == (64, 64)
    assert plain.std() > 20
    np.testing.assert_array_equal(other, plain)


def test_the_nih_image_as_dicom_has_the_pixels_of_its_png(shared_dir):
    stored = decode_grey((shared_dir / "odd" / "nih_dicom.dcm").read_bytes())
    png = decode_grey((shared_dir / "nih-1024" / "images" / "00000001_000.png").read_bytes())
    np.testing.assert_array_equal(stored, png)


@pytest.mark.parametrize(("name", "mean"), [("nih_dicom_modality_ct.dcm", 180.1), ("jpeg_compressed.dcm", 160.4)])
def test_other_real_files_are_read(shared_dir, name, mean):
    grey = decode_grey((shared_dir / "odd" / name).read_bytes())
    assert grey.shape == (1024, 1024)
    assert grey.mean() == pytest.approx(mean, abs=0.1)  # computed with pydicom alone


CUT = lossless_jpeg(RAMP)[:-40]
WRONG_SIZE = lossless_jpeg(RAMP).replace(struct.pack(">HH", 32, 40), b"\xff" * 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(
            dicom_file(PixelData=None), r"without pixel data \(Modality DX\): cut off, or not", id="no pixels"
        ),
        pytest.param(dicom_file(NumberOfFrames=3), "DICOM of 3 frames, expected one", id="several frames"),
        pytest.param(dicom_file(PhotometricInterpretation="RGB", SamplesPerPixel=3), r"colour DICOM \(RGB\)", id="RGB"),
        pytest.param(dicom_file(PhotometricInterpretation="YBR_FULL", SamplesPerPixel=3), "YBR_FULL", id="YBR"),
        pytest.param(dicom_file(PhotometricInterpretation="PALETTE COLOR"), "colour DICOM", id="palette"),
        pytest.param(dicom_file(BitsAllocated=32), "DICOM of 32 bits a pixel, expected 8 or 16", id="32 bits"),
        pytest.param(dicom_file(Rows=65535, Columns=65535), "declares 65535 x 65535 pixels", id="declared too large"),
        pytest.param(dicom_file(Rows=31), "40 x 31 pixels, under 32 a side", id="too small"),
        pytest.param(dicom_file(Rows=None), "broken DICOM: .*Rows", id="no height"),
        pytest.param(dicom_file()[:-100], "broken DICOM: The number of bytes of pixel data is less", id="cut off"),
        pytest.param(dicom_file()[:300], "without pixel data", id="cut off in its header"),
        pytest.param(bytes(128) + b"DICM" + b"rubbish " * 20, "DICOM", id="garbage after DICM"),
        pytest.param(bytes(128) + b"DICM", "DICOM", id="nothing after DICM"),
        pytest.param(dicom_file(FLAT[2000]), "DICOM without contrast: grey values from 2000 to 2000", id="flat"),
        pytest.param(dicom_file(RescaleSlope=0, RescaleIntercept=1), "DICOM without contrast", id="slope 0"),
        pytest.param(dicom_file(syntax=uid.JPEGLosslessSV1, frame=CUT), "DICOM whose JPEG is cut off", id="jpeg cut"),
        pytest.param(
            dicom_file(syntax=uid.JPEGLosslessSV1, frame=WRONG_SIZE),
            "40 x 32 pixels whose JPEG has 65535 x 65535",
            id="jpeg bomb",
        ),
        pytest.param(dicom_file(syntax=uid.MPEG2MPML, frame=b"ab"), "DICOM compressed as MPEG2", id="film"),
        pytest.param(dicom_file(syntax=uid.HTJ2K, frame=b"ab"), "compressed as High-Throughput JPEG 2000", id="HTJ2K"),
    ],
)
def test_a_dicom_that_is_not_one_grey_image_is_rejected_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        decode_grey(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("examples_rgb_color.dcm", "colour DICOM"),
        ("test-SR.dcm", r"without pixel data \(Modality SR\)"),
        ("rtdose.dcm", "15 frames"),
        ("MR_truncated.dcm", "less than expected"),
        ("image_dfl.dcm", "deflated DICOM"),
    ],
)
def test_real_files_that_are_not_radiographs_are_rejected(name, reason):
    with pytest.raises(ImageError, match=reason):
        decode_grey(pydicom_file(name))


@pytest.mark.parametrize("missing", ["pydicom", "pylibjpeg"])
def test_a_missing_library_is_named_and_is_not_an_image_error(monkeypatch, missing):
    data = dicom_file(syntax=uid.JPEGLosslessSV1, frame=lossless_jpeg(RAMP))
    if missing == "pydicom":
        monkeypatch.setitem(sys.modules, "pydicom", None)
    else:
        monkeypatch.delitem(pydicom.pixels.get_decoder(uid.JPEGLosslessSV1)._available, "pylibjpeg")
    with pytest.raises(ImportError, match=f"needs {missing}.* pip install -r requirements/dicom.txt"):
        decode_grey(data)


SAMPLES = [
    dicom_file(),
    dicom_file(syntax=uid.JPEGLosslessSV1, frame=lossless_jpeg(RAMP), WindowCenter=2000, WindowWidth=1000),
    dicom_file((RAMP >> 4).astype(np.uint8), bits=8, syntax=uid.JPEGBaseline8Bit, frame=jpeg(RAMP.astype(np.uint8))),
    dicom_file(VOILUTSequence=lut(0, 51, 255, first=99, bits=8)),
]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(132, 5000), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_a_damaged_dicom_gives_pixels_or_an_image_error(data, changes):
    assert_pixels_or_image_error(data, changes)


@pytest.mark.parametrize("data", SAMPLES)
def test_a_truncated_dicom_is_always_noticed(data):
    for length in range(132, len(data) - 16, 97):  # the last bytes are padding and the end of the sequence
        with pytest.raises(ImageError):
            decode_grey(data[:length])


def test_dicom_is_recognised_by_its_content():
    assert dicom.is_dicom(dicom_file())
    assert not dicom.is_dicom(b"DICM")
