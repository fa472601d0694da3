"""Real images: the 128 px release of 10,367 images, 84 original files of NIH, and unusual files."""

import csv
import json
import tarfile

import numpy as np
import pytest

import build_dataset
from cxr.images.decode import decode_grey
from cxr.records import dataset, example


def build_with(data_dir, output_dir, *flags):
    build_dataset.main([str(flag) for flag in ["--data_dir", data_dir, "--output_dir", output_dir, *flags]])
    return dataset.open_dataset(output_dir).info


@pytest.fixture(scope="module")
def nih128(shared_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nih128")
    build_with(shared_dir / "nih-128", folder, "--allow_missing", "--image_size", 128, "--workers", 2)
    return folder


def test_the_counts_of_the_release(nih128):
    info = dataset.open_dataset(nih128).info
    assert {split: members["images"] for split, members in info["splits"].items()} == {
        "train": 8991,
        "val": 1376,
        "test": 0,
    }
    assert sum(members["patients"] for members in info["splits"].values()) == 3828
    assert (info["missing"], info["rejected"], info["unlisted"]) == (112_120 - 10_367, 0, 0)
    assert (info["split"]["name"], info["source"]["csv"]) == ("official", "Data_Entry_2017_v2020.csv")
    assert info["source"]["containers"] == ["images-128.tar"]


def test_the_bytes_do_not_depend_on_workers_or_a_second_run(shared_dir, nih128, tmp_path):
    flags = ["--allow_missing", "--image_size", 128, "--workers", 3]
    info = build_with(shared_dir / "nih-128", tmp_path, *flags)
    assert info == json.loads((nih128 / "dataset.json").read_text())
    assert info["fingerprint"] == dataset.open_dataset(nih128).info["fingerprint"]


def test_no_patient_is_in_two_splits_and_the_index_agrees_with_the_counts(nih128):
    opened = dataset.open_dataset(nih128)
    index = {split: example.read_split_index(opened.paths(split)) for split in ("train", "val", "test")}
    assert not set(index["train"].patient_ids) & set(index["val"].patient_ids)
    assert len(set(index["train"].image_ids) | set(index["val"].image_ids)) == 10_367
    for split, found in index.items():
        assert found.labels.sum(axis=0).tolist() == list(opened.info["splits"][split]["positives"].values())


def test_pixels_of_the_right_size_are_stored_unchanged(shared_dir, nih128):
    path = next(nih128.glob("val-00000-*.tfrecord"))
    feature = example.example_class().FromString(next(example.read_records(path))).features.feature
    image_id = feature["image/id"].bytes_list.value[0].decode()
    with tarfile.open(shared_dir / "nih-128" / "images-128.tar") as archive:
        member = next(member for member in archive if member.name.endswith(image_id))
        original = decode_grey(archive.extractfile(member).read())
    np.testing.assert_array_equal(decode_grey(feature["image/encoded"].bytes_list.value[0]), original)
    assert feature["image/mean"].float_list.value[0] == pytest.approx(original.mean(), rel=1e-6)


@pytest.fixture(scope="module")
def nih1024(shared_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nih1024")
    build_with(shared_dir / "nih-1024", folder, "--allow_missing", "--image_size", 64, "--workers", 2)
    return folder


def test_original_files_are_split_by_the_lists(shared_dir, nih1024):
    info, release = dataset.open_dataset(nih1024).info, shared_dir / "nih-1024"
    here = {path.name for path in (release / "images").iterdir()}
    listed = set((release / "test_list.txt").read_text().split())
    assert len(here) == 84
    assert info["splits"]["test"]["images"] == len(here & listed) >= 20  # all images with boxes are in the test list
    assert sum(members["images"] for members in info["splits"].values()) == 84
    assert (info["missing"], info["rejected"], info["source"]["csv"]) == (112_036, 0, "Data_Entry_2017.csv")


def test_a_row_of_the_2017_csv_is_stored_in_the_records(nih1024):
    opened = dataset.open_dataset(nih1024)
    index = example.read_split_index([path for split in opened.info["splits"] for path in opened.paths(split)])
    row = index.image_ids.tolist().index("00000001_000.png")  # ...,Cardiomegaly,000,00000001,058Y,M,PA,...
    assert (index.patient_ids[row], index.ages[row], index.sexes[row], index.view_positions[row]) == (
        1,
        58,
        1,
        0,
    )
    assert index.labels[row].tolist() == [0, 1] + [0] * 12


ODD = {  # file of ../shared/odd: the reason of its rejection, or None
    "html_page.dcm": "not a PNG, JPEG, WebP or DICOM image (9,047 bytes, starting '<!DOCTYPE HTML>')",
    "jpeg_compressed.dcm": None,
    "jpeg_named_png.png": None,
    "lfs_pointer.png": "not a PNG, JPEG, WebP or DICOM image (131 bytes, starting 'version https://git-lfs",
    "nih_dicom.dcm": None,
    "nih_dicom_modality_ct.dcm": None,
    "one_byte.png": "not a PNG, JPEG, WebP or DICOM image (1 bytes)",
    "rgb_1036x885.jpg": None,
    "rgba_280x276.png": None,
    "rgba_png_named_jpg.jpg": None,
    "two_by_two.png": "2 x 2 pixels, under 32 a side",
    "webp_named_png.png": None,
}


def test_every_odd_file_is_accepted_or_rejected_with_its_reason(shared_dir, tiny_release, tmp_path, build):
    files = sorted((shared_dir / "odd").iterdir())
    assert [file.name for file in files] == list(ODD)
    release = tiny_release(patients=len(files), images_each=1, lists=False)
    images = sorted((release / "images").iterdir())
    for image, file in zip(images, files, strict=True):
        image.write_bytes(file.read_bytes())
    info = build(release, tmp_path / "records", "--max_rejected", 0.6)
    with (tmp_path / "records" / "rejected.csv").open(newline="") as file:
        reasons = {row["image_id"]: row["reason"] for row in csv.DictReader(file)}
    expected = {image.name: reason for image, reason in zip(images, ODD.values(), strict=True) if reason}
    assert set(reasons) == set(expected)
    for image_id, reason in reasons.items():
        assert reason.startswith(expected[image_id])
        assert "\\x" not in reason  # bytes that are not text are not shown
    assert (info["rejected"], sum(split["images"] for split in info["splits"].values())) == (4, 8)
