"""Datasets in object stores: TensorFlow's in-memory file system (`ram://`) and an emulated bucket (`gs://`).

Both use the code of a real bucket: etils.epath passes every `scheme://` to TensorFlow's file systems.
"""

import functools
import json
import os
import re
import tarfile
import threading

import numpy as np
import pytest
from etils import epath
from etils.epath import gpath, register
from support.bucket import NAME, Proxy, emulated

import evaluate
import train
from cxr import storage
from cxr.evaluation import metrics
from cxr.params import Params
from cxr.records import dataset, example
from cxr.records.verify import verify
from input_fn import input_fn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FLAGS = ("--shard_size", 4, "--ratios", 0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def ram():
    """Register `ram://` in etils.epath like `gs://`; only tests use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpath, "_URI_PREFIXES", (*gpath._URI_PREFIXES, "ram://"))
        patch.setattr(gpath, "_URI_SCHEMES", gpath._URI_SCHEMES | {"ram"})
        patch.setitem(gpath._URI_MAP_ROOT, "ram://", "/ram/")
        patch.setitem(gpath._PREFIX_TO_BACKEND, "ram", gpath.backend_lib.tf_backend)
        patch.setitem(register._URI_PREFIXES_TO_CLS, "ram://", gpath.PosixGPath)
        yield "ram://" + NAME


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The address of an emulated bucket."""
    with emulated(tmp_path_factory.mktemp("bucket")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield "gs://" + NAME


@pytest.fixture(scope="module", params=["ram", "bucket"])
def cloud(request):
    """The address of an empty store, of each kind in turn."""
    return request.getfixturevalue(request.param)


def pack(release, folder):
    """Copy a release: most images in a tar, one in a folder."""
    images = sorted((release / "images").iterdir())
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "images.tar").open("wb") as file, tarfile.open(fileobj=file, mode="w|") as archive:
        for image in images[1:]:
            archive.add(image, f"images/{image.name}")
    for path in (images[0], *release.glob("*.csv"), *release.glob("*.txt")):
        (folder / path.relative_to(release)).write_bytes(path.read_bytes())


@pytest.fixture(scope="module")
def local(tmp_path_factory, write_release, build):
    """A small dataset in a local folder, next to its release."""
    folder = tmp_path_factory.mktemp("local")
    build(write_release(folder / "release", patients=15, images_each=1), folder / "records", *FLAGS)
    return folder / "records"


@pytest.fixture(scope="module")
def remote(cloud, local, build):
    """A dataset built in a store from the same release, which is next to it."""
    pack(local.parent / "release", epath.Path(cloud) / "release")
    build(f"{cloud}/release", epath.Path(cloud) / "records", *FLAGS)
    return epath.Path(cloud) / "records"


def replace(path, data):
    """Replace the bytes of a file. A `ram://` file that is only opened for writing keeps its old bytes."""
    with storage.whole_file(path) as file:
        file.write(data)


def write_and_raise(path):
    with storage.whole_file(path) as file:
        file.write(b"new")
        raise KeyError


def files_of(folder):
    """Bytes of the files of a dataset, by name."""
    names = ["rejected.csv", *sorted(path.name for path in folder.glob("*.tfrecord"))]
    return {name: (folder / name).read_bytes() for name in names}


def test_a_build_in_a_store_has_the_bytes_of_a_local_build(remote, local):
    assert files_of(remote) == files_of(local)
    here, there = (json.loads((folder / "dataset.json").read_text()) for folder in (local, remote))
    assert here["source"].pop("containers") == ["images"]
    assert there["source"].pop("containers") == ["images", "images.tar"]
    assert here == there
    assert not [path for folder in (remote, remote / "manifest") for path in folder.glob("*.partial")]


def test_a_second_build_rewrites_a_damaged_shard_and_removes_partial_files(remote, build):
    before, names = files_of(remote), sorted(path.name for path in remote.glob("*.tfrecord"))
    replace(remote / names[0], before[names[0]][:-1] + b"?")
    (remote / names[1]).unlink()
    (remote / f"{names[1]}.0badcafe.partial").write_bytes(b"half")
    build(f"{remote.parent}/release", remote, *FLAGS)
    assert files_of(remote) == before
    assert not list(remote.glob("*.partial"))


def test_verify_finds_damage_in_a_store(remote, in_process):
    assert verify(remote, remote.parent / "release").faults == []
    path = sorted(remote.glob("*.tfrecord"))[0]
    intact = path.read_bytes()
    replace(path, intact[:100])
    assert verify(remote).faults[0] == f"{path.name} is damaged at byte 0: cut off or changed since it was written"
    replace(path, intact)


def test_training_and_evaluation_read_the_same_batches_from_a_store(remote, local):
    params = Params(image_size=32, batch_size=2)
    ways = [{"image": dataset.open_dataset(folder)} for folder in (local, remote)]
    for split, epoch in (("train", 0), ("test", None)):
        here, there = (list(input_fn(split, way, params, epoch=epoch)) for way in ways)
        assert len(here) == len(there) > 1
        for (inputs, labels), (same_inputs, same_labels) in zip(here, there, strict=True):
            np.testing.assert_array_equal(inputs["image"], same_inputs["image"])
            np.testing.assert_array_equal(labels, same_labels)
    near, far = (example.read_split_index(way["image"].paths("test")) for way in ways)
    assert near.image_ids.tolist() == far.image_ids.tolist()


@pytest.mark.parametrize("epoch", [0, None], ids=["training", "evaluation"])
def test_shards_are_read_at_the_same_time(bucket, local, monkeypatch, epoch):
    """The first request for a shard is answered only after the first request for another shard."""
    folder, exchange = epath.Path(bucket) / f"parallel_{epoch}", Proxy.exchange
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*local.glob("*.tfrecord"), local / "dataset.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    opened = dataset.open_dataset(folder)
    together, seen = threading.Barrier(2, timeout=20), set()

    def wait_for_another(proxy, client, head):
        name = re.search(rb"train-\d+", head)
        if name and name[0] not in seen:
            seen.add(name[0])
            if len(seen) <= 2:
                together.wait()
        exchange(proxy, client, head)

    monkeypatch.setattr(Proxy, "exchange", wait_for_another)
    list(input_fn("train", {"image": opened}, Params(image_size=32, batch_size=2), epoch=epoch))
    assert len(seen) == len(opened.paths("train")) >= 2
    assert not together.broken


def test_an_error_while_writing_leaves_the_old_file_in_a_store(cloud):
    path = epath.Path(cloud) / "errors" / "a.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(path, "old")
    with pytest.raises(KeyError):
        write_and_raise(path)
    assert [other.name for other in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
    storage.write_text(path, "new")
    assert path.read_text() == "new"


def test_an_absent_dataset_in_a_store_is_one_clear_error(cloud):
    message = rf"{cloud}/nothing is not a built dataset \(no dataset\.json\)\. Run: python build_dataset\.py"
    for read in (dataset.open_dataset, verify):
        with pytest.raises(FileNotFoundError, match=message):
            read(f"{cloud}/nothing")


def test_an_experiment_trains_and_is_scored_on_a_dataset_in_memory(ram, built_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "bootstrap_aurocs", functools.partial(metrics.bootstrap_aurocs, resamples=20))
    folder = epath.Path(ram) / "trained"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*built_dataset.glob("*.tfrecord"), built_dataset / "dataset.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    params = {"image_size": 32, "num_channels": 4, "num_blocks": 1, "num_epochs": 1, "batch_size": 8}
    (tmp_path / "params.json").write_text(json.dumps(params))
    train.main(["--model_dir", str(tmp_path), "--data_dir", str(folder)])
    evaluate.main(["--model_dir", str(tmp_path), "--data_dir", str(folder)])
    scored = json.loads((tmp_path / "metrics_test_best.json").read_text())
    assert scored["dataset_fingerprint"] == dataset.open_dataset(built_dataset).info["fingerprint"]
    assert scored["images"] == 12
