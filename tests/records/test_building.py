import hashlib
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from cxr.findings import FINDINGS
from cxr.records.building import Building, describe_splits, fingerprint, require_same_options
from cxr.records.shards import Rejected, ShardJob, ShardReport
from cxr.release.entries import ImageRow

INPUTS = {
    "image_size": 32,
    "split": {"name": "random", "seed": 230},
    "source": {"containers": ["images"]},
    "missing": 0,
}


def report_of(folder, name, *, data=b"shard", rejected=(), patients=(1,), positives=(0,) * 14, images=1):
    """Write a shard with the given bytes and return its report."""
    (folder / name).write_bytes(data)
    split, digest = name.split("-")[0], hashlib.sha256(data).hexdigest()
    return ShardReport(name, split, images, len(data), digest, list(patients), list(positives), list(rejected))


def job_of(folder, name):
    return ShardJob(str(folder / name), name.split("-")[0], [ImageRow("a.png", 1, (0,) * 14)], [], 32, "png")


NAMES = ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


@pytest.fixture
def building(folder):
    return Building(folder, INPUTS, "digest")


def test_finished_shards_are_kept_and_the_others_wait(folder, building):
    jobs = [job_of(folder, name) for name in NAMES]
    report = report_of(folder, NAMES[0])
    building.keep(report)
    assert Building(folder, INPUTS, "digest").finished(jobs) == ([report], [jobs[1]])


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path, manifest: path.unlink(), id="the shard is gone"),
        pytest.param(lambda path, manifest: path.write_bytes(b"shar"), id="cut off"),
        pytest.param(lambda path, manifest: path.write_bytes(b"sharp"), id="changed, of the same size"),
        pytest.param(lambda path, manifest: manifest.unlink(), id="its report is gone"),
    ],
)
def test_a_damaged_shard_is_written_again_and_the_dataset_is_incomplete_until_then(folder, building, spoil):
    report = report_of(folder, NAMES[0])
    building.keep(report)
    building.finish([report], max_rejected=0)
    spoil(folder / NAMES[0], folder / "manifest" / "train-00000-of-00002.json")
    done, waiting = building.finished([job_of(folder, NAMES[0])])
    assert (done, len(waiting)) == ([], 1)
    assert not (folder / "dataset.json").exists()


@pytest.mark.parametrize(("digest", "again"), [("abc", False), ("fixed", True)])
def test_a_shard_with_a_rejected_image_is_written_again_if_the_image_changed(folder, building, digest, again):
    building.keep(report_of(folder, NAMES[0], rejected=[Rejected("a.png", "broken", "abc")]))
    _, waiting = building.finished([job_of(folder, NAMES[0])], {"a.png": digest}.get)
    assert bool(waiting) == again


def test_options_are_compared_before_the_images_are_known(folder, building):
    require_same_options(folder, {"image_size": 32, "split": {"name": "random"}})
    require_same_options(folder / "new", {"image_size": 64})
    with pytest.raises(
        ValueError, match=r"contains another dataset \(image_size 32, now 64\)\. Choose another --output"
    ):
        require_same_options(folder, {"image_size": 64, "split": {"name": "random"}})


def test_leftovers_of_a_killed_build_are_removed_and_other_files_stay(folder, building):
    for name in ("train-00000-of-00001.tfrecord.partial", "manifest/a.json.partial", "notes.txt"):
        (folder / name).write_bytes(b"half")
    Building(folder, INPUTS, "digest")
    assert sorted(path.name for path in Path(folder).rglob("*")) == ["manifest", "notes.txt", "plan.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 64}, r"contains another dataset \(image_size 32, now 64\)"),
        ({"split": {"name": "official", "seed": 230}}, r"\(split name random, now official\)"),
        ({"image_size": 64, "missing": 3}, r"\(image_size 32, now 64; missing 0, now 3\)"),
        ({}, r"\(other images\)"),
        ({"source": {"containers": ["a.tar"]}}, r"\(other images\)"),  # containers do not change the bytes
    ],
)
def test_a_folder_with_another_dataset_is_rejected_with_the_differences(folder, building, change, message):
    with pytest.raises(ValueError, match=message + r"\. Choose another --output_dir, or delete it"):
        Building(folder, INPUTS | change, "another digest")


def test_other_containers_are_the_same_dataset(folder, building):
    Building(folder, INPUTS | {"source": {"containers": ["a.tar"]}}, "digest")


@pytest.mark.parametrize("name", ["dataset.json", "train-00000-of-00001.tfrecord"])
def test_a_folder_with_records_of_unknown_origin_is_rejected(folder, name):
    (folder / name).write_bytes(b"{}")
    with pytest.raises(
        ValueError, match="contains records of unknown origin; choose another --output_dir or delete it"
    ):
        Building(folder, INPUTS, "digest")


def test_splits_are_summed_over_their_shards_and_a_patient_counts_once(folder):
    mass = (0, 0, 0, 0, 2) + (0,) * 9
    reports = [
        report_of(folder, NAMES[1], data=b"22", patients=[2, 3], positives=mass, images=5),
        report_of(folder, NAMES[0], data=b"1", patients=[1, 2], positives=mass, images=4),
    ]
    splits = describe_splits(reports)
    train, test = splits["train"], splits["test"]
    assert (train["images"], train["patients"]) == (9, 3)
    assert (train["positives"]["Mass"], train["positives"]["Hernia"]) == (4, 0)
    assert [(shard["file"], shard["bytes"]) for shard in train["shards"]] == [(NAMES[0], 1), (NAMES[1], 2)]
    assert test == {"images": 0, "patients": 0, "positives": dict.fromkeys(FINDINGS, 0), "shards": []}


def test_the_fingerprint_is_over_names_and_hashes_in_order():
    shards = [{"file": "a", "sha256": "1"}, {"file": "b", "sha256": "2"}]
    splits = {"train": {"shards": shards}, "val": {"shards": []}, "test": {"shards": []}}
    assert fingerprint(splits) == hashlib.sha256(b"a 1\nb 2\n").hexdigest()
    assert fingerprint(splits | {"train": {"shards": shards[::-1]}}) != fingerprint(splits)


def test_rejected_images_are_all_in_the_csv(folder, building):
    rejected = [Rejected("b.png", 'said "no", twice'), Rejected("a.png", "broken")]
    info = building.finish([report_of(folder, NAMES[0], images=8, rejected=rejected)], max_rejected=0.2)
    assert info["rejected"] == 2  # of 10: exactly the tolerated share
    expected = 'image_id,reason\na.png,broken\nb.png,"said ""no"", twice"\n'
    assert (folder / "rejected.csv").read_text() == expected


def test_too_many_rejected_images_are_an_error_after_everything_else_is_done(folder, building):
    report = report_of(folder, NAMES[0], images=8, rejected=[Rejected("b.png", "y"), Rejected("a.png", "broken")])
    message = (
        r"2 of 10 images could not be read, over --max_rejected 0\.19; first: a\.png: broken\. All are in .*rejected"
    )
    with pytest.raises(ValueError, match=message):
        building.finish([report], max_rejected=0.19)
    assert (folder / "rejected.csv").exists()
    assert not (folder / "dataset.json").exists()


def test_replaced_images_are_built_again(tiny_release, tmp_path, build):
    release = tiny_release(patients=10)
    first = build(release, tmp_path / "records", "--shard_size", 7)
    for path in release.rglob("*.png"):
        Image.fromarray(np.fliplr(np.asarray(Image.open(path)))).save(path)
    again = build(release, tmp_path / "records", "--shard_size", 7)
    assert again["fingerprint"] == build(release, tmp_path / "fresh", "--shard_size", 7)["fingerprint"]
    assert again["fingerprint"] != first["fingerprint"]
