import hashlib
import math
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.records.example import (
    CorruptRecordError,
    _masked_crc,
    pack_features,
    pack_image,
    read_records,
    read_split_index,
    unpack_row,
    write_record,
)
from cxr.records.parsing import parse_batch
from cxr.release.entries import ImageRow

LABELS = (0, 1, 0, 0, 1) + (0,) * 9
ROW = ImageRow("00000012_003.png", 12, LABELS, age=58.5, sex=0, view_position=1, group="St. Märy")
UNKNOWN = ImageRow("00000013_000.png", 13, (0,) * 14)


@pytest.fixture(scope="module")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


def write_file(path, contents):
    with path.open("wb") as file:
        for content in contents:
            write_record(file, content)
    return path


def pack(row=ROW, encoded=b"\x00pixels\xff"):
    return pack_image(row, encoded, encoding="png", mean=1.5, stddev=0.25)


def tensorflow_example(tf, row, encoded):
    """The same record from TensorFlow's own classes, with the features in another order."""
    feature, ints, floats, texts = tf.train.Feature, tf.train.Int64List, tf.train.FloatList, tf.train.BytesList
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "view_position": feature(int64_list=ints(value=[row.view_position])),
                "group": feature(bytes_list=texts(value=[row.group.encode()])),
                "patient/sex": feature(int64_list=ints(value=[row.sex])),
                "patient/id": feature(int64_list=ints(value=[row.patient_id])),
                "patient/age": feature(float_list=floats(value=[row.age])),
                "labels": feature(int64_list=ints(value=row.labels)),
                "image/stddev": feature(float_list=floats(value=[0.25])),
                "image/mean": feature(float_list=floats(value=[1.5])),
                "image/id": feature(bytes_list=texts(value=[row.image_id.encode()])),
                "image/format": feature(bytes_list=texts(value=[b"png"])),
                "image/encoded": feature(bytes_list=texts(value=[encoded])),
            }
        )
    )


@pytest.mark.parametrize("row", [ROW, UNKNOWN], ids=["all known", "age, sex and view position unknown"])
def test_a_record_has_the_bytes_of_tensorflows_own_example(tf, row):
    expected = tensorflow_example(tf, row, b"\x00pixels\xff").SerializeToString(deterministic=True)
    assert pack(row) == expected


def test_tensorflow_reads_every_feature_of_a_record(tf):
    feature = tf.train.Example.FromString(pack()).features.feature
    assert sorted(feature) == [
        *("group", "image/encoded", "image/format", "image/id", "image/mean", "image/stddev"),
        *("labels", "patient/age", "patient/id", "patient/sex", "view_position"),
    ]
    assert feature["image/encoded"].bytes_list.value == [b"\x00pixels\xff"]
    assert list(feature["labels"].int64_list.value) == list(LABELS)
    assert feature["patient/age"].float_list.value == [58.5]
    assert (feature["image/mean"].float_list.value, feature["image/stddev"].float_list.value) == ([1.5], [0.25])


def test_parse_example_reads_what_pack_image_wrote(tf, tmp_path):
    path = write_file(tmp_path / "a.tfrecord", [pack(), pack(UNKNOWN)])
    spec = {
        "image/id": tf.io.FixedLenFeature([], tf.string),
        "labels": tf.io.FixedLenFeature([14], tf.int64),
        "patient/id": tf.io.FixedLenFeature([], tf.int64),
        "patient/age": tf.io.FixedLenFeature([], tf.float32),
    }
    (batch,) = tf.data.TFRecordDataset(str(path)).batch(2)
    parsed = {name: value.numpy() for name, value in tf.io.parse_example(batch, spec).items()}
    assert parsed["image/id"].tolist() == [b"00000012_003.png", b"00000013_000.png"]
    assert parsed["patient/id"].tolist() == [12, 13]
    np.testing.assert_array_equal(parsed["patient/age"], np.float32([58.5, math.nan]))
    np.testing.assert_array_equal(parsed["labels"], [LABELS, (0,) * 14])


def test_a_file_has_the_bytes_that_tensorflows_writer_makes(tf, tmp_path):
    contents = [b"", b"a", bytes(range(256)) * 300, pack()]  # checksums cover lengths and data
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for content in contents:
            writer.write(content)
    assert write_file(tmp_path / "ours", contents).read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_framing_is_the_published_one(tmp_path):
    data = write_file(tmp_path / "a", [b"123456789"]).read_bytes()
    assert len(data) == 8 + 4 + 9 + 4
    assert data[:8] == b"\x09" + bytes(7)
    crc = 0xE3069283  # CRC-32C of "123456789", the check value of RFC 3720
    assert int.from_bytes(data[-4:], "little") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_record_does_not_depend_on_when_it_was_packed():
    assert pack() == pack()
    assert pack() != pack(ROW._replace(view_position=0))


@pytest.mark.parametrize(
    "row", [ROW, ROW._replace(labels=(1,) * 14, age=0.0, sex=1, view_position=0), ROW._replace(sex=-1, group="")]
)
def test_a_row_is_read_as_it_was_written(row):
    assert unpack_row(pack(row)) == row


@given(st.lists(st.binary(max_size=200), max_size=6))
@settings(max_examples=50, deadline=None)
def test_records_are_read_as_they_were_written(tmp_path_factory, contents):
    path = write_file(tmp_path_factory.mktemp("records") / "a.tfrecord", contents)
    assert list(read_records(path)) == contents


@pytest.fixture
def three(tmp_path):
    """Three records of 5, 0 and 3 bytes: they start at 0, 21 and 37, and the file has 56 bytes."""
    return write_file(tmp_path / "val-00000-of-00001.tfrecord", [b"hello", b"", b"end"])


def test_a_file_cut_off_inside_a_record_is_named_with_the_position(three):
    data = three.read_bytes()
    assert len(data) == 56
    for size in set(range(56)) - {0, 21, 37}:
        three.write_bytes(data[:size])
        start = max(begin for begin in (0, 21, 37) if begin < size)
        with pytest.raises(
            CorruptRecordError, match=rf"val-00000-of-00001\.tfrecord is damaged at byte {start}: cut off"
        ):
            list(read_records(three))


def test_a_file_cut_off_between_records_has_fewer_records(three):
    data = three.read_bytes()
    three.write_bytes(data[:37])  # open_dataset notices it by the size in dataset.json
    assert list(read_records(three)) == [b"hello", b""]


def test_any_flipped_bit_is_detected(three):
    data = three.read_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        three.write_bytes(damaged)
        with pytest.raises(CorruptRecordError, match=r"val-00000-of-00001\.tfrecord is damaged .*build_dataset\.py"):
            list(read_records(three))


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_in_an_image_record_is_detected(tmp_path_factory, place, bit):
    path = write_file(tmp_path_factory.mktemp("records") / "a.tfrecord", [pack(), pack(UNKNOWN)])
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(CorruptRecordError, match=r"a\.tfrecord is damaged"):
        read_split_index([path])


def test_a_digest_is_updated_with_the_whole_file(three):
    digest = hashlib.sha256()
    assert list(read_records(three, digest)) == [b"hello", b"", b"end"]
    assert digest.hexdigest() == hashlib.sha256(three.read_bytes()).hexdigest()


def test_a_forged_length_with_a_valid_checksum_allocates_no_memory(three):
    length = struct.pack("<Q", 1 << 62)
    three.write_bytes(length + struct.pack("<I", _masked_crc(length)) + b"hello")
    with pytest.raises(CorruptRecordError, match=r"is damaged at byte 0: cut off"):
        list(read_records(three))


def test_an_index_has_the_rows_of_all_shards_in_their_order(tmp_path):
    first = write_file(tmp_path / "1", [pack(), pack(UNKNOWN)])
    second = write_file(tmp_path / "2", [pack(ROW._replace(image_id="00000020_000.png", patient_id=20, age=0.5))])
    index = read_split_index([second, first])
    assert index.image_ids.tolist() == ["00000020_000.png", "00000012_003.png", "00000013_000.png"]
    assert index.patient_ids.tolist() == [20, 12, 13]
    np.testing.assert_array_equal(index.labels, [LABELS, LABELS, (0,) * 14])
    np.testing.assert_array_equal(index.ages, np.float32([0.5, 58.5, math.nan]))
    assert (index.sexes.tolist(), index.view_positions.tolist()) == ([0, 0, -1], [1, 1, -1])
    assert index.groups.tolist() == ["St. Märy", "St. Märy", ""]


def test_an_index_of_nothing_has_no_rows():
    index = read_split_index([])
    assert index.labels.shape == (0, 14)
    assert index.image_ids.shape == index.ages.shape == index.groups.shape == (0,)


def test_features_are_read_as_the_nearest_float16(tf):
    vector = np.array([0.1, -2.0, 70_000 / 2], np.float32)
    record = pack_features(ROW, vector)
    assert unpack_row(record) == ROW
    assert pack_features(ROW, vector) == record
    columns, labels = parse_batch(tf.constant([record, record]), {"kind": "features", "dimension": 3})
    assert set(columns) == {"features", "age", "sex", "view_position"}
    assert columns["features"].dtype == tf.float32
    np.testing.assert_array_equal(columns["features"], [vector.astype(np.float16)] * 2)
    np.testing.assert_array_equal(labels, [LABELS] * 2)
