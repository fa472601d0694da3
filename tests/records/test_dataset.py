import hashlib
import json
from pathlib import Path

import pytest
from etils import epath

from cxr.findings import FINDINGS
from cxr.records.building import Building
from cxr.records.dataset import open_dataset
from cxr.records.shards import ShardReport

SHARD = "train-00000-of-00002.tfrecord"


@pytest.fixture
def finished(tmp_path) -> Path:
    """A complete dataset of one shard, of the five bytes "shard"."""
    header = {"kind": "images", "split": {}, "source": {}, "missing": 0, "image_size": 32}
    building = Building(epath.Path(tmp_path), header, "digest")
    (tmp_path / SHARD).write_bytes(b"shard")
    report = ShardReport(SHARD, "train", 1, 5, hashlib.sha256(b"shard").hexdigest(), [1], [0] * 14, [])
    building.finish([report], max_rejected=0)
    return tmp_path


def test_dataset_json_has_all_promised_keys(built_dataset):
    folder, info = open_dataset(built_dataset)
    assert str(folder) == str(built_dataset)
    assert info == json.loads((built_dataset / "dataset.json").read_text())
    promised = "format_version kind findings image_size encoding split source missing rejected groups splits"
    assert {*promised.split(), "fingerprint"} <= set(info)
    assert (info["kind"], info["findings"], info["image_size"]) == ("images", list(FINDINGS), 32)
    assert set(info["split"]) == {"name", "seed", "ratios"}
    assert info["source"]["csv"] == "Data_Entry_2017.csv"
    assert set(info["splits"]["train"]) == {"images", "patients", "positives", "shards"}


def change_info(**changes):
    def change(folder):
        info = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(info | changes))

    return change


def remove_keys(*keys):
    def change(folder):
        info = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({k: v for k, v in info.items() if k not in keys}))

    return change


def overwrite(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            remove("dataset.json"), r"not a built dataset \(no dataset\.json\)\. Run: python build_", id="none"
        ),
        pytest.param(overwrite("dataset.json", b"{"), r"dataset\.json is not valid JSON", id="half"),
        pytest.param(
            change_info(format_version=0), r"dataset\.json has format 0, this code reads 2\. Delete", id="old"
        ),
        pytest.param(
            change_info(findings=["Hernia"]), r"dataset\.json has the findings Hernia; this code", id="findings"
        ),
        pytest.param(
            remove_keys("kind", "missing"), r"dataset\.json has no kind, missing\. Delete .* again", id="incomplete"
        ),
        pytest.param(remove(SHARD), r"shard .*train-00000-of-00002\.tfrecord is absent, expected 5", id="shard gone"),
        pytest.param(overwrite(SHARD, b"sh"), r"shard .*tfrecord has 2 bytes, expected 5\. Run the same", id="cut off"),
    ],
)
def test_an_incomplete_dataset_is_rejected(finished, spoil, message):
    spoil(finished)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_dataset(finished)


def test_shards_are_in_dataset_order_with_their_folder(built_dataset):
    expected = [str(built_dataset / f"train-{number:05d}-of-00003.tfrecord") for number in range(3)]
    assert open_dataset(str(built_dataset)).paths("train") == expected


def test_the_number_of_images_of_a_split(built_dataset):
    images = open_dataset(built_dataset)
    assert [images.num_images(split) for split in ("train", "val", "test")] == [33, 15, 12]
