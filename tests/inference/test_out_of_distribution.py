"""Images unlike those of training are named, and nothing is called for them."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from support.ready import make_experiment, write_distances

import predict
from cxr.evaluation import out_of_distribution
from cxr.evaluation.out_of_distribution import Distances
from cxr.findings import FINDINGS
from cxr.images.appearance import LENGTH
from cxr.patient import UNKNOWN_PATIENT
from inference import out_of_distribution as judging
from inference.pictures import read_picture, without_margins
from inference.predictor import Predictor
from tools.serving import app

SOFT = np.clip(np.random.default_rng(0).normal(120, 40, (40, 48)), 0, 255).astype(np.uint8)
BLANK = np.full((40, 40), 7, np.uint8)


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A blank, a grey, and a coloured image."""
    folder = tmp_path_factory.mktemp("files")
    for name, pixels in {"blank": BLANK, "grey": SOFT, "red": np.dstack([SOFT, SOFT // 4, SOFT // 4])}.items():
        (folder / f"{name}.png").write_bytes(encoded(pixels))
    return folder


@pytest.fixture
def model_dir(built_dataset, tmp_path):
    return make_experiment(tmp_path / "tiny", built_dataset)


def run(model_dir, files):
    """Rows of the CSV, and the JSON, that predict.py writes."""
    for ending in ("csv", "json"):
        predict.main(["--model_dir", str(model_dir), str(files), "--output", str(model_dir / f"p.{ending}")])
    rows = csv.DictReader((model_dir / "p.csv").read_text().splitlines())
    return list(rows), json.loads((model_dir / "p.json").read_text())


def calls(row):
    return {row[f"call_{finding}"] for finding in FINDINGS if finding != "Hernia"}  # without an operating point


def test_a_distance_beyond_the_threshold_or_a_failed_check_is_named_and_not_called(capsys, model_dir, files):
    grey = read_picture((files / "grey.png").read_bytes(), 32, UNKNOWN_PATIENT)
    distance = np.linalg.norm(grey.appearance)  # write_distances: from zero, covariance 1
    rows, written = run(model_dir, files)
    assert [row["out_of_distribution"] for row in rows] == ["1", "0", "1"]  # blank, grey, red: its colour
    assert float(rows[1]["distance"]) == pytest.approx(distance, abs=1e-6)
    assert float(rows[0]["distance"]) == pytest.approx(2 * np.log(1000), abs=1e-3)  # four octaves without texture
    assert [calls(row) for row in (rows[0], rows[2])] == [{""}, {""}]
    assert calls(rows[1]) <= {"0", "1"}
    assert all(rows[0][f"{kind}_Mass"] for kind in ("prob", "calibrated"))
    table = capsys.readouterr().out.splitlines()[2:5]
    assert [line.endswith("  out of distribution") for line in table] == [True, False, True]
    assert written["distance_threshold"] == 1000
    images = written["images"]
    assert [(image["out_of_distribution"], image["distance"]) for image in images] == [
        (int(row["out_of_distribution"]), pytest.approx(float(row["distance"]))) for row in rows
    ]
    assert {finding["call"] for finding in images[2]["findings"].values()} == {None}
    assert images[2]["findings"]["Mass"]["threshold"] == 0.5

    write_distances(model_dir, threshold=distance - 1e-3)
    rows, _ = run(model_dir, files)
    assert (rows[1]["out_of_distribution"], calls(rows[1])) == ("1", {""})
    write_distances(model_dir, threshold=distance + 1e-3)
    assert Predictor(model_dir).predict([grey])[0].judgement.out_of_distribution is False


def test_an_experiment_of_an_earlier_version_predicts_and_names_the_command(capsys, model_dir, files):
    out_of_distribution.path_of(model_dir).unlink()
    rows, written = run(model_dir, files)
    text = (
        "distances are not fitted: an image unlike those of training may go unnoticed. "
        f"Run: python evaluate.py --model_dir {model_dir} --split val"
    )
    assert capsys.readouterr().err.splitlines()[0] == text
    assert [(row["out_of_distribution"], row["distance"]) for row in rows] == [("1", ""), ("", ""), ("1", "")]
    assert calls(rows[1]) <= {"0", "1"}
    assert written["distance_threshold"] is None
    assert [image["out_of_distribution"] for image in written["images"]] == [1, None, 1]
    served = app.Served(
        Predictor(model_dir), "tiny", "best", json.loads((model_dir / "dataset.json").read_text()), "", text
    )
    assert app.describe(served)["distances_advice"] == text
    answer = app.predict_image(served, (files / "grey.png").read_bytes(), UNKNOWN_PATIENT)
    assert (answer["out_of_distribution"], answer["distance"], answer["distance_threshold"]) == (None, None, None)


def test_distances_of_another_dataset_stop_the_prediction(model_dir, files):
    fitted = Distances(np.zeros(LENGTH), np.eye(LENGTH), 1.0)
    out_of_distribution.write(model_dir, fitted, "another")
    with pytest.raises(SystemExit, match="was fitted on another dataset than"):
        predict.main(["--model_dir", str(model_dir), str(files)])


@pytest.mark.parametrize(
    ("pixels", "size", "fails"),
    [
        (SOFT, 32, False),
        (SOFT, 64, False),  # a small image has a warning, but can be a radiograph
        (np.tile(SOFT, (1, 2)), 32, True),  # far from square
        (BLANK, 32, True),
        (np.dstack([SOFT, 255 - SOFT, SOFT]), 32, True),  # colour
    ],
)
def test_the_checks_that_alone_make_an_image_out_of_distribution(pixels, size, fails):
    picture = read_picture(encoded(pixels), size, UNKNOWN_PATIENT)
    assert picture.fails_check is fails
    assert judging.judge(picture, None).out_of_distribution is (True if fails else None)


@pytest.mark.parametrize(("name", "fails"), [("nih_dicom.dcm", False), ("nih_dicom_modality_ct.dcm", True)])
def test_a_dicom_header_of_another_modality_fails_the_check(shared_dir, name, fails):
    pytest.importorskip("pydicom")
    assert read_picture((shared_dir / "odd" / name).read_bytes(), 32, UNKNOWN_PATIENT).fails_check is fails


def test_black_margins_are_not_part_of_the_appearance():
    square = np.zeros((8, 8), np.uint8)
    square[1:7] = 9  # 40 high, 56 wide: 6 of 8 rows
    np.testing.assert_array_equal(without_margins(square, 40, 56), np.full((6, 8), 9))
    np.testing.assert_array_equal(without_margins(square.T, 56, 40), np.full((8, 6), 9))
