"""One image as a `tf.train.Example`, and many of them as a TFRecord file.

Writing and indexing need no TensorFlow (importing it costs every worker 5 s and 400 MB): protobuf packs the message and
google-crc32c sums it. TensorFlow's own reader is used where it is fast, in `parse_batch`.
"""

import functools
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
from etils import epath

from cxr.findings import FINDINGS
from cxr.release.entries import ImageRow

STATISTICS = ("image/mean", "image/stddev")  # of the stored pixels, 0 to 255


class CorruptRecordError(ValueError):
    """A TFRecord file is cut off or changed; the text names it."""


class Index(NamedTuple):
    """Everything a split's records say, but the pixels; rows in dataset order."""

    image_ids: np.ndarray  # str [n]
    patient_ids: np.ndarray  # int64 [n]
    labels: np.ndarray  # int64 [n, 14]
    ages: np.ndarray  # float32 [n] years, nan unknown
    sexes: np.ndarray  # int64 [n] 0 F, 1 M, -1 unknown
    view_positions: np.ndarray  # int64 [n] 0 PA, 1 AP, -1 unknown
    means: np.ndarray  # float32 [n] grey levels, 0 to 255; nan of features
    stddevs: np.ndarray  # float32 [n] grey levels; nan of features


@functools.cache
def example_class() -> type:
    """The protobuf class of `tf.train.Example`, declared here from its published field numbers.

    Source: tensorflow/core/example/{example,feature}.proto. A oneof changes nothing on the wire for one set field.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="cxr/example.proto", package="cxr", syntax="proto3")

    def message(parent, name: str, *fields: tuple[str, int, int, bool, str]):
        declared = parent.add(name=name)
        for label, number, kind, repeated, type_name in fields:
            cardinality = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            declared.field.add(name=label, number=number, type=kind, label=cardinality, type_name=type_name or None)
        return declared

    message(file.message_type, "BytesList", ("value", 1, field.TYPE_BYTES, True, ""))
    message(file.message_type, "FloatList", ("value", 1, field.TYPE_FLOAT, True, ""))
    message(file.message_type, "Int64List", ("value", 1, field.TYPE_INT64, True, ""))
    kinds = ("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")
    lists = [(name, place, field.TYPE_MESSAGE, False, f".cxr.{kind}") for place, (name, kind) in enumerate(kinds, 1)]
    message(file.message_type, "Feature", *lists)
    features = message(file.message_type, "Features", ("feature", 1, field.TYPE_MESSAGE, True, ".cxr.Features.Entry"))
    entry = [("key", 1, field.TYPE_STRING, False, ""), ("value", 2, field.TYPE_MESSAGE, False, ".cxr.Feature")]
    message(features.nested_type, "Entry", *entry).options.map_entry = True
    message(file.message_type, "Example", ("features", 1, field.TYPE_MESSAGE, False, ".cxr.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("cxr.Example"))


def pack_image(row: ImageRow, encoded: bytes, *, encoding: str, mean: float, stddev: float) -> bytes:
    """Serialize one image record, equal bytes for equal input.

    Args:
        mean, stddev: of the stored pixels (0 to 255), so that a reader can standardise without a second pass.
    """
    return _pack(row, {"image/encoded": encoded, "image/format": encoding.encode()}, {"mean": mean, "stddev": stddev})


def pack_features(row: ImageRow, features: np.ndarray) -> bytes:
    """Serialize one feature record: float16 [D] in place of the image."""
    return _pack(row, {"features": features.astype("<f2").tobytes()}, {})


def _pack(row: ImageRow, payload: dict[str, bytes], statistics: dict[str, float]) -> bytes:
    example = example_class()()
    feature = example.features.feature
    for name, value in payload.items():
        feature[name].bytes_list.value.append(value)
    for name, value in statistics.items():
        feature[f"image/{name}"].float_list.value.append(value)
    feature["image/id"].bytes_list.value.append(row.image_id.encode())
    feature["labels"].int64_list.value.extend(row.labels)
    feature["patient/id"].int64_list.value.append(row.patient_id)
    feature["patient/age"].float_list.value.append(row.age)
    feature["patient/sex"].int64_list.value.append(row.sex)
    feature["view_position"].int64_list.value.append(row.view_position)
    return example.SerializeToString(deterministic=True)


def unpack_row(record: bytes) -> ImageRow:
    """What a record says about its image, without the pixels."""
    return row_of(features_of(record))


def features_of(record: bytes):
    """The features of a record by name; `google.protobuf.message.DecodeError` where the bytes are no Example."""
    return example_class().FromString(record).features.feature


def row_of(feature) -> ImageRow:
    """The row among the features of a record; IndexError where one of them has no value."""
    return ImageRow(
        image_id=feature["image/id"].bytes_list.value[0].decode(),
        patient_id=feature["patient/id"].int64_list.value[0],
        labels=tuple(feature["labels"].int64_list.value),
        age=feature["patient/age"].float_list.value[0],
        sex=feature["patient/sex"].int64_list.value[0],
        view_position=feature["view_position"].int64_list.value[0],
    )


def statistics_of(feature) -> tuple[float, float]:
    """Mean and standard deviation of the stored pixels, among the features of a record; nan where it has none."""
    mean, stddev = (feature[name].float_list.value[0] if name in feature else float("nan") for name in STATISTICS)
    return mean, stddev


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as in tensorflow/core/lib/hash/crc32c.h."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(file: IO[bytes], record: bytes) -> None:
    """Append one record in TFRecord framing: length, its CRC, data, its CRC (little endian)."""
    length = struct.pack("<Q", len(record))
    for piece in (length, struct.pack("<I", _masked_crc(length)), record, struct.pack("<I", _masked_crc(record))):
        file.write(piece)


def read_records(path: epath.PathLike, digest=None) -> Iterator[bytes]:
    """Yield the records of a TFRecord file, every CRC checked. CorruptRecordError names the file and the byte.

    Args:
        digest: a hash of `hashlib`, fed with every byte on the way, so that hashing needs no second reading.
    """
    path = epath.Path(path)
    left = path.stat().length  # a forged length must not make us ask for more memory than the file has bytes
    start = 0
    with path.open("rb") as file:
        while header := file.read(12):
            length = int.from_bytes(header[:8], "little")
            whole = len(header) == 12 and int.from_bytes(header[8:], "little") == _masked_crc(header[:8])
            record, crc = (file.read(length), file.read(4)) if whole and length <= left else (b"", b"")
            if not whole or len(crc) != 4 or int.from_bytes(crc, "little") != _masked_crc(record):
                raise CorruptRecordError(
                    f"{path} is damaged at byte {start:,}: cut off or changed since it was written. "
                    "Run the same build_dataset.py command again: it rewrites only this shard."
                )
            if digest is not None:
                for piece in (header, record, crc):
                    digest.update(piece)
            start += 16 + length
            yield record


def read_index(paths: list[epath.Path]) -> Index:
    """Read everything but the pixels of some shards, in their order; a damaged one raises CorruptRecordError."""
    features = (features_of(record) for path in paths for record in read_records(path))
    rows = [(*row_of(feature), *statistics_of(feature)) for feature in features]
    columns = list(zip(*rows, strict=True)) or [()] * (len(ImageRow._fields) + len(STATISTICS))
    return Index(
        image_ids=np.array(columns[0], dtype=str),
        patient_ids=np.array(columns[1], np.int64),
        labels=np.array(columns[2], np.int64).reshape(-1, len(FINDINGS)),
        ages=np.array(columns[3], np.float32),
        sexes=np.array(columns[4], np.int64),
        view_positions=np.array(columns[5], np.int64),
        means=np.array(columns[6], np.float32),
        stddevs=np.array(columns[7], np.float32),
    )


def without_autotuner(dataset):
    """A tf.data pipeline whose last batch is its end.

    TensorFlow's autotuner looks at a pipeline after 10 ms and then each time at twice the distance, and in TensorFlow
    2.21 the end of a pipeline beside a busy processor can wait for its next look: an epoch of 45 s for the 82nd second.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def parse_batch(serialized, info: dict) -> tuple[dict, object]:
    """Parse a batch of records inside tf.data.

    Args:
        serialized: string tensor [B].
        info: the dataset's dataset.json, which says what lies in the records.

    Returns:
        ({"image": uint8 [B, size, size, 1] or "features": float32 [B, D], "age": float32 [B], "sex": int64 [B],
        "view_position": int64 [B]}, labels float32 [B, 14]).
    """
    import tensorflow as tf

    payload = "features" if info["kind"] == "features" else "image/encoded"
    parsed = tf.io.parse_example(
        serialized,
        {
            payload: tf.io.FixedLenFeature([], tf.string),
            "labels": tf.io.FixedLenFeature([len(FINDINGS)], tf.int64),
            "patient/age": tf.io.FixedLenFeature([], tf.float32),
            "patient/sex": tf.io.FixedLenFeature([], tf.int64),
            "view_position": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    if payload == "features":
        vectors = tf.io.decode_raw(parsed[payload], tf.float16)
        columns = {"features": tf.cast(tf.reshape(vectors, [-1, info["dimension"]]), tf.float32)}
    else:
        columns = {"image": _decode_images(parsed[payload], info["encoding"], info["image_size"])}
    columns |= {"age": parsed["patient/age"], "sex": parsed["patient/sex"], "view_position": parsed["view_position"]}
    return columns, tf.cast(parsed["labels"], tf.float32)


def _decode_images(encoded, encoding: str, size: int):
    """uint8 [B, size, size, 1] of encoded images [B], the pixels that `images.stored_pixels` measured."""
    import tensorflow as tf

    if encoding == "raw":
        return tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [-1, size, size, 1])
    # TensorFlow's default for JPEG is a faster transform, up to 16 grey levels from what Pillow and OpenCV decode.
    exact_jpeg = functools.partial(tf.io.decode_jpeg, dct_method="INTEGER_ACCURATE")
    decode = {"png": tf.io.decode_png, "jpeg": exact_jpeg}[encoding]
    pixels = tf.TensorSpec([size, size, 1], tf.uint8)
    return tf.map_fn(lambda image: decode(image, channels=1), encoded, fn_output_signature=pixels)
