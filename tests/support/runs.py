"""Small training runs and the files they write, for the tests of training."""

import contextlib
import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import train
from cxr import experiment
from cxr.records import example

EPOCHS = 3
SMALL = {"image_size": 32, "num_channels": 4, "num_blocks": 1, "batch_size": 8}
SMALL |= {"num_epochs": EPOCHS, "early_stopping_patience": EPOCHS, "dropout": 0.2}  # dropout has a random state


def make_experiment(model_dir: Path, params: dict = SMALL, **changes) -> Path:
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / "params.json").write_text(json.dumps(params | changes))
    return model_dir


def make_average(folder: Path, *members: Path) -> Path:
    return make_experiment(folder, {"model": "average", "members": [str(member) for member in members]})


def run_train(model_dir: Path, data_dir: Path, *flags: str) -> Path:
    train.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir), *flags])
    return model_dir


@contextlib.contextmanager
def interrupted_at(*saves: int, is_saved: bool = False) -> Iterator[None]:
    """Ctrl-C at the given times that a run saves its state, counted from 1: before it saves, or after if is_saved."""
    save_state, seen = experiment.save_state, []

    def interrupt(*arguments) -> None:
        seen.append(arguments)
        if len(seen) not in saves or is_saved:
            save_state(*arguments)
        if len(seen) in saves:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "save_state", interrupt)
        yield


def read_history(model_dir: Path) -> list[dict]:
    """Rows of history.csv as text, without the columns that depend on the machine."""
    with (model_dir / "history.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)
        ]


def read_weights(model_dir: Path, checkpoint: str) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(experiment.weights_path(model_dir, checkpoint)) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def read_state(model_dir: Path) -> dict[str, np.ndarray]:
    with np.load(model_dir / "resume/state.npz") as state:
        return {name: state[name] for name in state.files if name != "progress"}


def assert_same_run(model_dir: Path, expected: Path) -> None:
    """Both runs have identical history, weights, optimizer state, random state and metrics."""
    assert read_history(model_dir) == read_history(expected)
    np.testing.assert_equal(read_state(model_dir), read_state(expected))
    for name in experiment.CHECKPOINTS:
        np.testing.assert_equal(read_weights(model_dir, name), read_weights(expected, name))
    for name in ("metrics_val_best.json", "metrics_val_last.json"):
        found, wanted = (json.loads((folder / name).read_text()) for folder in (model_dir, expected))
        # The code may have been edited between the runs; the weights are compared above.
        assert found == wanted | {key: found[key] for key in ("git_sha", "weights_sha256")}


def change_records(source: Path, target: Path, split: str, change) -> Path:
    """A copy of a dataset whose `split` holds the records that change({split: records}) returns, in one shard."""
    shutil.copytree(source, target)
    info = json.loads((target / "dataset.json").read_text())
    paths = {name: [source / shard["file"] for shard in part["shards"]] for name, part in info["splits"].items()}
    changed = change({name: [r for path in paths[name] for r in example.read_records(path)] for name in paths})
    path = target / f"{split}-changed.tfrecord"
    with path.open("wb") as file:
        for record in changed:
            example.write_record(file, record)
    shard = {"file": path.name, "images": len(changed), "bytes": path.stat().st_size, "sha256": "changed"}
    info["splits"][split] |= {"images": len(changed), "shards": [shard] if changed else []}
    info["fingerprint"] = "changed"
    (target / "dataset.json").write_text(json.dumps(info))
    return target
