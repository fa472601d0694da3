import hashlib

import numpy as np
import pytest

from cxr.images.encode import ENCODINGS, encode
from cxr.records import example
from cxr.records.verify_shard import ShardCheck, check_shard
from cxr.release.entries import ImageRow

ROW = ImageRow("00000012_003.png", 12, (0, 1) + (0,) * 12, age=58.0, sex=0, view_position=1)
HALVES = np.repeat(np.array([[50, 150]], np.uint8), 16, axis=1).repeat(32, axis=0)  # mean 100, stddev 50; JPEG keeps it
PNG, JPEG, RAW = (encode(HALVES, encoding) for encoding in ("png", "jpeg", "raw"))


def image_record(encoded=PNG, encoding="png", *, mean=100, stddev=50):
    return example.pack_image(ROW, encoded, encoding=encoding, mean=mean, stddev=stddev)


def edit(change, record=None):
    """A record whose features were changed by change(features)."""
    message = example.example_class().FromString(record or image_record())
    change(message.features.feature)
    return message.SerializeToString(deterministic=True)


def put(name, kind, *value):
    """A change that sets one feature."""

    def change(feature):
        del getattr(feature[name], kind).value[:]
        getattr(feature[name], kind).value.extend(value)

    return change


def contents_of(folder, contents, *, kind="images", encoding="png", size=32):
    """Write records into a shard and check it against its real size, count and hash."""
    path = folder / "val-00000-of-00001.tfrecord"
    with path.open("wb") as file:
        for content in contents:
            example.write_record(file, content)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return check_shard(ShardCheck(str(path), "val", len(contents), len(data), digest, kind, encoding, size))


@pytest.mark.parametrize(("encoding", "encoded"), [("png", PNG), ("jpeg", JPEG), ("raw", RAW)])
def test_intact_records_give_their_rows(tmp_path, encoding, encoded):
    found = contents_of(tmp_path, [image_record(encoded, encoding)] * 2, encoding=encoding)
    assert (found.split, found.rows, found.faults) == ("val", [ROW, ROW], [])
    assert found.bytes == (tmp_path / found.file).stat().st_size


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (b"\xff\xff\xff", "is not a record of a dataset of images: "),
        (b"", "is not a record of a dataset of images: "),
        (edit(lambda feature: feature.pop("image/id")), "is not a record of a dataset of images: "),
        (edit(lambda feature: feature.pop("image/encoded")), "is not a record of a dataset of images: "),
        (edit(put("image/id", "bytes_list", b"\xff")), "is not a record of a dataset of images: 'utf-8'"),
        (edit(lambda feature: feature.pop("labels")), "(00000012_003.png) has labels (), expected 14 times 0 or 1"),
        (edit(put("labels", "int64_list", *[2] * 14)), "(00000012_003.png) has labels (2, 2"),
        (edit(lambda feature: feature.pop("image/mean")), "(00000012_003.png) has no mean or no stddev"),
        (image_record(RAW, "raw"), "(00000012_003.png) is stored as 'raw', expected 'png'"),
        (image_record(b""), "(00000012_003.png) does not contain a png image"),
        (image_record(JPEG), "(00000012_003.png) does not contain a png image"),
    ],
    ids=[
        *("garbage", "empty", "no id", "no pixels", "id not UTF-8", "no labels", "label 2", "no mean"),
        *("other encoding", "no bytes", "a JPEG"),
    ],
)
def test_an_invalid_record_is_named_and_the_next_one_is_read(tmp_path, record, expected):
    found = contents_of(tmp_path, [image_record(), record, image_record()])
    assert found.faults[0].startswith(f"{found.file} record 1 {expected}")
    assert found.rows[0] == found.rows[-1] == ROW


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"mean": 100.0009}, None),
        ({"mean": 100.002}, "has pixels of mean 100.000, expected the recorded 100.002"),
        ({"stddev": 49.9}, "has pixels of stddev 50.000, expected the recorded 49.900"),
        ({"stddev": float("nan")}, "has pixels of stddev 50.000, expected the recorded nan"),
    ],
    ids=["a rounded mean", "another mean", "another stddev", "NaN"],
)
def test_the_first_image_is_compared_with_its_mean_and_stddev(tmp_path, encoding, recorded, expected):
    record = image_record(encode(HALVES, encoding), encoding, **recorded)
    found = contents_of(tmp_path, [record, record], encoding=encoding)
    assert found.faults == ([f"{found.file} record 0 (00000012_003.png) {expected}"] if expected else [])


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (PNG[:-20], "cannot be decoded: broken image: "),
        (encode(HALVES.repeat(2, axis=1), "png"), "has 64 x 32 pixels, expected 32 x 32"),
    ],
    ids=["cut off", "another size"],
)
def test_the_first_image_must_be_decodable_to_the_size_of_the_dataset(tmp_path, encoded, expected):
    [fault] = contents_of(tmp_path, [image_record(encoded)]).faults
    assert f" record 0 (00000012_003.png) {expected}" in fault


def test_raw_pixels_of_another_size_are_named(tmp_path):
    found = contents_of(tmp_path, [image_record(bytes(1000), "raw")], encoding="raw")
    assert found.faults == [f"{found.file} record 0 (00000012_003.png) has 1,000 pixels, expected 1,024"]


def test_features_of_another_length_are_named(tmp_path):
    vectors = [example.pack_features(ROW, np.zeros(length)) for length in (5, 4)]
    found = contents_of(tmp_path, vectors, kind="features", encoding=None, size=5)
    assert found.faults == [f"{found.file} record 1 (00000012_003.png) has 4 features, expected 5"]
    found = contents_of(tmp_path, [image_record()], kind="features", encoding=None, size=5)
    assert found.faults[0].startswith(f"{found.file} record 0 is not a record of a dataset of features: ")


def test_an_unreadable_or_absent_shard_is_named(tmp_path):
    (tmp_path / "a.tfrecord").mkdir()
    found = check_shard(ShardCheck(str(tmp_path / "a.tfrecord"), "val", 1, 9, "0", "images", "png", 32))
    assert (found.rows, len(found.faults)) == ([], 1)
    assert found.faults[0].startswith("a.tfrecord cannot be read: [Errno 21] Is a directory")
    found = check_shard(ShardCheck(str(tmp_path / "b.tfrecord"), "val", 1, 9, "0", "images", "png", 32))
    assert found.faults == ["b.tfrecord is absent, expected 9 bytes"]
