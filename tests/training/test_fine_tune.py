import csv
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.runs import interrupted_at, make_experiment, read_weights, run_train
from support.tiny import TINY

import evaluate
from cxr import experiment
from cxr.findings import FINDINGS
from cxr.networks.assembly import trained_features, trained_model
from cxr.params import load_params, parse_params
from cxr.records.dataset import open_dataset
from input_fn import input_fn
from model_fn import model_fn
from training import epochs, figures, phases
from training.epochs import fit_epoch
from training.run import Run

pytestmark = pytest.mark.usefixtures("few_resamples")
ROOT = Path(__file__).resolve().parents[2]
MOBILE = {"source": "keras", "name": "MobileNet", "alpha": 0.25, "weights": None, "image_size": 32}
TUNE = {"epochs": 3, "learning_rate": 0.01, "batch_size": 8}
SMALL = {"model": "feature_extractor", "extractors": [TINY], "hidden_units": [6], "batch_size": 8, "num_epochs": 2}
SMALL |= {"early_stopping_patience": 9, "dropout": 0.2, "fine_tune": TUNE}  # dropout has a random state


@pytest.fixture(scope="module", autouse=True)
def tiny(tiny_network):
    """keras.applications.Tiny, in every test of this file."""


def logits_of(model: keras.Model, data_dir: Path, split: str = "val") -> np.ndarray:
    batches = input_fn(split, {"image": open_dataset(data_dir)}, parse_params({}, where=""), inputs=["image"])
    return model.predict(batches, verbose=0)


def written(model_dir: Path, split: str = "val", checkpoint: str = "best") -> np.ndarray:
    """Probabilities float64 [n, 14] of a predictions CSV."""
    rows = csv.DictReader(experiment.predictions_path(model_dir, split, checkpoint).read_text().splitlines())
    return np.array([[float(row[f"prob_{finding}"]) for finding in FINDINGS] for row in rows])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@pytest.fixture(scope="module")
def data_dir(built_dataset, tmp_path_factory) -> Path:
    """A copy of the built dataset, to which features are added."""
    folder = tmp_path_factory.mktemp("data") / "records"
    return shutil.copytree(built_dataset, folder, ignore=shutil.ignore_patterns("features"))


@pytest.fixture(scope="module")
def begun() -> list[np.ndarray]:
    """The val logits of the whole model before its first step, filled by `finished`."""
    return []


@pytest.fixture(scope="module")
def finished(data_dir, begun, tmp_path_factory) -> Path:
    """An uninterrupted run. Read it, or work on a copy."""
    run_epochs = phases.run_epochs

    def watched(run, val):
        if run.model.name == "assembled":
            begun.append(logits_of(run.model, data_dir))
        run_epochs(run, val)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "run_epochs", watched)
        return run_train(make_experiment(tmp_path_factory.mktemp("finished"), SMALL), data_dir)


def test_a_run_writes_its_files_and_a_head_that_is_an_experiment(finished, data_dir):
    products = "params.json run.json dataset.json patients.json history.csv tensorboard resume "
    products += "best.weights.h5 last.weights.h5 "
    products += "metrics_val_best.json metrics_val_last.json predictions_val_best.csv predictions_val_last.csv "
    products += "out_of_distribution.json"
    assert {path.name for path in finished.iterdir()} == {*products.split(), "train.log", "head", ".lock"}
    assert {path.name for path in (finished / "head").iterdir()} >= set(products.split())
    assert load_params(finished / "head") == parse_params(SMALL | {"fine_tune": None}, where="")
    head = trained_model(finished / "head")  # from images; its own predictions used cached features
    np.testing.assert_allclose(sigmoid(logits_of(head, data_dir)), written(finished / "head"), atol=1e-3)
    rows = {folder: (folder / "history.csv").read_text().splitlines() for folder in (finished, finished / "head")}
    assert [len(lines) - 1 for lines in rows.values()] == [3, 2]  # epochs of fine_tune, num_epochs


def test_weights_of_frozen_batch_norms_keep_the_names_of_keras(finished):
    names = read_weights(finished, "best")
    assert any("batch_normalization" in name for name in names)
    assert not any("fused" in name for name in names)


def test_the_whole_model_starts_from_the_logits_of_the_head(finished, begun, data_dir):
    [start] = begun
    head = logits_of(trained_model(finished / "head"), data_dir)
    np.testing.assert_allclose(start, head, atol=1e-4)  # the features of the head are rounded to float16
    assert np.abs(logits_of(trained_model(finished, "last"), data_dir) - start).max() > 1e-3


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_evaluate_and_trained_model_load_it(finished, data_dir, tmp_path, checkpoint):
    model_dir = shutil.copytree(finished, tmp_path / "copy")
    flags = ["--data_dir", str(data_dir), "--split", "test", "--checkpoint", checkpoint]
    evaluate.main(["--model_dir", str(model_dir), *flags])
    model = trained_model(finished)
    model.load_weights(experiment.weights_path(finished, checkpoint))
    probabilities = sigmoid(logits_of(model, data_dir, "test"))
    np.testing.assert_allclose(written(model_dir, "test", checkpoint), probabilities, atol=1e-5)


def test_as_an_extractor_it_returns_its_fine_tuned_features(finished):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    whole = trained_model(finished)
    kernel, bias = whole.get_layer("feature_extractor").get_layer("logits").get_weights()
    features = np.asarray(trained_features(finished)({"image": images}))
    np.testing.assert_allclose(features @ kernel + bias, whole({"image": images}), atol=1e-4)


def test_a_run_interrupted_in_both_phases_resumes_to_the_same_weights(finished, data_dir, tmp_path):
    model_dir = make_experiment(tmp_path / "run", SMALL)
    # Saves: 2 second epoch of the head, 3 the same again, 4 and 5 the first two epochs of fine-tuning.
    with interrupted_at(2, 5):
        for flags in ([], ["--resume"]):
            with pytest.raises(SystemExit, match=r"^interrupted"):
                run_train(model_dir, data_dir, *flags)
    assert len((model_dir / "history.csv").read_text().splitlines()) == 2  # a header and the first epoch
    run_train(model_dir, data_dir, "--resume")
    for checkpoint in experiment.CHECKPOINTS:
        np.testing.assert_equal(read_weights(model_dir, checkpoint), read_weights(finished, checkpoint))


def test_a_run_that_stopped_in_its_head_is_not_overwritten(finished, data_dir, tmp_path):
    model_dir = make_experiment(tmp_path / "run", SMALL)
    shutil.copytree(finished / "head", model_dir / "head")
    with pytest.raises(SystemExit, match=r"^error: .*/run already holds a run\. Add --resume to continue it"):
        run_train(model_dir, data_dir)


def test_restart_moves_the_head_aside_too(finished, data_dir, tmp_path):
    model_dir = shutil.copytree(finished, tmp_path / "run")
    assert experiment.move_aside(model_dir) == model_dir / "old/001"
    assert {path.name for path in model_dir.iterdir()} == {"params.json", "old", ".lock"}
    assert (model_dir / "old/001/head/best.weights.h5").exists()


def test_a_hub_extractor_is_rejected_before_its_head_is_trained(data_dir, tmp_path):
    module = tf.Module()
    module.__call__ = tf.function(
        lambda images: tf.reduce_mean(images, [1, 2]), input_signature=[tf.TensorSpec([None, 32, 32, 3])]
    )
    tf.saved_model.save(module, str(tmp_path / "hub"))
    spec = {"source": "hub", "handle": str(tmp_path / "hub"), "image_size": 32}
    model_dir = make_experiment(tmp_path / "run", SMALL, extractors=[spec])
    with pytest.raises(
        SystemExit, match=r"^error: .*fine_tune is for extractors of source 'keras'; those of other sources stay frozen"
    ):
        run_train(model_dir, data_dir)
    assert not (model_dir / "head/best.weights.h5").exists()


def one_epoch(data_dir: Path, model_dir: Path, **changes) -> tuple[Run, dict, float]:
    """Train the whole model for one epoch from an untrained head: (run, {weight: whether it changed}, loss).

    Step by step without a graph, which would take longer to trace than four steps take.
    """
    params = parse_params(SMALL | changes, where="")
    images = open_dataset(data_dir)
    run = Run(params, model_fn(params, images.info), {"image": images}, model_dir)
    run.model.run_eagerly = True
    before = {weight.path: weight.numpy() for weight in run.model.weights}
    loss = fit_epoch(run, 0)["loss"]
    return run, {w.path: not np.array_equal(before[w.path], w.numpy()) for w in run.model.weights}, loss


CONVOLUTIONS = {"conv1/kernel", "conv2/kernel"}
SCALES = {f"bn{place}/{name}" for place in (1, 2) for name in ("gamma", "beta")}
STATISTICS = {f"bn{place}/moving_{name}" for place in (1, 2) for name in ("mean", "variance")}
SECOND = {name for name in CONVOLUTIONS | SCALES | STATISTICS if "2/" in name}


@pytest.mark.parametrize(
    ("fine_tune", "expected"),
    [
        ({"batch_norm": "frozen"}, CONVOLUTIONS),
        ({"batch_norm": "trained"}, CONVOLUTIONS | SCALES | STATISTICS),
        ({"batch_norm": "frozen", "unfreeze": 4}, {"conv2/kernel"}),  # conv2, bn2, relu, mean
        ({"batch_norm": "trained", "unfreeze": 4}, SECOND),
        ({"batch_norm": "trained", "unfreeze": 3}, SECOND - {"conv2/kernel"}),
        ({"batch_norm": "trained", "unfreeze": 99}, CONVOLUTIONS | SCALES | STATISTICS),
    ],
)
def test_what_fine_tuning_changes(data_dir, tmp_path, fine_tune, expected):
    _, changed, _ = one_epoch(data_dir, tmp_path, fine_tune=fine_tune)
    network = {path for path, other in changed.items() if other and re.search(r"(conv|bn)\d/", path)}
    assert {"/".join(path.split("/")[-2:]) for path in network} == expected
    assert all(other for path, other in changed.items() if "logits" in path)


def test_only_the_last_layers_of_a_real_network_are_trained(data_dir, tmp_path):
    run, changed, loss = one_epoch(data_dir, tmp_path, extractors=[MOBILE], fine_tune={"unfreeze": 8})
    assert np.isfinite(loss)
    trained = {path.split("/")[-2] for path, other in changed.items() if other and "conv" in path}
    assert trained <= {"conv_dw_13", "conv_pw_13"}  # bn, relu, pw, bn, relu, mean and one more
    assert "conv_pw_13" in {w.path.split("/")[-2] for w in run.model.trainable_weights}


@pytest.mark.parametrize("precision", ["bfloat16", "mixed_float16"])
def test_lower_precision_trains_with_float32_weights_and_logits(data_dir, tmp_path, precision):
    run, changed, loss = one_epoch(data_dir, tmp_path, precision=precision)
    logits = logits_of(run.model, data_dir)
    assert (np.isfinite(loss), logits.dtype, np.isfinite(logits).all()) == (True, np.float32, True)
    assert {weight.dtype for weight in run.model.trainable_weights} == {"float32"}
    network = run.model.get_layer("Tiny_extractor").get_layer("tiny")
    assert network.get_layer("conv1").compute_dtype == precision.removeprefix("mixed_")
    assert any(other for path, other in changed.items() if "conv1" in path)
    assert keras.config.dtype_policy().name == "float32"  # restored
    scaled = isinstance(run.model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")  # float16 gradients below 6e-8 would be 0


def watched_training(monkeypatch) -> list[str]:
    """The augmentation of all training data that is read from now on."""
    seen = []

    def note(split, datasets, params, **options):
        if split == "train":
            seen.append(params.augmentation)
        return input_fn(split, datasets, params, **options)

    for module in (epochs, figures):
        monkeypatch.setattr(module, "input_fn", note)
    return seen


def test_fine_tuning_with_augmentation_moving_average_and_patient_inputs(data_dir, tmp_path, monkeypatch):
    seen = watched_training(monkeypatch)
    extra = {"augmentation": "light", "ema_decay": 0.9, "metadata": True, "crop_size": 32, "loss": "focal"}
    extra |= {"num_epochs": 1, "fine_tune": TUNE | {"epochs": 2}}
    model_dir = run_train(make_experiment(tmp_path / "run", SMALL, **extra), data_dir)
    # The head, the pictures for TensorBoard, the whole model.
    assert seen == ["none"] + ["none", "light"] + ["light"] * 2
    model = trained_model(model_dir)
    assert list(model.input) == ["image", "age", "sex", "view_position"]
    batches = input_fn("val", {"image": open_dataset(data_dir)}, parse_params({}, where=""))
    probabilities = sigmoid(model.predict(batches, verbose=0))
    np.testing.assert_allclose(probabilities, written(model_dir), atol=1e-5)
    features = trained_features(model_dir)  # patient inputs unknown
    assert (list(features.input), features.output.shape) == (["image"], (None, 6))
    assert (model_dir / "head/history.csv").exists()
