"""The report of a dataset: its text and pictures. test_browser.py tests it in a browser."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cxr.findings import FINDINGS, NO_FINDING
from cxr.records.dataset import open_dataset
from cxr.records.example import Index
from tools import report
from tools.reporting import dataset_figures, dataset_page, pictures


def index_of(labels: np.ndarray, patients: list[int], **known) -> Index:
    number = len(labels)
    unknown = np.full(number, -1)
    nan = np.full(number, np.nan, np.float32)
    columns = {"ages": nan, "sexes": unknown, "view_positions": unknown, "means": nan, "stddevs": nan}
    columns |= {"groups": np.full(number, "")} | known
    return Index(np.arange(number).astype(str), np.array(patients), labels, **columns)


def labels_of(*rows: str) -> np.ndarray:
    """Rows of finding names joined by "|"; "" is none."""
    return np.array([[int(name in row.split("|")) for name in FINDINGS] for row in rows])


@pytest.fixture
def copy(built_dataset, tmp_path):
    return shutil.copytree(built_dataset, tmp_path / "records")


def page_of(data_dir) -> str:
    report.main(["--data_dir", str(data_dir)])
    return (data_dir / "report.html").read_text()


def test_the_facts_of_a_split_by_hand():
    labels = labels_of("Mass|Hernia", "Mass", "", "")
    known = {"ages": np.array([20, 30, 40, np.nan], np.float32), "sexes": np.array([0, 1, 1, -1])}
    assert dataset_page.split_facts(index_of(labels, [1, 1, 1, 2], **known)) == {
        "images": "4",
        "patients": "2",
        "images per patient, mean (most)": "2.00 (3)",
        "no finding": "50.0 %",
        "two or more findings": "25.0 %",
        "age, median (quartiles)": "30 (25 to 35)",
        "age unknown": "1",
        "female": "33.3 %",
        "sex unknown": "1",
        "view position AP": "—",
        "view position unknown": "4",
    }
    assert dataset_page.split_facts(index_of(labels, [1, 1, 1, 2]))["age, median (quartiles)"] == "—"


def test_co_occurrence_by_hand():
    rows = dataset_page.co_occurrence(labels_of("Mass|Nodule", "Mass", "Mass|Edema", "Nodule", ""))
    cells = {(row["name"], FINDINGS[place]): cell for row in rows for place, cell in enumerate(row["cells"])}
    assert cells["Mass", "Mass"] == (3, 1.0)
    assert cells["Mass", "Nodule"] == (1, pytest.approx(1 / 3))  # of the three with Mass
    assert cells["Nodule", "Mass"] == (1, 0.5)  # of the two with Nodule
    assert cells["Nodule", "Edema"] == (0, 0.0)
    assert cells["Hernia", "Mass"] == (0, 0.0)


def test_blank_images_are_those_below_one_grey_level():
    labels, patients = labels_of("", "", "", ""), [1, 2, 3, 4]
    train = index_of(labels, patients, means=np.array([9, 80, 7, 6.0]), stddevs=np.array([0.5, 1, 0.999, 0]))
    val = index_of(labels, patients, means=np.full(4, 3.0), stddevs=np.array([50, 0.25, 50, 50.0]))
    found = dataset_page.blank_images({"train": train, "val": val, "test": index_of(labels, patients)})
    assert [tuple(image.values()) for image in found] == [
        ("3", "train", 6, 0),
        ("0", "train", 9, 0.5),
        ("2", "train", 7, 0.999),
        ("1", "val", 3, 0.25),
    ]


def test_grey_values_are_drawn_by_view_position_and_not_for_features():
    labels = labels_of("", "", "")
    positions = np.array([0, 1, 1])
    index = index_of(
        labels, [1, 2, 3], view_positions=positions, means=np.array([90, 120, 130.0]), stddevs=np.array([50, 60, 0.0])
    )
    drawn = dataset_figures.grey_levels(index)
    assert [drawing.title for drawing in drawn] == ["Mean grey value by view position", "Contrast by view position"]
    svg = base64.b64decode(drawn[0].uri.split(",")[1]).decode()
    assert "PA (1)" in svg
    assert "AP (2)" in svg
    assert "unknown" not in svg
    assert dataset_figures.grey_levels(index_of(labels, [1, 2, 3])) == []


def test_the_page_names_blank_images(tiny_release, build, tmp_path):
    release = tiny_release(patients=5)
    for path in sorted(release.glob("images/*.png"))[:11]:
        Image.fromarray(np.full((48, 48), 200, np.uint8)).save(path)
    build(release, tmp_path / "records", "--ratios", 1, 0, 0, "--split", "random")
    text = page_of(tmp_path / "records")
    assert "11 images are blank" in text
    assert "<td>train</td><td>200.0</td><td>0.00</td>" in text
    assert "The first 10 of 11." in text


def test_the_page_has_the_counts_of_dataset_json(copy):
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page_of(copy)))
    splits = open_dataset(copy).info["splits"]
    for key in ("images", "patients"):
        assert f" {key} " + " ".join(f"{split[key]}" for split in splits.values()) in text
    for name in FINDINGS:
        counts = [(split["positives"][name], split["images"]) for split in splits.values()]
        row = " ".join(f"{count} ({100 * count / images:.1f} %)" for count, images in counts)
        assert f" {name.replace('_', ' ')} {row} " in text


def test_examples_are_of_the_finding_and_of_different_patients(built_dataset):
    dataset = open_dataset(built_dataset)
    found = dataset_page.examples(dataset)
    assert list(found) == [NO_FINDING, *FINDINGS]
    assert len(found[NO_FINDING]) == dataset_page.EXAMPLES
    for name, examples in found.items():
        assert len({example.image_id.split("_")[0] for example in examples}) == len(examples) > 0
        assert all(name in example.labels.split(", ") for example in examples)
        assert all(example.uri.startswith("data:image/jpeg;base64,") for example in examples)


def test_what_was_left_out_is_listed_and_cannot_become_markup(copy):
    rows = [f"{row}.png,<script>" for row in range(101)]
    (copy / "rejected.csv").write_text("\n".join(["image_id,reason", *rows]) + "\n")
    info = json.loads((copy / "dataset.json").read_text()) | {"missing": 1234, "rejected": 101, "patients_sampled": 20}
    (copy / "dataset.json").write_text(json.dumps(info))
    text = page_of(copy)
    assert "No image is blank" in text
    assert "1,234 images of the CSV were missing, 0 were not on a list,\n101 were unreadable." in text
    assert "The dataset is a random sample of 20 patients." in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 100
    assert "The first 100 of 101; all are in rejected.csv." in text
    (copy / "rejected.csv").unlink()
    assert "The dataset has no rejected.csv" in page_of(copy)


def test_a_dataset_of_features_or_without_images(copy):
    info = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(info | {"kind": "features"}))
    assert "This dataset holds features, so there are no images to show." in page_of(copy)
    empty = {split: values | {"shards": [], "images": 0} for split, values in info["splits"].items()}
    (copy / "dataset.json").write_text(json.dumps(info | {"splits": empty}))
    assert "No split has an image." in page_of(copy)


@pytest.mark.parametrize("encoding", ["png", "jpeg", "raw"])
def test_an_image_is_shown_whatever_its_encoding(tiny_release, build, tmp_path, encoding):
    build(tiny_release(patients=3), tmp_path / "records", "--encoding", encoding, "--ratios", 1, 0, 0)
    dataset = open_dataset(tmp_path / "records")
    found = pictures.pictures_of(dataset, "test", {"00000003_000.png", "nowhere.png"})
    assert list(found) == ["00000003_000.png"]
    assert found["00000003_000.png"].startswith("data:image/jpeg;base64,/9j/")


def test_large_pictures_shrink_and_keep_their_colours():
    red = np.zeros((400, 800, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    image = Image.open(io.BytesIO(base64.b64decode(pictures.picture_uri(red).split(",")[1])))
    assert image.size == (192, 96)
    np.testing.assert_allclose(image.getpixel((50, 50)), (255, 0, 0), atol=3)


def test_a_folder_that_is_not_a_dataset(tmp_path):
    with pytest.raises(SystemExit) as caught:
        report.main(["--data_dir", str(tmp_path)])
    assert str(caught.value) == (
        f"error: {tmp_path} is not a built dataset (no dataset.json). "
        f"Run: python build_dataset.py --data_dir RELEASE --output_dir {tmp_path}"
    )
