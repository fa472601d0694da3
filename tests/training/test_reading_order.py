"""Reading ahead does not change the order of the records."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath

import input_fn
from cxr.findings import FINDINGS
from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import Dataset
from cxr.release.entries import ImageRow

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parents[2]
SIZES = (40, 1, 33, 16, 17, 64, 5, 90, 32, 48, 2, 70)  # images of each shard: more shards than are open at once
PARAMS = Params(batch_size=8)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Dataset:
    """A dataset of features whose shards differ in length; the image id holds patient and position."""
    folder, shards = tmp_path_factory.mktemp("uneven"), []
    for number, size in enumerate(SIZES):
        path = folder / f"train-{number:05d}.tfrecord"
        with path.open("wb") as file:
            for place in range(size):
                row = ImageRow(f"{number:08d}_{place:03d}.png", number, (0,) * len(FINDINGS), 50.0, 0, 0)
                example.write_record(file, example.pack_features(row, np.zeros(1)))
        shards.append({"file": path.name, "images": size, "bytes": path.stat().st_size})
    info = {"kind": "features", "dimension": 1, "splits": {"train": {"images": sum(SIZES), "shards": shards}}}
    return Dataset(epath.Path(folder), json.loads(json.dumps(info)))


def ids(batches) -> list[str]:
    """Image ids of batches of serialized records, in order."""
    return [example.unpack_row(record).image_id for (batch,) in batches.as_numpy_iterator() for record in batch]


def taken_in_turn(shards: list[list[str]]) -> list[str]:
    """Sixteen records of each of eight open shards in turn; the next shard replaces one that has ended."""
    waiting, found, turn = list(shards), [], 0
    places = [list(waiting.pop(0)) for _ in range(min(input_fn.OPEN_SHARDS, len(waiting)))]
    while any(places) or waiting:
        taken = 0
        while taken < 16 and places[turn]:
            found.append(places[turn].pop(0))
            taken += 1
        if taken < 16:
            places[turn] = list(waiting.pop(0)) if waiting else []
        turn = (turn + 1) % len(places)
    return found


def test_evaluation_reads_shard_after_shard(uneven):
    expected = [f"{number:08d}_{place:03d}.png" for number, size in enumerate(SIZES) for place in range(size)]
    assert ids(input_fn.serialized_batches("train", {"a": uneven}, PARAMS, None)) == expected


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_training_reads_sixteen_of_each_open_shard_in_turn(uneven, monkeypatch, epoch):
    import tensorflow as tf

    monkeypatch.setattr(input_fn, "SHUFFLE_BUFFER", 1)  # a buffer of one does not shuffle
    found = ids(input_fn.serialized_batches("train", {"a": uneven}, PARAMS, epoch))
    seed = (PARAMS.seed << 16) + epoch
    numbers = tf.data.Dataset.range(len(SIZES)).shuffle(len(SIZES), seed=seed, reshuffle_each_iteration=False)
    order = list(numbers.as_numpy_iterator())
    shards = [[f"{number:08d}_{place:03d}.png" for place in range(SIZES[number])] for number in order]
    expected = taken_in_turn(shards)
    assert len(expected) == sum(SIZES) == 418
    assert found == expected[:416]  # 52 batches of eight


def test_the_read_size_of_buckets_is_set_before_tensorflow_loads():
    code = "import os, sys, input_fn; print(os.environ['GCS_READ_CACHE_BLOCK_SIZE_MB'], 'tensorflow' in sys.modules)"
    clean = {name: value for name, value in os.environ.items() if name != "GCS_READ_CACHE_BLOCK_SIZE_MB"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False"]
