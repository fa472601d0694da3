"""Every kind of damage to a dataset gives a fault, and an intact dataset has none."""

import json
import re
import shutil

import numpy as np
import pytest

from cxr import storage
from cxr.engines.engine import Engine
from cxr.records import building, dataset, example, shards
from cxr.records.verify import verify

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def dataset_copy(built_dataset, tmp_path):
    """A copy of a dataset that a test may change; it was built from `release`."""
    return shutil.copytree(built_dataset, tmp_path / "records")


@pytest.fixture
def release(built_dataset):
    """The release of the dataset."""
    return built_dataset.parent / "release"


def info_of(folder):
    return json.loads((folder / "dataset.json").read_text())


def seal(folder, change=lambda info: None):
    """Update sizes and hashes in dataset.json after a change, so that only the records reveal the change."""
    info = info_of(folder)
    for split in info["splits"].values():
        for shard in split["shards"]:
            data = (folder / shard["file"]).read_bytes()
            shard["bytes"], shard["sha256"] = len(data), storage.sha256_of(folder / shard["file"])
    info["fingerprint"] = building.fingerprint(info["splits"])
    change(info)
    (folder / "dataset.json").write_text(json.dumps(info))


def rewrite(path, change):
    """Replace the records of a shard by change(records), with valid framing."""
    contents = change(list(example.read_records(path)))
    with path.open("wb") as file:
        for content in contents:
            example.write_record(file, content)


def edit(record, change):
    """A record whose features were changed by change(features)."""
    message = example.example_class().FromString(record)
    change(message.features.feature)
    return message.SerializeToString(deterministic=True)


def edit_first(folder, change, split="train"):
    """Change the first record of a split and update dataset.json; returns (file name, image id)."""
    path = sorted(folder.glob(f"{split}-*.tfrecord"))[0]
    image_id = example.unpack_row(next(example.read_records(path))).image_id
    rewrite(path, lambda contents: [edit(contents[0], change), *contents[1:]])
    seal(folder)
    return path.name, image_id


def set_value(name, kind, value):
    """A change that sets one feature."""

    def change(feature):
        del getattr(feature[name], kind).value[:]
        getattr(feature[name], kind).value.extend(value)

    return change


def test_an_intact_dataset_has_no_faults_with_and_without_its_release(dataset_copy, release):
    reported = []
    sizes = [path.stat().st_size for path in dataset_copy.glob("*.tfrecord")]
    assert verify(dataset_copy, release, on_shard=reported.append) == (60, sum(sizes), [])
    verified = verify(str(dataset_copy))
    assert sorted(reported) == sorted(sizes)
    verified.require_no_faults(dataset_copy)


def test_worker_processes_find_what_this_process_finds(dataset_copy, release, monkeypatch):
    path = sorted(dataset_copy.glob("*.tfrecord"))[1]
    path.write_bytes(path.read_bytes()[:-1])
    here = verify(dataset_copy, release)
    monkeypatch.undo()
    assert verify(dataset_copy, release, engine=Engine(workers=2)) == here
    assert here.faults[0].startswith(f"{path.name} is damaged at byte ")


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_other_encodings_have_no_faults(tiny_release, tmp_path, build, encoding):
    release = tiny_release(patients=5)
    build(release, tmp_path / "records", "--encoding", encoding)
    assert verify(tmp_path / "records", release).faults == []


def test_a_missing_and_a_rejected_image_are_accounted_for(tiny_release, tmp_path, build):
    release = tiny_release(patients=5, form="2020")
    (release / "images" / "00000002_001.png").unlink()
    (release / "images" / "00000003_001.png").write_bytes(b"<html>")
    build(release, tmp_path / "records", "--allow_missing", "--max_rejected", 0.1)
    assert verify(tmp_path / "records", release).faults == []
    (tmp_path / "records" / "rejected.csv").write_text("image_id,reason\n")
    assert verify(tmp_path / "records").faults == ["rejected.csv has 0 images, expected 1"]
    (tmp_path / "records" / "rejected.csv").write_text("image_id,reason\n00000001_000.png,why\n")
    assert verify(tmp_path / "records").faults == ["rejected.csv has image 00000001_000.png, which has a record"]


def test_a_sample_of_patients_has_no_faults(tiny_release, tmp_path, build):
    release = tiny_release(patients=12)
    build(release, tmp_path / "records", "--patients", 6, "--split", "random")
    assert verify(tmp_path / "records", release).faults == []


def test_absent_truncated_and_changed_shards_are_named_and_the_others_are_read(dataset_copy):
    paths = sorted(dataset_copy.glob("*.tfrecord"))
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-5])
    changed = bytearray(paths[2].read_bytes())
    changed[40] ^= 1
    paths[2].write_bytes(changed)
    faults = verify(dataset_copy).faults
    size = next(s["bytes"] for s in info_of(dataset_copy)["splits"]["test"]["shards"])
    assert faults[0] == f"{paths[0].name} is absent, expected {size:,} bytes"
    assert re.fullmatch(
        rf"{paths[1].name} is damaged at byte [\d,]+: cut off or changed since it was written", faults[1]
    )
    assert faults[2] == f"{paths[2].name} is damaged at byte 0: cut off or changed since it was written"
    assert len(paths) > 3
    assert not [fault for fault in faults[3:] if "tfrecord" in fault]


def test_a_shard_cut_between_records_is_found_by_its_size_count_and_hash(dataset_copy):
    path = sorted(dataset_copy.glob("train-*.tfrecord"))[0]
    whole = path.stat().st_size
    rewrite(path, lambda contents: contents[:-1])
    shard = info_of(dataset_copy)["splits"]["train"]["shards"][0]
    faults = verify(dataset_copy).faults
    assert faults[0] == f"{path.name} has bytes {path.stat().st_size}, expected {whole}"
    assert faults[1] == f"{path.name} has images {shard['images'] - 1}, expected {shard['images']}"
    assert faults[2].startswith(f"{path.name} has sha256 ")
    assert faults[2].endswith(f", expected {shard['sha256']}")


def test_replaced_records_are_found_by_their_hash(dataset_copy):
    rewrite(sorted(dataset_copy.glob("train-*.tfrecord"))[0], lambda contents: contents[::-1])
    (fault,) = verify(dataset_copy).faults
    assert fault.startswith("train-00000-of-00003.tfrecord has sha256 ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_value("patient/age", "float_list", [7]), ", image {image}: age 7.0, but "),
        (set_value("patient/age", "float_list", [np.nan]), ", image {image}: age nan, but "),
        (set_value("patient/sex", "int64_list", [-1]), ", image {image}: sex -1, but "),
        (set_value("view_position", "int64_list", [-1]), ", image {image}: view_position -1, but "),
        (set_value("patient/id", "int64_list", [99]), ", image {image}: patient_id 99, but "),
        (
            set_value("labels", "int64_list", [1] * 14),
            ", image {image}: labels (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), but ",
        ),
        (set_value("image/id", "bytes_list", [b"x.png"]), " has image x.png, which is not in Data_Entry_2017.csv"),
    ],
    ids=["age", "unknown age", "sex", "view_position", "patient", "labels", "image id"],
)
def test_a_record_that_differs_from_the_csv_is_named(dataset_copy, release, change, expected):
    name, image_id = edit_first(dataset_copy, change)
    faults = verify(dataset_copy, release).faults
    assert [fault for fault in faults if fault.startswith(f"{name}{expected.format(image=image_id)}")]
    assert len(faults) <= 16  # this one, and the wrong positives or patients that result from it


def test_a_duplicate_image_and_a_patient_in_two_splits_are_named(dataset_copy, release):
    train, test = (sorted(dataset_copy.glob(f"{split}-*.tfrecord"))[0] for split in ("train", "test"))
    stolen = next(example.read_records(train))
    row = example.unpack_row(stolen)
    rewrite(test, lambda contents: [*contents, stolen])
    seal(dataset_copy)
    faults = verify(dataset_copy, release).faults
    assert f"{train.name} has image {row.image_id}, which is also in {test.name}" in faults
    assert f"{train.name} has patient {row.patient_id}, who is also in test" in faults
    assert f"{test.name} has image {row.image_id}, which belongs to train" in faults
    listed = info_of(dataset_copy)["splits"]["test"]["images"]
    assert f"dataset.json says test has images {listed}, its records have {listed + 1}" in faults


def test_an_image_in_the_wrong_split_is_named(dataset_copy, release):
    def swap(info):
        info["split"]["seed"] += 1  # so other patients are expected in val

    seal(dataset_copy, swap)
    assert verify(dataset_copy).faults == []
    assert re.fullmatch(
        r"(train|val)-\S+ has image \S+, which belongs to (train|val)", verify(dataset_copy, release).faults[0]
    )


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("splits", "val", "images"), 1000, "dataset.json says val has images 1,000, its records have "),
        (("splits", "val", "patients"), 0, "dataset.json says val has patients 0, its records have "),
        (("splits", "train", "positives", "Hernia"), 7, "dataset.json says train has Hernia 7, its records have "),
        (("fingerprint",), "0" * 64, f"dataset.json has fingerprint {'0' * 64}, the hashes of its shards give "),
    ],
)
def test_a_wrong_number_in_dataset_json_is_named(dataset_copy, keys, value, expected):
    def change(info):
        for key in keys[:-1]:
            info = info[key]
        info[keys[-1]] = value

    seal(dataset_copy, change)
    (fault,) = verify(dataset_copy).faults
    assert fault.startswith(expected)


def test_an_unlisted_shard_is_named(dataset_copy):
    shutil.copy(sorted(dataset_copy.glob("train-*.tfrecord"))[0], dataset_copy / "train-00099-of-00100.tfrecord")
    assert verify(dataset_copy).faults == ["train-00099-of-00100.tfrecord is in the folder but not in dataset.json"]


def test_another_csv_and_unaccounted_images_are_named(dataset_copy, release, tmp_path):
    other = shutil.copytree(release, tmp_path / "release")
    for name in ("Data_Entry_2017.csv", "train_val_list.txt"):
        more = {
            "D": "00000001_009.png,No Finding,009,00000001,021Y,M,PA,2682,2749,0.143,0.143\n",
            "t": "00000001_009.png\n",
        }
        (other / name).write_text((other / name).read_text() + more[name[0]])
    first, second = verify(dataset_copy, other).faults
    assert first.startswith("the dataset was built from Data_Entry_2017.csv with sha256 ")
    assert second == (
        "dataset.json accounts for 60 images (60 in records, 0 missing, 0 rejected), Data_Entry_2017.csv lists 61"
    )


def write_features(folder, image_dataset, dimension):
    """Write a dataset of zero features for the images, in the layout of `cxr.networks.features`."""
    info, reports = dataset.open_dataset(image_dataset).info, []
    shared = {key: info[key] for key in ("image_size", "split", "source", "missing", "unlisted")}
    state = building.Building(folder, {"kind": "features", "dimension": dimension, **shared}, "digest")
    for split in info["splits"]:
        for shard in info["splits"][split]["shards"]:
            rows = [example.unpack_row(record) for record in example.read_records(image_dataset / shard["file"])]
            with (folder / shard["file"]).open("wb") as file:
                for row in rows:
                    example.write_record(file, example.pack_features(row, np.zeros(dimension)))
            reports.append(shards.report(str(folder / shard["file"]), split, rows, []))
    state.finish(reports, max_rejected=0)


def test_features_are_verified_too(dataset_copy, release):
    folder = dataset_copy / "features" / "network"
    write_features(folder, dataset_copy, 5)
    assert verify(folder, release).faults == []
    name, image_id = edit_first(folder, set_value("features", "bytes_list", [bytes(8)]))
    assert verify(folder, release).faults == [f"{name} record 0 ({image_id}) has 4 features, expected 5"]


def test_faults_are_one_error_with_the_first_and_the_next_step(dataset_copy):
    path = sorted(dataset_copy.glob("*.tfrecord"))[0]
    path.unlink()
    verified = verify(dataset_copy)
    count = len(verified.faults)
    message = rf"{dataset_copy}: {count} faults, first: {path.name} is absent, .* Run the same build_dataset\.py"
    with pytest.raises(ValueError, match=message):
        verified.require_no_faults(dataset_copy)


def test_an_unfinished_dataset_is_rejected(dataset_copy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a built dataset \(no dataset\.json\)\. Run: python build"):
        verify(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*; expected an NIH release"):
        verify(dataset_copy, tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(format_version=9), r"dataset\.json has format 9, this code reads 2"),
        (lambda info: info.update(findings=["Cold"]), r"dataset\.json has the findings Cold; this code works with"),
        (lambda info: info.pop("splits"), r"dataset\.json has no splits\. Delete .* and run build_dataset\.py again"),
    ],
)
def test_another_dataset_json_is_rejected(dataset_copy, change, message):
    info = info_of(dataset_copy)
    change(info)
    (dataset_copy / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=message):
        verify(dataset_copy)
