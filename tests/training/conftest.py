"""Experiments that several files of tests compare, trained once."""

import shutil
from pathlib import Path

import pytest
from support.identity import train_head
from support.runs import make_average, make_experiment, run_train
from support.tiny import TINY, register_tiny, save_tiny


@pytest.fixture(scope="session")
def world(built_dataset, tmp_path_factory) -> Path:
    """records/, weights and five experiments: a CNN, heads in float32, bfloat16 and int8, a head over the CNN."""
    folder = tmp_path_factory.mktemp("world")
    data_dir = shutil.copytree(built_dataset, folder / "records", ignore=shutil.ignore_patterns("features"))
    run_train(make_experiment(folder / "cnn"), data_dir)
    spec = save_tiny(folder / "tiny.weights.h5")
    train_head(folder / "float32", data_dir, spec)
    train_head(folder / "bfloat16", data_dir, spec, precision="bfloat16")
    train_head(folder / "int8", data_dir, spec, precision="int8")
    train_head(folder / "over", data_dir, {"source": "experiment", "model_dir": str(folder / "cnn")})
    return folder


@pytest.fixture(scope="session")
def pair(world, tmp_path_factory) -> Path:
    """The average of a CNN and a head, both in float32."""
    folder = tmp_path_factory.mktemp("pair") / "pair"
    return run_train(make_average(folder, world / "cnn", world / "float32"), world / "records")


@pytest.fixture
def copied(world, tmp_path):
    """copied(name): a copy of an experiment that a test may change."""
    return lambda name: Path(shutil.copytree(world / name, tmp_path / name))


@pytest.fixture(scope="module")
def tiny_network() -> dict:
    """An extractor of params.json over keras.applications.Tiny."""
    register_tiny()
    return TINY
