import hashlib
import math

import pytest
from etils import epath

from cxr.findings import FINDINGS
from cxr.patient import parse_age
from cxr.release.entries import ImageRow, read_entries, read_label_csv

NAMES = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
HEADER_2017 = NAMES + ",OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
HEADER_2020 = NAMES + ",OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
ROW_2017 = "00000001_000.png,Cardiomegaly,000,00000001,058Y,M,PA,2682,2749,0.143,0.143"
ROW_2020 = "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143"
CARDIOMEGALY = (0, 1) + (0,) * 12
MASS = (0, 0, 0, 0, 1) + (0,) * 9


@pytest.fixture
def table(tmp_path):
    def write(*lines, end="\n", start=b"", name="Data_Entry_2017.csv"):
        path = tmp_path / name
        path.write_bytes(start + "".join(line + end for line in lines).encode())
        return epath.Path(path)

    return write


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("058Y", 58),
        ("013M", 13 / 12),
        ("026W", 26 / 52.18),  # in DICOM
        ("001D", 1 / 365.25),
        ("000D", 0),
        ("58", 58),  # the 2020 CSV
        ("058", 58),  # a re-upload of the 2017 CSV
        (" 058Y ", 58),
        ("120Y", 120),
        ("121Y", math.nan),
        ("414Y", math.nan),  # the largest of the 2017 CSV
        ("1440M", 120),
        ("-1", math.nan),
        ("", math.nan),
    ],
)
def test_an_age_becomes_years_and_an_impossible_age_nan(text, years):
    assert parse_age(text) == pytest.approx(years, nan_ok=True)


@pytest.mark.parametrize("text", ["old", "Y", "5 8", "58y"])
def test_an_age_that_is_not_a_number_is_rejected(text):
    with pytest.raises(ValueError, match="could not convert"):
        parse_age(text)


@pytest.mark.parametrize(
    ("header", "row", "age"),
    [
        pytest.param(HEADER_2017, ROW_2017, 58, id="2017: 11 cells below 12 names"),
        pytest.param(HEADER_2017, ROW_2017 + ",", 58, id="2017 with an empty trailing cell"),
        pytest.param(HEADER_2020, ROW_2020, 57, id="2020"),
        pytest.param(NAMES.replace("#,", "#, "), ROW_2020, 57, id="blanks in the header"),
    ],
)
def test_both_versions_of_the_csv_give_the_same_row(table, header, row, age):
    (found,) = read_entries(table(header, row)).rows
    assert found == ImageRow("00000001_000.png", 1, CARDIOMEGALY, age=age, sex=1, view_position=0)


LINE_ENDS = {"LF": ("\n", b""), "CRLF": ("\r\n", b""), "BOM": ("\n", b"\xef\xbb\xbf")}


@pytest.mark.parametrize(("end", "start"), LINE_ENDS.values(), ids=LINE_ENDS)
def test_line_ends_and_a_byte_order_mark_change_nothing(table, end, start):
    path = table(HEADER_2017, ROW_2017, "", end=end, start=start)  # the last line is empty
    found = read_entries(path)
    assert [row.image_id for row in found.rows] == ["00000001_000.png"]
    assert (found.name, found.sha256) == ("Data_Entry_2017.csv", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("cells", "sex", "view_position"),
    [("F,PA", 0, 0), ("M,AP", 1, 1), (" M , AP ", 1, 1), (",", -1, -1), ("O,LL", -1, -1)],
)
def test_unknown_sex_and_view_position_are_minus_one(table, cells, sex, view_position):
    (row,) = read_entries(table(HEADER_2020, f"1_0.png,Mass,0,1,57,{cells},1,1,1,1")).rows
    assert (row.sex, row.view_position, row.labels) == (sex, view_position, MASS)


def test_the_sex_column_has_either_of_two_names(table):
    header = HEADER_2020.replace("Patient Gender", "Patient Sex")
    assert read_entries(table(header, "1_0.png,Mass,0,1,57,M,AP,1,1,1,1")).rows[0].sex == 1


def test_columns_are_found_by_name_in_any_order(table):
    lines = "Patient ID,Patient Age,View Position,Patient Gender,Finding Labels,Image Index", "7,57,AP,F,Mass,a_0.png"
    assert read_entries(table(*lines)).rows == [ImageRow("a_0.png", 7, MASS, age=57, sex=0, view_position=1)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param(
            ["Image Index,Patient ID", "1_0.png,1"], "has no column 'Finding Labels'; expected Image", id="column"
        ),
        pytest.param([], "has no column 'Image Index'", id="empty file"),
        pytest.param([HEADER_2017], "has a header and no rows", id="no rows"),
        pytest.param(
            [HEADER_2017, ROW_2017, "2_0.png,Kardia,0,1,1,M,PA"], "row 3: unknown finding 'Kardia'", id="finding"
        ),
        pytest.param([HEADER_2017, ROW_2017, "", ROW_2017], "row 4: image .* is already in row 2", id="image twice"),
        pytest.param([HEADER_2017, "2_0.png,Mass,0,1,young,M,PA"], "row 2: could not convert", id="age"),
        pytest.param([HEADER_2017, "2_0.png,Mass,0,P1,1,M,PA"], "row 2: invalid literal .*'P1'", id="patient"),
        pytest.param([HEADER_2017, "00000001_000.png,Mass,0"], "row 2: 3 cells, expected 12", id="short row"),
    ],
)
def test_a_broken_csv_is_named_with_its_row(table, lines, message):
    with pytest.raises(ValueError, match=r"Data_Entry_2017\.csv " + message):
        read_entries(table(*lines))


def test_a_csv_that_is_not_text_is_named(table):
    with pytest.raises(ValueError, match=r"Data_Entry_2017\.csv is not a readable CSV"):
        read_entries(table(start=b"\x89PNG\r\n\x1a\n\xff\xfe"))


def label_line(image_id, *ones, one="1", zero="0"):
    return ",".join([image_id, *(one if place in ones else zero for place in range(14))])


LABEL_HEADER = ",".join(["Image Index", *FINDINGS])


def test_a_label_csv_takes_patient_age_sex_and_view_position_from_the_entries(table):
    known = {"00000001_000.png": ImageRow("00000001_000.png", 9, CARDIOMEGALY, age=58, sex=1, view_position=0)}
    lines = LABEL_HEADER, label_line("00000001_000.png", 4), label_line("00000002_003.png", 1, one="1.0", zero="0.0")
    first, second = read_label_csv(table(*lines, name="train_labels.csv"), known).rows
    assert first == ImageRow(
        "00000001_000.png", 9, MASS, age=58, sex=1, view_position=0
    )  # the labels are the label CSV's
    assert (second.patient_id, second.labels, second.sex, second.view_position) == (2, CARDIOMEGALY, -1, -1)
    assert math.isnan(second.age)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (label_line("00000001_000.png", 4, one="2"), "row 2: labels must be 0 or 1"),
        (label_line("00000001_000.png", 4, one="0.7"), "row 2: labels must be 0 or 1"),  # a soft label is none
        (label_line("00000001_000.png", 4, zero="-0.5"), "row 2: labels must be 0 or 1"),
        (label_line("00000001_000.png", 4, one="inf"), "row 2: labels must be 0 or 1"),
        (label_line("00000001_000.png", 4, zero="nan"), "row 2: labels must be 0 or 1"),
        (label_line("chest.png", 4), "row 2: invalid literal"),  # no patient number before "_"
        (label_line("00000001_000.png", 4, one="yes"), "row 2: could not convert"),
    ],
)
def test_a_broken_label_csv_is_named_with_its_row(table, line, message):
    with pytest.raises(ValueError, match=r"val_labels\.csv " + message):
        read_label_csv(table(LABEL_HEADER, line, name="val_labels.csv"), {})


def test_label_columns_may_be_in_any_order(table):
    header = ",".join(["Image Index", *FINDINGS[::-1]])
    (row,) = read_label_csv(table(header, label_line("1_0.png", 9), name="test_labels.csv"), {}).rows
    assert row.labels == MASS  # the tenth from the end is the fifth


def test_spaces_around_an_image_id_are_removed(table):
    (row,) = read_label_csv(table(LABEL_HEADER, label_line(" 00000001_000.png ", 4), name="val_labels.csv"), {}).rows
    assert (row.image_id, row.patient_id) == ("00000001_000.png", 1)
    entry = ROW_2017.replace("00000001_000.png", "00000001_000.png ")
    assert read_entries(table(HEADER_2017, entry)).rows[0].image_id == "00000001_000.png"
