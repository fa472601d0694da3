import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from cxr.findings import FINDINGS
from cxr.records import example
from cxr.records.shards import Rejected, ShardJob, ShardReport, plan_digest, plan_shards, write_shard
from cxr.release.entries import ImageRow
from cxr.release.locations import Location

HALVES = np.repeat(np.uint8([10, 30]), 16 * 32).reshape(32, 32)  # half 10, half 30: mean 20, standard deviation 10
OPTIONS = {"seed": 230, "shard_size": 4, "image_size": 32, "encoding": "png"}


def rows_of(count):
    return [ImageRow(f"{number:08d}_000.png", number, (number % 2, *(0,) * 13)) for number in range(count)]


def plan(rows, **options):
    splits = {"train": rows[:-3], "val": rows[-3:], "test": []}
    locations = {row.image_id: Location(f"images/{row.image_id}") for row in rows}
    return plan_shards(splits, locations, epath.Path("out"), **(OPTIONS | options))


def test_shard_sizes_differ_by_at_most_one():
    jobs = plan(rows_of(13))
    assert [(Path(job.path).name, len(job.rows)) for job in jobs] == [
        ("train-00000-of-00003.tfrecord", 3),  # 10 images in shards of at most 4
        ("train-00001-of-00003.tfrecord", 3),
        ("train-00002-of-00003.tfrecord", 4),
        ("val-00000-of-00001.tfrecord", 3),  # no shard for the empty test split
    ]
    for job in jobs:
        assert [location.path for location in job.locations] == [f"images/{row.image_id}" for row in job.rows]


@pytest.mark.parametrize(("size", "shards"), [(1, 10), (5, 2), (9, 2), (10, 1), (1000, 1)])
def test_no_shard_is_larger_than_the_limit(size, shards):
    train = [job for job in plan(rows_of(13), shard_size=size) if job.split == "train"]
    assert len(train) == shards
    assert max(len(job.rows) for job in train) <= size


def test_the_order_inside_a_split_depends_on_the_seed_alone():
    rows = rows_of(63)

    def order(jobs):
        return [row.image_id for job in jobs if job.split == "train" for row in job.rows]

    first = order(plan(rows))
    assert first == order(plan(rows[:60][::-1] + rows[60:]))  # not on the order of the CSV
    assert first == order(plan(rows, shard_size=7))  # nor on the size of shards
    assert first != order(plan(rows, seed=231))
    assert first != sorted(first)


def test_the_digest_covers_everything_that_determines_the_bytes():
    rows = rows_of(13)
    digest = plan_digest(plan(rows))
    assert digest == plan_digest(plan(rows))
    moved = [ShardJob(f"else/{Path(j.path).name}", j.split, j.rows, [], j.image_size, j.encoding) for j in plan(rows)]
    assert digest == plan_digest(moved)  # other folders, other containers
    others = [{"seed": 231}, {"shard_size": 5}, {"image_size": 64}, {"encoding": "raw"}]
    digests = {plan_digest(plan(rows, **other)) for other in others} | {plan_digest(plan(rows[:-1]))}
    relabelled = [rows[0]._replace(labels=(1,) * 14), *rows[1:]]
    grouped = [rows[0]._replace(group="A"), *rows[1:]]
    assert len(digests | {digest, plan_digest(plan(relabelled)), plan_digest(plan(grouped))}) == 8


@pytest.fixture
def write(tmp_path):
    """write({name: bytes}, encoding): (report, path) of a shard of these files."""

    def run(files, *, encoding="png"):
        rows = [ImageRow(name, 7, (1, *(0,) * 13), age=58, sex=0, view_position=0) for name in files]
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        places = [Location(str(tmp_path / name)) for name in files]
        path = tmp_path / "train-00000-of-00001.tfrecord"
        return write_shard(ShardJob(str(path), "train", rows, places, 32, encoding)), path

    return run


def png_of(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def features_of(path):
    return [example.example_class().FromString(record).features.feature for record in example.read_records(path)]


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_a_record_has_the_mean_and_standard_deviation_of_its_pixels(write, encoding):
    _, path = write({"a.png": png_of(HALVES)}, encoding=encoding)
    (feature,) = features_of(path)
    assert feature["image/mean"].float_list.value[0] == 20
    assert feature["image/stddev"].float_list.value[0] == 10
    assert feature["image/format"].bytes_list.value[0] == encoding.encode()


def test_a_jpeg_record_has_the_mean_and_stddev_of_the_decoded_pixels(write):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    _, path = write({"a.png": png_of(noise)}, encoding="jpeg")
    (feature,) = features_of(path)
    seen = np.asarray(Image.open(io.BytesIO(feature["image/encoded"].bytes_list.value[0])))
    assert (seen != noise).any()
    assert feature["image/mean"].float_list.value[0] == pytest.approx(seen.mean(), rel=1e-6)
    assert feature["image/stddev"].float_list.value[0] == pytest.approx(seen.std(), rel=1e-6)


def test_a_report_describes_its_shard_and_lists_bad_images(write):
    files = {"a.png": png_of(HALVES), "b.png": b"<html>", "c.png": png_of(HALVES[:16, :16]), "d.png": png_of(HALVES)}
    report, path = write(files)
    data = path.read_bytes()
    assert report == ShardReport(
        file=path.name,
        split="train",
        images=2,
        bytes=len(data),
        sha256=sha256(data),
        patient_ids=[7],
        positives=[2] + [0] * (len(FINDINGS) - 1),
        rejected=[
            Rejected(
                "b.png", "not a PNG, JPEG, WebP or DICOM image (6 bytes, starting '<html>')", sha256(files["b.png"])
            ),
            Rejected("c.png", "16 x 16 pixels, under 32 a side", sha256(files["c.png"])),
        ],
    )
    assert [feature["image/id"].bytes_list.value[0] for feature in features_of(path)] == [b"a.png", b"d.png"]


def test_a_shard_of_only_bad_images_is_empty(write):
    report, path = write({"a.png": b"x"})
    assert (report.images, report.bytes, report.patient_ids, report.positives) == (0, 0, [], [0] * 14)
    assert path.read_bytes() == b""


def test_a_removed_image_ends_the_shard_and_leaves_no_file(tmp_path):
    job = ShardJob(str(tmp_path / "a.tfrecord"), "train", rows_of(1), [Location(str(tmp_path / "gone.png"))], 32, "png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        write_shard(job)
    assert list(tmp_path.iterdir()) == []
