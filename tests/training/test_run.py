import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.runs import EPOCHS, assert_same_run, change_records, make_experiment, read_history, read_weights, run_train

from cxr.networks.assembly import trained_model
from cxr.params import load_params
from cxr.records.dataset import open_dataset
from input_fn import batch_ids, input_fn
from model_fn import model_fn
from training import epochs
from training.run import Run

pytestmark = pytest.mark.usefixtures("few_resamples")

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = {"augmentation": "medium", "horizontal_flip": True, "mixup": 0.3}
EVERYTHING |= {"ema_decay": 0.9, "lr_schedule": "plateau", "gradient_clip_norm": 1.0}
EVERYTHING |= {"loss": "batch_balanced", "learning_rate": 0.03}


@pytest.fixture(scope="module")
def finished(built_dataset, tmp_path_factory) -> Path:
    """An uninterrupted run with every option of training."""
    return run_train(make_experiment(tmp_path_factory.mktemp("everything"), **EVERYTHING), built_dataset)


def test_with_everything_a_killed_run_resumes_to_the_same_numbers(finished, built_dataset, tmp_path):
    """Augmentation, mixup, the moving average of the weights and plateaus, through a real SIGKILL."""
    model_dir = make_experiment(tmp_path, **EVERYTHING)
    command = [sys.executable, "train.py", "--model_dir", str(model_dir), "--data_dir", str(built_dataset)]
    deadline = time.monotonic() + 120
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (model_dir / "history.csv").exists() or len(read_history(model_dir)) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -9
    assert 2 <= len(read_history(model_dir)) < EPOCHS  # it was killed in the middle
    assert_same_run(run_train(model_dir, built_dataset, "--resume"), finished)


def test_the_moving_average_of_the_weights_is_evaluated_and_saved(finished, built_dataset):
    images = open_dataset(built_dataset)
    params = load_params(finished)
    run = Run(params, model_fn(params, images.info), {"image": images}, finished)
    run.restore()
    stepped = run.model.get_weights()
    with run.averaged():
        averaged = run.model.get_weights()
    for value, expected in zip(averaged, trained_model(finished, "last").get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert max(np.abs(a - b).max() for a, b in zip(averaged, stepped, strict=True)) > 1e-3
    for value, expected in zip(run.model.get_weights(), stepped, strict=True):
        np.testing.assert_array_equal(value, expected)  # restored


def test_a_plateau_lowers_the_learning_rate_by_the_history(built_dataset, tmp_path, monkeypatch):
    planned = iter([0.6, 0.5, 0.5, 0.7, 0.6, 0.6])
    six = {"num_epochs": 6, "early_stopping_patience": 6}
    monkeypatch.setattr(epochs, "val_columns", lambda *_: {"val_loss": 0.5, "val_mean_auroc": next(planned)})
    model_dir = make_experiment(tmp_path, lr_schedule="plateau", warmup_epochs=0, learning_rate=0.01, **six)
    rates = [float(row["learning_rate"]) for row in read_history(run_train(model_dir, built_dataset))]
    assert rates == pytest.approx([0.01] * 3 + [0.001] * 3)


def test_the_moving_average_of_the_weights_counts_steps_over_all_epochs(built_dataset, tmp_path, monkeypatch):
    images = open_dataset(built_dataset)
    params = load_params(make_experiment(tmp_path, ema_decay=0.9))
    run, seen = Run(params, model_fn(params, images.info), {"image": images}, tmp_path), []
    monkeypatch.setattr(run.average, "update", seen.append)
    for epoch in (0, 1):
        epochs.fit_epoch(run, epoch)
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7]


def test_training_stops_when_val_does_not_improve(built_dataset, tmp_path, monkeypatch):
    planned, seen = [0.6, 0.7, 0.7, 0.65, 0.9], []  # a tie is not better; the 0.9 comes too late

    def validate(run):
        seen.append([np.asarray(weight) for weight in run.model.trainable_variables])
        return np.full((15, 14), 0.5)

    monkeypatch.setattr(epochs, "validate", validate)
    columns = lambda *_: {"val_loss": 0.5, "val_mean_auroc": planned[len(seen) - 1]}  # noqa: E731
    monkeypatch.setattr(epochs, "val_columns", columns)
    model_dir = run_train(make_experiment(tmp_path, num_epochs=6, early_stopping_patience=2), built_dataset)
    assert [float(row["val_mean_auroc"]) for row in read_history(model_dir)] == [0.6, 0.7, 0.7, 0.65]
    assert "no better val AUROC for 2 epochs: stopping" in (model_dir / "train.log").read_text()
    best = [value for name, value in read_weights(model_dir, "best").items() if "conv2d" in name]
    assert np.array_equal(seen[1][0], best[0])
    assert not np.array_equal(seen[3][0], best[0])


def test_without_val_images_every_epoch_runs_and_the_best_weights_are_the_last(built_dataset, tmp_path):
    data_dir = change_records(built_dataset, tmp_path / "data", "val", lambda held: [])
    data_dir = change_records(data_dir, tmp_path / "again", "test", lambda held: [])
    model_dir = run_train(make_experiment(tmp_path / "run", num_epochs=3, early_stopping_patience=1), data_dir)
    assert [row["val_mean_auroc"] for row in read_history(model_dir)] == ["", "", ""]
    scores = json.loads((model_dir / "metrics_val_best.json").read_text())
    assert (scores["images"], scores["loss"], scores["mean_auroc"]["value"]) == (0, None, None)
    np.testing.assert_equal(read_weights(model_dir, "best"), read_weights(model_dir, "last"))


def test_a_loss_that_is_not_finite_ends_the_run(built_dataset, tmp_path):
    wild = {"optimizer": "sgd", "learning_rate": 10, "weight_decay": 1, "lr_schedule": "constant", "warmup_epochs": 0}
    model_dir = make_experiment(tmp_path, batch_size=2, **wild)  # every step multiplies the weights by -9
    text = (
        r"^error: the loss of epoch \d is (nan|inf) from step \d+ on\. Lower learning_rate in params\.json or check "
        r"the images of these steps, then train with --restart\. step \d+: (\d{8}_00\d\.png(, |; |$)){2}step \d+: "
        r"(\d{8}_00\d\.png(, |$)){2}$"
    )
    with pytest.raises(SystemExit, match=text):
        run_train(model_dir, built_dataset)


def test_fewer_images_than_a_batch(built_dataset, tmp_path):
    with pytest.raises(
        SystemExit, match=r"^error: 33 training images are less than one batch of 34; build a larger dataset"
    ):
        run_train(make_experiment(tmp_path, batch_size=34), built_dataset)


@pytest.fixture
def failing_at(built_dataset, tmp_path):
    """failing_at(step, gradient_only=...): a run whose loss is not finite in epoch 2 at one image of that step."""
    import keras

    def make(step: int, *, gradient_only: bool) -> Run:
        images = open_dataset(built_dataset)
        params = load_params(make_experiment(tmp_path))
        model = model_fn(params, images.info)
        run = Run(params, model, {"image": images}, tmp_path)
        batches = list(input_fn("train", run.datasets, params, epoch=1).as_numpy_iterator())
        dark = batches[step - 1][0]["image"][0].astype(np.float32).mean()
        image = keras.Input((32, 32, 1), dtype="uint8", name="image")
        mean = keras.ops.mean(keras.ops.cast(image, "float32"), axis=(1, 2, 3))
        clear = keras.ops.cast(keras.ops.abs(mean - dark) > 1e-3, "float32")[:, None]  # 0 for that image, else 1
        logits = model({"image": image})
        # The gradient of the root is infinite at 0, and 0 times infinity is NaN; its value is finite.
        only_gradient = keras.ops.sqrt(logits * 0.0 + clear) - clear
        wrong = only_gradient if gradient_only else keras.ops.where(clear > 0, 0.0, float("nan"))
        run.model = keras.Model({"image": image}, logits + wrong)
        run.compile()
        return run

    return make


@pytest.mark.parametrize(
    ("step", "gradient_only", "what", "named"),
    [
        (3, False, "the loss of epoch 2 is nan from step 3 on", [3, 2]),
        (1, False, "the loss of epoch 2 is nan from step 1 on", [1]),
        (2, True, "the loss of epoch 2 is nan from step 3 on", [3, 2]),  # it shows a step later
        (4, True, "weights became NaN or infinite in the last step of epoch 2", [4]),  # there is no step 5
    ],
)
def test_the_error_names_the_batches_of_a_loss_that_is_not_finite(failing_at, step, gradient_only, what, named):
    run = failing_at(step, gradient_only=gradient_only)
    with pytest.raises(ValueError, match=f"^{what}. Lower learning_rate") as raised:
        epochs.fit_epoch(run, 1)
    ids = [f"step {n}: {', '.join(batch_ids(run.datasets, run.params, epoch=1, step=n - 1))}" for n in named]
    assert str(raised.value).endswith(f"with --restart. {'; '.join(ids)}")
