"""One image as a `tf.train.Example`, and many of them as a TFRecord file, without TensorFlow.

Importing TensorFlow would cost every worker 5 s and 400 MB. Here protobuf packs the message and google-crc32c computes
the checksums. `parsing` reads the same records with TensorFlow, inside a tf.data pipeline.
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
    """A TFRecord file is cut off or changed; the text names the file."""


class Index(NamedTuple):
    """All columns of the records of a split except the pixels, in dataset order."""

    image_ids: np.ndarray  # str [n]
    patient_ids: np.ndarray  # int64 [n]
    labels: np.ndarray  # int64 [n, 14]
    ages: np.ndarray  # float32 [n] years, NaN unknown
    sexes: np.ndarray  # int64 [n] 0 F, 1 M, -1 unknown
    view_positions: np.ndarray  # int64 [n] 0 PA, 1 AP, -1 unknown
    groups: np.ndarray  # str [n] where images came from, "" unknown
    means: np.ndarray  # float32 [n] grey levels, 0 to 255; NaN for features
    stddevs: np.ndarray  # float32 [n] grey levels; NaN for features


@functools.cache
def example_class() -> type:
    """The protobuf class of `tf.train.Example`, declared here with its published field numbers.

    Source: tensorflow/core/example/{example,feature}.proto. The oneof there does not change the encoding of one field.
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
    """Serialize one image record; equal inputs give equal bytes.

    Args:
        mean, stddev: of the stored pixels (0 to 255); a reader can standardise images without a second pass.
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
    feature["group"].bytes_list.value.append(row.group.encode())
    return example.SerializeToString(deterministic=True)


def unpack_row(record: bytes) -> ImageRow:
    """The row of a record, without its pixels."""
    return row_of(features_of(record))


def features_of(record: bytes):
    """The features of a record by name; `google.protobuf.message.DecodeError` if the bytes are not an Example."""
    return example_class().FromString(record).features.feature


def row_of(feature) -> ImageRow:
    """The row in the features of a record; IndexError if one of them has no value."""
    return ImageRow(
        image_id=feature["image/id"].bytes_list.value[0].decode(),
        patient_id=feature["patient/id"].int64_list.value[0],
        labels=tuple(feature["labels"].int64_list.value),
        age=feature["patient/age"].float_list.value[0],
        sex=feature["patient/sex"].int64_list.value[0],
        view_position=feature["view_position"].int64_list.value[0],
        group=feature["group"].bytes_list.value[0].decode(),
    )


def statistics_of(feature) -> tuple[float, float]:
    """Mean and standard deviation of the stored pixels, from the features of a record; NaN if absent."""
    mean, stddev = (feature[name].float_list.value[0] if name in feature else float("nan") for name in STATISTICS)
    return mean, stddev


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as in tensorflow/core/lib/hash/crc32c.h."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(file: IO[bytes], record: bytes) -> None:
    """Append one record in TFRecord framing: length, its CRC, data, its CRC, all little-endian."""
    length = struct.pack("<Q", len(record))
    for piece in (length, struct.pack("<I", _masked_crc(length)), record, struct.pack("<I", _masked_crc(record))):
        file.write(piece)


def read_records(path: epath.PathLike, digest=None) -> Iterator[bytes]:
    """Yield the records of a TFRecord file and check every CRC. CorruptRecordError names the file and the byte.

    Args:
        digest: a `hashlib` hash, updated with every byte, so that the file need not be read twice.
    """
    path = epath.Path(path)
    left = path.stat().length  # a forged length must not allocate more memory than the file has bytes
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


def read_split_index(paths: list[epath.Path]) -> Index:
    """Read all columns but the pixels from the shards of a split. CorruptRecordError names a damaged shard."""
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
        groups=np.array(columns[6], dtype=str),
        means=np.array(columns[7], np.float32),
        stddevs=np.array(columns[8], np.float32),
    )
