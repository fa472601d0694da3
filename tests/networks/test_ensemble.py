import csv
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import evaluate
import train
from cxr import experiment
from cxr.findings import FINDINGS
from cxr.networks.assembly import load_extractor, load_extractors, trained_features, trained_model, with_extractors
from cxr.networks.features import feature_datasets
from cxr.params import load_params, parse_params
from cxr.records.dataset import Dataset, open_dataset
from input_fn import input_fn
from model_fn import model_fn

pytestmark = pytest.mark.usefixtures("few_resamples")

SMALL = {"batch_size": 8, "num_epochs": 2, "learning_rate": 0.03, "early_stopping_patience": 99}
SMALL_CNN = {"image_size": 32, "num_channels": 4, "num_blocks": 2}
SMALL_HEAD = {"hidden_units": [6, 5]}
APART = {"num_epochs": 5, "batch_size": 2, "learning_rate": 0.06}  # predictions of different images then differ


class Bands(tf.Module):
    """A hub module whose features are the means of `count` horizontal bands of an image."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.pool = tf.Variable(np.repeat(np.eye(count, dtype=np.float32), 32 // count, axis=0) * count / 32)

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)])
    def __call__(self, images):
        return tf.reduce_mean(images, [2, 3]) @ self.pool


def save_bands(folder: Path, count: int) -> dict:
    """A Bands module as an extractor of params.json."""
    tf.saved_model.save(Bands(count), str(folder))
    return {"source": "hub", "handle": str(folder), "image_size": 32}


def run_train(model_dir: Path, data_dir: Path, *flags: str, **params) -> Path:
    model_dir.mkdir(parents=True, exist_ok=True)
    sizes = SMALL_HEAD if "model" in params else SMALL_CNN
    sizes = sizes | ({"transition_units": 7} if params.get("model") == "ensemble" else {})
    (model_dir / "params.json").write_text(json.dumps(SMALL | sizes | params))
    train.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir), *flags])
    return model_dir


@pytest.fixture(scope="module")
def world(built_dataset, tmp_path_factory) -> Path:
    """records/, two hub modules and three experiments: cnn, ensemble (a module and cnn) and over (over ensemble)."""
    folder = tmp_path_factory.mktemp("world")
    data_dir = shutil.copytree(built_dataset, folder / "records", ignore=shutil.ignore_patterns("features"))
    narrow = save_bands(folder / "narrow", 4)
    wide = save_bands(folder / "wide", 8)
    cnn = {"source": "experiment", "model_dir": str(run_train(folder / "cnn", data_dir))}
    run_train(folder / "ensemble", data_dir, model="ensemble", extractors=[narrow, cnn, wide], **APART)
    over = {"source": "experiment", "model_dir": str(folder / "ensemble")}
    run_train(folder / "over", data_dir, model="feature_extractor", extractors=[over], **APART)
    for name in ("ensemble", "over"):
        evaluate.main(["--model_dir", str(folder / name), "--data_dir", str(data_dir), "--split", "test"])
    return folder


def images_of(world: Path) -> Dataset:
    return open_dataset(world / "records")


def written(model_dir: Path, split: str, checkpoint: str = "best") -> np.ndarray:
    """Probabilities float64 [n, 14] of a predictions CSV."""
    with experiment.predictions_path(model_dir, split, checkpoint).open() as file:
        return np.array([[float(row[f"prob_{finding}"]) for finding in FINDINGS] for row in csv.DictReader(file)])


@pytest.mark.parametrize("name", ["ensemble", "over"])
def test_a_run_writes_its_files(world, name):
    expected = "params.json run.json .lock dataset.json patients.json train.log history.csv tensorboard resume "
    expected += "best.weights.h5 last.weights.h5 metrics_val_best.json metrics_val_last.json "
    expected += "predictions_val_best.csv predictions_val_last.csv out_of_distribution.json "
    expected += "metrics_test_best.json predictions_test_best.csv"
    assert {path.name for path in (world / name).iterdir()} == set(expected.split())
    info = experiment.dataset_of(world / name)
    assert (info["kind"], info["fingerprint"]) == ("images", images_of(world).info["fingerprint"])
    result = json.loads((world / name / "metrics_test_best.json").read_text())
    assert (result["images"], result["dataset_fingerprint"]) == (12, info["fingerprint"])


@pytest.mark.parametrize("name", ["ensemble", "over"])
def test_the_assembled_model_agrees_with_the_cached_features(world, name):
    for split, checkpoint in (("val", "best"), ("val", "last"), ("test", "best")):
        model = trained_model(world / name, checkpoint)
        assert list(model.input) == ["image"]
        batches = input_fn(split, {"image": images_of(world)}, load_params(world / name), inputs=["image"])
        logits = model.predict(batches, verbose=0)
        assert (logits.dtype, logits.shape) == (np.float32, written(world / name, split).shape)
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), written(world / name, split, checkpoint), atol=1e-3)
    best, last = (written(world / name, "val", checkpoint) for checkpoint in experiment.CHECKPOINTS)
    assert np.abs(best - last).max() > 0.02  # otherwise the wrong checkpoint would not be seen
    assert np.ptp(written(world / name, "val", "last"), axis=0).max() > 0.05  # otherwise agreement would mean nothing


def test_an_experiment_sees_records_of_another_size_resized_to_those_of_its_training(world):
    spec = {"source": "experiment", "model_dir": str(world / "cnn")}
    params = parse_params({"model": "feature_extractor", "extractors": [spec]}, where="params.json")
    large = load_extractor(spec, name="cnn", params=params, record_size=48, policy="float32")
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    resized = tf.image.resize(tf.cast(images, tf.float32), (32, 32), antialias=True)
    squares = tf.cast(tf.round(resized), tf.uint8)  # as records of 32 px would hold them
    expected = trained_features(world / "cnn")({"image": squares}, training=False)
    assert large.dimension == expected.shape[1]
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(large.model({"image": images}), expected, rtol=1e-3, atol=1e-4)


def test_predictions_follow_the_order_of_records_and_findings(world):
    """Models of images and models of features: same rows, same labels, same columns."""
    tables = [
        [line.split(",") for line in experiment.predictions_path(world / name, "val", "best").read_text().splitlines()]
        for name in ("cnn", "ensemble", "over")
    ]
    assert tables[0][0][16:30] == [f"prob_{finding}" for finding in FINDINGS]
    for table in tables:
        assert [row[:16] for row in table] == [row[:16] for row in tables[0]]  # image, patient, 14 labels


def test_features_are_extracted_once_for_all_experiments(world, monkeypatch):
    names = sorted(path.name.rsplit("-", 1)[0] for path in (world / "records/features").iterdir())
    assert names == ["cnn", "ensemble", "narrow", "wide"]

    def never(job):
        raise AssertionError(f"{job.path} is there")

    monkeypatch.setattr("cxr.networks.features.write_features", never)
    narrow = {"source": "hub", "handle": str(world / "narrow"), "image_size": 32}
    run_train(world / "later", world / "records", model="feature_extractor", extractors=[narrow], seed=1)
    assert (world / "later/metrics_val_best.json").exists()


def test_an_ensemble_projects_its_extractors_to_one_width_and_adds_them(world):
    params, info = load_params(world / "ensemble"), experiment.dataset_of(world / "ensemble")
    head = model_fn(params, info, {"narrow": 4, "cnn": 8})
    assert {name: tensor.shape for name, tensor in head.input.items()} == {"narrow": (None, 4), "cnn": (None, 8)}
    [add] = [layer for layer in head.layers if isinstance(layer, keras.layers.Add)]
    assert [tensor.shape for tensor in add.input] == [(None, 7), (None, 7)]  # transition_units
    dense = [layer for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    assert sorted(tuple(layer.kernel.shape) for layer in dense) == [(4, 7), (5, 14), (6, 5), (7, 6), (8, 7)]
    assert (head.output.dtype, head.output.shape) == ("float32", (None, 14))


def test_an_ensemble_adds_the_outputs_of_its_transition_layers(world):
    params, info = load_params(world / "ensemble"), experiment.dataset_of(world / "ensemble")
    head = model_fn(params, info, {"narrow": 4, "cnn": 8})
    [add] = [layer for layer in head.layers if isinstance(layer, keras.layers.Add)]
    random = np.random.default_rng(0)
    vectors = {name: random.normal(size=(3, width)).astype(np.float32) for name, width in [("narrow", 4), ("cnn", 8)]}
    kernels = {layer.kernel.shape[0]: np.asarray(layer.kernel) for layer in head.layers if hasattr(layer, "kernel")}
    scaled = {name: vector / np.sqrt(1.001) for name, vector in vectors.items()}  # batch norm before any step
    expected = np.maximum(scaled["narrow"] @ kernels[4], 0) + np.maximum(scaled["cnn"] @ kernels[8], 0)
    np.testing.assert_allclose(keras.Model(head.input, add.output)(vectors), expected, atol=1e-5)


def test_a_feature_extractor_has_no_transition(world):
    params, info = load_params(world / "over"), experiment.dataset_of(world / "over")
    head = model_fn(params, info, {"ensemble": 5})
    dense = [layer.kernel.shape for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    assert dense == [(5, 6), (6, 5), (5, 14)]


@pytest.mark.parametrize("name", ["cnn", "ensemble", "over"])
def test_penultimate_features_are_the_input_of_the_logits_layer(world, name):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    whole, penultimate = trained_model(world / name), trained_features(world / name)
    params = load_params(world / name)
    kernel, bias = (whole.get_layer(params.model) if params.extractors else whole).get_layer("logits").get_weights()
    features = np.asarray(penultimate({"image": images}))
    assert features.shape == (4, 8 if name == "cnn" else 5)
    np.testing.assert_allclose(features @ kernel + bias, whole({"image": images}), atol=1e-4)


def test_two_extractors_of_the_same_name(world, tmp_path):
    specs = [save_bands(tmp_path / "a/bands", 4), save_bands(tmp_path / "b/bands", 8)]
    model_dir = run_train(tmp_path / "twins", world / "records", model="ensemble", extractors=specs, num_epochs=1)
    datasets = feature_datasets(load_params(model_dir), images_of(world))
    assert {name: dataset.info["dimension"] for name, dataset in datasets.items()} == {"bands": 4, "bands_2": 8}
    batches = input_fn("val", {"image": images_of(world)}, load_params(model_dir), inputs=["image"])
    logits = trained_model(model_dir).predict(batches, verbose=0)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), written(model_dir, "val"), atol=1e-3)


def test_records_of_another_size_are_resized_for_an_experiment(world):
    params, info = load_params(world / "over"), experiment.dataset_of(world / "over")
    extractors = load_extractors(params, {**info, "image_size": 64})
    widths = {name: extractor.dimension for name, extractor in extractors.items()}
    model = with_extractors(model_fn(params, info, widths), extractors)
    small = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    same = tf.image.resize(tf.cast(large, tf.float32), (32, 32), antialias=True)
    smaller = with_extractors(model.get_layer(params.model), load_extractors(params, info))
    expected = smaller({"image": np.round(same).astype(np.uint8)})
    np.testing.assert_allclose(model({"image": large}), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (
            {"model": "feature_extractor", "extractors": [{}, {}]},
            "model 'feature_extractor' takes one extractor, not 2",
        ),
        ({"model": "ensemble", "extractors": [{}]}, "model 'ensemble' takes two extractors or more, not 1"),
        ({"fine_tune": {}}, "fine_tune needs extractors; 'simple_cnn' trains all of its layers anyway"),
        (
            {"model": "feature_extractor", "extractors": [{"source": "experiment", "model_dir": "never/trained"}]},
            "never/trained has not been trained. Run: python train.py",
        ),
        (
            {"model": "feature_extractor", "extractors": [{"source": "keras", "name": "ResNet50V3"}]},
            "has no network 'ResNet50V3'. Did you mean 'ResNet50V2'?",
        ),
        ({"model": "feature_extractor", "extractors": [{"source": "keras", "name": 50}]}, "name"),
    ],
)
def test_params_that_cannot_be_trained_give_a_one_line_error(world, tmp_path, params, text):
    with pytest.raises(SystemExit, match=f"^error: .*{re.escape(text)}"):
        run_train(tmp_path, world / "records", **params)
