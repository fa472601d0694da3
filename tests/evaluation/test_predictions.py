import re

import numpy as np
import pytest

from cxr.evaluation import predictions
from cxr.findings import FINDINGS

HEADER = ["image_id", "patient_id", *predictions.LABELS, *predictions.PROBABILITIES, *predictions.METADATA_COLUMNS]


def made(images: int = 4) -> predictions.Predictions:
    """Images a.png, b.png, ... of patients 1, 1, 2, 2, ...; of the last, all metadata are unknown."""
    generator = np.random.default_rng(0)
    return predictions.Predictions(
        image_ids=np.array([f"{chr(97 + row)}.png" for row in range(images)]),
        patient_ids=1 + np.arange(images) // 2,
        labels=generator.integers(0, 2, (images, 14)),
        probabilities=generator.random((images, 14)),
        ages=np.array([30.0, 31.5, 80.0, np.nan])[:images],
        sexes=np.array(["F", "F", "M", ""])[:images],
        view_positions=np.array(["PA", "AP", "AP", ""])[:images],
        groups=np.array(["A", "St. Mary", "NA", ""])[:images],
    )


@pytest.fixture
def write(tmp_path):
    """write(row, column, text): a CSV of `made` with one cell changed."""

    def write(row: int = 0, column: str = "image_id", text: str = "a.png"):
        lines = [line.split(",") for line in predictions.to_csv(made()).splitlines()]
        lines[row + 1][lines[0].index(column)] = text
        path = tmp_path / "predictions.csv"
        path.write_text("\n".join(map(",".join, lines)) + "\n")
        return path

    return write


def assert_error(path, text: str):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        predictions.read_predictions(path)


def test_a_written_csv_is_read_back(write):
    found, expected = predictions.read_predictions(write()), made()
    assert predictions.to_csv(expected).splitlines()[0].split(",") == HEADER
    for name, value in expected._asdict().items():
        if name == "probabilities":
            np.testing.assert_allclose(found.probabilities, value, rtol=1e-8)  # nine digits
        else:
            np.testing.assert_array_equal(getattr(found, name), value)


def test_a_csv_from_before_groups_has_none(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("\n".join(line.rpartition(",")[0] for line in predictions.to_csv(made()).splitlines()))
    found = predictions.read_predictions(path)
    assert found.groups.tolist() == [""] * 4
    assert found.view_positions.tolist() == ["PA", "AP", "AP", ""]


def test_no_images(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(predictions.to_csv(made(0)))
    found = predictions.read_predictions(path)
    assert (found.image_ids.shape, found.labels.shape, found.ages.shape) == ((0,), (0, 14), (0,))


def test_without_metadata_columns_all_metadata_are_unknown(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("\n".join(",".join(line.split(",")[:30]) for line in predictions.to_csv(made()).splitlines()))
    found = predictions.read_predictions(path)
    assert np.isnan(found.ages).all()
    assert set(found.sexes) | set(found.view_positions) | set(found.groups) == {""}


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("prob_Mass", "nan", "prob_Mass of image b.png is 'nan'; expected 0 to 1"),
        ("prob_Mass", "", "prob_Mass of image b.png is ''; expected 0 to 1"),
        ("prob_Mass", "1.01", "prob_Mass of image b.png is '1.01'; expected 0 to 1"),
        ("prob_Hernia", "-0.1", "prob_Hernia of image b.png is '-0.1'; expected 0 to 1"),
        ("prob_Hernia", "high", "prob_Hernia of image b.png is 'high'; expected 0 to 1"),
        ("label_Mass", "0.5", "label_Mass of image b.png is '0.5'; expected 0 or 1"),
        ("label_Mass", "2", "label_Mass of image b.png is '2'; expected 0 or 1"),
        ("patient_id", "1.5", "patient_id of image b.png is '1.5'; expected a whole number"),
        ("patient_id", "", "patient_id of image b.png is ''; expected a whole number"),
        ("age", "old", "age of image b.png is 'old'; expected years or an empty cell"),
        ("age", "-1", "age of image b.png is '-1'; expected years or an empty cell"),
        ("sex", "f", "sex of image b.png is 'f'; expected F, M or an empty cell"),
        ("view_position", "LATERAL", "view_position of image b.png is 'LATERAL'; expected PA, AP or an empty cell"),
    ],
)
def test_an_impossible_cell(write, column, text, expected):
    path = write(1, column, text)
    assert_error(path, f"{path}: {expected}")


def test_many_bad_cells_are_counted(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(predictions.to_csv(made()._replace(probabilities=np.full((4, 14), np.nan))))
    assert_error(path, f"{path}: prob_Atelectasis of image a.png is ''; expected 0 to 1 (55 more cells like it)")


def test_an_image_twice(write):
    path = write(1, "image_id", "a.png")
    assert_error(path, f"{path} has image a.png more than once; every image counts once")


@pytest.mark.parametrize("prefix", ["label_", "prob_"])
def test_findings_in_another_order(tmp_path, prefix):
    path = tmp_path / "predictions.csv"
    text = predictions.to_csv(made()).replace(f"{prefix}Mass,{prefix}Nodule", f"{prefix}Nodule,{prefix}Mass")
    path.write_text(text)
    swapped = ", ".join([*FINDINGS[:4], "Nodule", "Mass", *FINDINGS[6:]])
    assert_error(path, f"{path} ({prefix}<Finding>) has the findings {swapped}; this code works with Atelectasis, ")


def test_a_missing_finding(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(predictions.to_csv(made()).replace("prob_Hernia", "hernia"))
    assert_error(path, f"{path} (prob_<Finding>) has the findings Atelectasis, ")


@pytest.mark.parametrize("column", ["image_id", "patient_id"])
def test_a_missing_column(tmp_path, column):
    path = tmp_path / "predictions.csv"
    path.write_text(predictions.to_csv(made()).replace(column, "file"))
    assert_error(path, f"{path} has no column {column}; expected image_id, patient_id, label_<Finding> x14 and prob_")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b'a,b\n"1,2\n', b"a,b\n1,2,3\n4,5,6,7\n"])
def test_a_file_that_is_not_a_predictions_csv(tmp_path, data):
    path = tmp_path / "predictions.csv"
    path.write_bytes(data)
    assert_error(path, f"{path} is not a predictions CSV: ")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"predictions\.csv"):
        predictions.read_predictions(tmp_path / "predictions.csv")


def test_predictions_are_put_in_the_order_of_the_images(tmp_path):
    given, wanted = made(), np.array(["c.png", "a.png", "d.png", "b.png"])
    found = predictions.in_order_of(given, wanted, path=tmp_path, whose="test of data/records")
    assert found.image_ids.tolist() == wanted.tolist()
    np.testing.assert_array_equal(found.probabilities, given.probabilities[[2, 0, 3, 1]])


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("abcde", "p.csv lacks image e.png of test of data/records"),
        ("abcdefghi", "p.csv lacks images e.png, f.png, g.png and 2 more of test of data/records"),
        ("abc", "p.csv has image d.png, which is not in test of data/records"),
        ("ab", "p.csv has images c.png, d.png, which are not in test of data/records"),
        ("abce", "p.csv lacks image e.png of test of data/records"),
    ],
)
def test_missing_and_foreign_images(wanted, text):
    image_ids = np.array([f"{letter}.png" for letter in wanted])
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        predictions.in_order_of(made(), image_ids, path="p.csv", whose="test of data/records")
