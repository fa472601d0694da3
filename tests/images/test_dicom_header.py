import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dicom_files import dicom_file

from cxr.images.decode import decode_grey
from cxr.images.dicom_header import TAGS, Header, read_header
from cxr.images.errors import ImageError

ELEMENTS = {"BodyPartExamined": "CHEST", "PatientAge": "058Y", "PatientSex": "M", "ViewPosition": "AP"}
FILE = dicom_file(**ELEMENTS)


def with_representation(tag: str, representation: bytes) -> bytes:
    """FILE with other two letters in place of the value representation of an element, in explicit little-endian."""
    number = pydicom.tag.Tag(tag)
    place = FILE.index(number.group.to_bytes(2, "little") + number.element.to_bytes(2, "little"), 132) + 4
    return FILE[:place] + representation + FILE[place + 2 :]


def test_the_elements_of_a_header():
    assert read_header(FILE) == Header("DX", "CHEST", "058Y", "M", "AP")
    assert (read_header(FILE).age, read_header(FILE).sex, read_header(FILE).view_position) == (58, "M", "AP")


def test_absent_elements_are_unknown():
    header = read_header(dicom_file(Modality=None))
    assert header == Header()
    assert (header.age, header.sex, header.view_position, header.oddities()) == (None, None, None, [])


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(
    ("representation", "error"),
    [
        pytest.param(b"ZZ", "NotImplementedError", id="unknown"),
        pytest.param(b"FD", "BytesLengthException", id="of numbers of 8 bytes"),
    ],
)
def test_an_element_with_a_wrong_value_representation_is_an_image_error(tag, representation, error):
    data = with_representation(tag, representation)
    with pytest.raises(ImageError) as caught:
        read_header(data)
    assert str(caught.value) == f"broken DICOM: {tag} cannot be read ({error})"  # without the patient's data


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(132, 700), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_header_is_read_or_is_an_image_error(changes):
    damaged = bytearray(FILE)
    for place, value in changes:
        damaged[place] = value
    try:
        decode_grey(bytes(damaged))
        header = read_header(bytes(damaged))
    except ImageError:
        return
    assert all(len(text) <= 40 for text in header)
