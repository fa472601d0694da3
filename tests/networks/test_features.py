import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cxr import storage
from cxr.networks import extraction, features
from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import Dataset, open_dataset
from cxr.records.splits import SPLITS
from input_fn import input_fn

ROOT = Path(__file__).resolve().parents[2]
GAINS = [1.0, 2.0, 1000.0]  # the features of an image are its mean, in [0, 1], times these


class Intensity(tf.Module):
    """A hub module with three features per image; above a mean of `limit` the last feature is `beyond`."""

    def __init__(self, gains: list[float], limit: float, beyond: float) -> None:
        super().__init__()
        self.gains = tf.Variable(gains)
        self.limit, self.beyond = limit, beyond

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)])
    def __call__(self, images):
        mean = tf.reduce_mean(images, [1, 2, 3])[:, None]
        strange = tf.where(mean > self.limit, self.beyond, 0.0) * tf.constant([[0.0, 0.0, 1.0]])
        return tf.where(mean > self.limit, mean * self.gains + strange, mean * self.gains)


def save_module(folder: Path, *, gains: list[float] = GAINS, limit: float = 2.0, beyond: float = 0.0) -> dict:
    """Save an Intensity module; returns it as an extractor of params.json."""
    tf.saved_model.save(Intensity(gains, limit, beyond), str(folder))
    return {"source": "hub", "handle": str(folder), "image_size": 32}


def extract(images: Dataset, spec: dict, **changes) -> Dataset:
    extraction.prepared.entry = None  # as in a new process
    return features.cached_features(images, spec, Params(**changes))


@pytest.fixture
def images(built_dataset, tmp_path) -> Dataset:
    """A copy of the built dataset: 60 images in 6 shards, without features."""
    ignore = shutil.ignore_patterns("features")
    return open_dataset(shutil.copytree(built_dataset, tmp_path / "records", ignore=ignore))


def values_of(dataset: Dataset, split: str, key: str) -> list[bytes | float]:
    """One column of a split's records, in their order."""
    found = []
    for path in dataset.paths(split):
        for record in example.read_records(path):
            value = example.example_class().FromString(record).features.feature[key]
            found += [*value.bytes_list.value, *value.float_list.value]
    return found


def bytes_of(folder: Path) -> dict[str, str]:
    """The hash of every file of a dataset, by name."""
    return {
        str(path.relative_to(folder)): storage.sha256_of(path) for path in Path(folder).rglob("*") if path.is_file()
    }


def written_shards(monkeypatch) -> list[str]:
    """A list that collects the names of the feature shards written after this call."""
    names, write = [], features.write_features

    def note(job, **options):
        names.append(Path(job.path).name)
        return write(job, **options)

    monkeypatch.setattr(features, "write_features", note)
    return names


def test_records_hold_float16_features_in_the_order_of_the_images(images, tmp_path):
    found = extract(images, save_module(tmp_path / "intensity"))
    for split in SPLITS:
        assert values_of(found, split, "image/id") == values_of(images, split, "image/id")
        assert values_of(found, split, "patient/age") == values_of(images, split, "patient/age")
        mean = np.array(values_of(images, split, "image/mean")) / 255  # [n], written by build_dataset
        stored = values_of(found, split, "features")
        assert {len(vector) for vector in stored} == {6}  # bytes of three float16
        vectors = np.array([np.frombuffer(vector, "<f2") for vector in stored], np.float64)
        np.testing.assert_allclose(vectors, mean[:, None] * GAINS, rtol=1e-3)  # float16 has 11 bits
        assert len(stored) == images.num_images(split) > 0


def test_a_feature_cache_is_a_dataset(images, tmp_path):
    spec = save_module(tmp_path / "intensity")
    found = extract(images, spec)
    info = json.loads((found.folder / "dataset.json").read_text())
    assert open_dataset(found.folder).info == info == found.info
    assert (info["kind"], info["dimension"], info["rejected"]) == ("features", 3, 0)
    assert info["images_fingerprint"] == images.info["fingerprint"] != info["fingerprint"]
    assert info["extractor"].items() >= {**spec, "name": "intensity"}.items()
    assert re.fullmatch("[0-9a-f]{64}", info["extractor"]["sha256"])
    assert (info["normalization"], info["precision"]) == ("extractor", "float32")
    for key in ("findings", "image_size", "split", "source", "missing", "format_version"):
        assert info[key] == images.info[key]
    for split in SPLITS:
        ours, theirs = info["splits"][split], images.info["splits"][split]
        assert [ours[k] for k in ("images", "patients", "positives")] == [
            theirs[k] for k in ("images", "patients", "positives")
        ]
        assert [shard["file"] for shard in ours["shards"]] == [shard["file"] for shard in theirs["shards"]]
    assert found.folder.parent == images.folder / "features"
    assert re.fullmatch("intensity-[0-9a-f]{12}", found.folder.name)


def test_input_fn_reads_features(images, tmp_path):
    found = extract(images, save_module(tmp_path / "intensity"))
    batches = list(input_fn("val", {"intensity": found}, Params(batch_size=8), inputs=["intensity"]))
    vectors = np.concatenate([np.asarray(inputs["intensity"]) for inputs, _ in batches])
    mean = np.array(values_of(images, "val", "image/mean")) / 255
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, mean[:, None] * GAINS, rtol=1e-3)


def test_the_second_call_uses_the_cache(images, tmp_path, monkeypatch):
    spec = save_module(tmp_path / "intensity")
    first = extract(images, spec)
    before, names = bytes_of(first.folder), written_shards(monkeypatch)
    again = extract(images, spec)
    assert (again.folder, again.info, names) == (first.folder, first.info, [])
    assert bytes_of(again.folder) == before


def test_everything_that_changes_the_features_has_its_own_folder(images, tmp_path):
    spec = save_module(tmp_path / "one/intensity")
    other = save_module(tmp_path / "two/intensity", gains=[1.0, 2.0, 1001.0])
    stranger = images._replace(info={**images.info, "fingerprint": "of other images"})
    found = [
        extract(images, spec),
        extract(images, other),
        extract(images, spec, precision="bfloat16"),
        extract(images, spec, normalization="per_image"),
        extract(stranger, spec),
    ]
    assert len({dataset.folder for dataset in found}) == 5
    assert len({dataset.info["fingerprint"] for dataset in (found[0], found[1], found[3])}) == 3
    standardised = np.array([np.frombuffer(v, "<f2") for v in values_of(found[3], "val", "features")], np.float64)
    assert np.abs(standardised[:, :2]).max() < 1e-3  # the mean of standardised pixels


def test_a_gpu_has_a_cache_of_its_own(images, tmp_path, monkeypatch):
    spec = save_module(tmp_path / "intensity")
    of_cpu = extract(images, spec)
    monkeypatch.setattr(features.runtime, "device_kind", lambda: "GPU")  # its float32 is rounded in another way
    of_gpu = extract(images, spec)
    assert of_gpu.folder != of_cpu.folder
    assert (of_gpu.info["device"], of_cpu.info.get("device")) == ("GPU", None)


def vectors_of(dataset: Dataset, split: str) -> np.ndarray:
    return np.array([np.frombuffer(vector, "<f2") for vector in values_of(dataset, split, "features")], np.float64)


def test_a_crop_is_the_centre_of_the_records(images, tmp_path):
    spec = save_module(tmp_path / "intensity")
    found = extract(images, spec, crop_size=16)
    assert found.folder != extract(images, spec).folder
    pixels = np.concatenate([inputs["image"] for inputs, _ in input_fn("val", {"image": images}, Params())])
    expected = pixels[:, 8:24, 8:24].mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(vectors_of(found, "val")[:, 0], expected, atol=0.01)
    with pytest.raises(ValueError, match=r"^crop_size 64 is larger than the records, which have 32 pixels per side"):
        extract(images, spec, crop_size=64)


SLOW = """
import json, sys, time
sys.path[:0] = ["tests", "tests/networks"]
from cxr.records import example
pack = example.pack_features
def slow(row, vector):
    time.sleep(0.03)
    return pack(row, vector)
example.pack_features = slow
from cxr.records.dataset import open_dataset
from test_features import extract
extract(open_dataset(sys.argv[1]), json.loads(sys.argv[2]))
"""


def test_a_killed_extraction_resumes_to_the_same_bytes(images, tmp_path, monkeypatch):
    spec = save_module(tmp_path / "intensity")
    undisturbed = extract(images, spec)
    expected = bytes_of(undisturbed.folder)
    shutil.rmtree(images.folder / "features")
    command = [sys.executable, "-c", SLOW, str(images.folder), json.dumps(spec)]
    deadline = time.monotonic() + 60
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not in_the_middle(Path(undisturbed.folder)):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -9
    folder = Path(undisturbed.folder)
    assert not (folder / "dataset.json").exists()
    whole = {path.stem for path in (folder / "manifest").glob("*-of-*.json")}
    assert 0 < len(whole) < 6
    names = written_shards(monkeypatch)
    assert extract(images, spec).info == undisturbed.info
    assert {name.removesuffix(".tfrecord") for name in names} == {
        Path(path).stem for split in SPLITS for path in images.paths(split)
    } - whole
    assert bytes_of(folder) == expected


def in_the_middle(folder: Path) -> bool:
    """Whether one shard is finished and another one is being written."""
    return any(folder.glob("manifest/*-of-*.json")) and any(folder.glob("*.tfrecord*.partial"))


def test_one_process_at_a_time_extracts(images, tmp_path):
    spec = save_module(tmp_path / "intensity")
    folder = extract(images, spec).folder
    (folder / "dataset.json").unlink()
    with (
        storage.exclusive(folder, "extracting features into"),
        pytest.raises(ValueError, match=f"another process is extracting features into {folder}; wait for it"),
    ):
        extract(images, spec)


@pytest.mark.parametrize("beyond", [float("nan"), float("inf"), 1e6])  # the largest float16 is 65,504
def test_the_error_about_nan_or_infinite_features_names_the_image(images, tmp_path, beyond):
    means = {}
    for split in SPLITS:
        means |= zip(values_of(images, split, "image/id"), values_of(images, split, "image/mean"), strict=True)
    second, brightest = sorted(means, key=means.get)[-2:]
    limit = (means[second] + means[brightest]) / 2 / 255
    text = (
        rf"^the features of {brightest.decode()} are NaN or infinite\. The network was fed 32 x 32 pixels, black is 0"
    )
    with pytest.raises(ValueError, match=text):
        extract(images, save_module(tmp_path / "intensity", limit=limit, beyond=beyond))
    assert not list(images.folder.glob("features/*/dataset.json"))


def test_a_network_that_is_fed_a_wrong_range_is_an_error(images):
    tiny = {"source": "keras", "name": "MobileNet", "weights": None, "alpha": 0.25, "image_size": 32}
    text = (
        r"^the features of MobileNet are constant: .* fed 32 x 32 pixels, black is 0, white is 1e-09; correct \"range\""
    )
    with pytest.raises(ValueError, match=text):
        extract(images, tiny | {"range": [0, 1e-9]})


def test_a_cache_of_other_weights_is_rejected(images, tmp_path):
    spec = save_module(tmp_path / "intensity")
    path = extract(images, spec).folder / "manifest/plan.json"
    plan = json.loads(path.read_text())
    other = hashlib.sha256(b"other weights").hexdigest()
    plan["inputs"]["extractor"]["sha256"], plan["digest"] = other, other
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=f"contains another dataset .*extractor sha256 {other}, now .*delete it"):
        extract(images, spec)


def test_a_complete_cache_opens_without_writing_or_locking(images, tmp_path):
    spec = save_module(tmp_path / "intensity")
    first = extract(images, spec)
    with storage.exclusive(first.folder, "extracting features into"):  # another process holds the lock
        before = {path: path.stat().st_mtime_ns for path in Path(first.folder).rglob("*")}
        assert extract(images, spec).info == first.info
    assert {path: path.stat().st_mtime_ns for path in Path(first.folder).rglob("*")} == before


@pytest.mark.parametrize("damage", ["cut off", "absent"])
def test_only_a_damaged_shard_is_written_again(images, tmp_path, monkeypatch, damage):
    spec = save_module(tmp_path / "intensity")
    first = extract(images, spec)
    before = bytes_of(first.folder)
    shard = Path(first.paths("train")[1])
    data = shard.read_bytes()
    if damage == "absent":
        shard.unlink()
    else:
        shard.write_bytes(data[:-100])
    names = written_shards(monkeypatch)
    assert extract(images, spec).info == first.info
    assert names == [shard.name]
    assert bytes_of(first.folder) == before
