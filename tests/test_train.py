import csv
import functools
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import train
from cxr import experiment
from cxr.data import records
from cxr.data.dataset import open_dataset
from cxr.evaluation import metrics
from cxr.findings import FINDINGS

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 6
SMALL = {"image_size": 32, "num_channels": 4, "num_blocks": 2, "batch_size": 8}
SMALL |= {"num_epochs": EPOCHS, "early_stopping_patience": EPOCHS, "dropout": 0.2}  # dropout has a random state


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Intervals from 20 resamples: their width is not at stake here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap_aurocs", functools.partial(metrics.bootstrap_aurocs, resamples=20))
        yield


def make_experiment(model_dir: Path, **changes) -> Path:
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / "params.json").write_text(json.dumps(SMALL | changes))
    return model_dir


def run_train(model_dir: Path, data_dir: Path, *flags: str) -> Path:
    train.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir), *flags])
    return model_dir


@pytest.fixture(scope="module")
def finished(built_dataset, tmp_path_factory) -> Path:
    """A run that nothing disturbed. Read it, or work on a copy."""
    return run_train(make_experiment(tmp_path_factory.mktemp("finished")), built_dataset)


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def read_history(model_dir: Path) -> list[dict]:
    """Rows of history.csv as text, but for the columns that depend on the machine."""
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
        return {name: state[name] for name in state.files if name != "story"}


def assert_same_run(model_dir: Path, expected: Path) -> None:
    """History, weights, optimizer and random state bit by bit, and the metrics that follow from them."""
    assert read_history(model_dir) == read_history(expected)
    np.testing.assert_equal(read_state(model_dir), read_state(expected))
    for name in experiment.CHECKPOINTS:
        np.testing.assert_equal(read_weights(model_dir, name), read_weights(expected, name))
    for name in ("metrics_val_best.json", "metrics_val_last.json"):
        found, wanted = (json.loads((folder / name).read_text()) for folder in (model_dir, expected))
        assert found == wanted | {"git_sha": found["git_sha"]}  # the checkout may have been edited between the two


def change_records(source: Path, target: Path, split: str, change) -> Path:
    """A copy of a dataset in which `split` holds what change({split: its records}) returns, as one shard."""
    shutil.copytree(source, target)
    info = json.loads((target / "dataset.json").read_text())
    paths = {name: [source / shard["file"] for shard in part["shards"]] for name, part in info["splits"].items()}
    changed = change({name: [r for path in paths[name] for r in records.read_records(path)] for name in paths})
    path = target / f"{split}-changed.tfrecord"
    with path.open("wb") as file:
        for record in changed:
            records.write_record(file, record)
    shard = {"file": path.name, "images": len(changed), "bytes": path.stat().st_size, "sha256": "changed"}
    info["splits"][split] |= {"images": len(changed), "shards": [shard] if changed else []}
    info["fingerprint"] = "changed"
    (target / "dataset.json").write_text(json.dumps(info))
    return target


def test_a_run_leaves_what_design_says(finished):
    expected = "params.json dataset.json patients.json train.log history.csv tensorboard resume "
    expected += "best.weights.h5 last.weights.h5 metrics_val_best.json metrics_val_last.json "
    expected += "predictions_val_best.csv predictions_val_last.csv"
    assert {path.name for path in finished.iterdir()} == set(expected.split())


def test_the_patients_of_train_and_val_are_kept(finished, built_dataset):
    paths = open_dataset(built_dataset).paths
    ids = {split: set(records.read_index(paths(split)).patient_ids.tolist()) for split in ("train", "val")}
    assert experiment.patients_of(finished) == {split: sorted(members) for split, members in ids.items()}


def test_history_has_a_row_per_epoch_and_a_column_per_number(finished):
    rows = read_history(finished)
    measured = ["epoch", "loss", "learning_rate", "seconds", "images_per_second", "val_loss", "val_mean_auroc"]
    header = (finished / "history.csv").read_text().splitlines()[0]
    assert header.split(",") == measured + [f"val_auroc_{finding}" for finding in FINDINGS]
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0, abs=1e-9)  # the cosine has come down
    for row in rows:
        defined = [float(row[f"val_auroc_{finding}"]) for finding in FINDINGS if row[f"val_auroc_{finding}"]]
        assert float(row["val_mean_auroc"]) == pytest.approx(np.mean(defined))


def test_a_finding_without_positives_in_val_is_null_not_a_half(finished):
    assert read_history(finished)[0]["val_auroc_Mass"] == ""
    scores = json.loads((finished / "metrics_val_best.json").read_text())
    mass = scores["findings"]["Mass"]
    assert (mass["positives"], mass["auroc"], mass["threshold"]) == (0, None, None)
    assert scores["mean_auroc"]["findings"] == sum(
        values["auroc"] is not None for values in scores["findings"].values()
    )


def test_best_weights_are_those_of_the_best_epoch(finished):
    best = json.loads((finished / "metrics_val_best.json").read_text())["mean_auroc"]["value"]
    last = json.loads((finished / "metrics_val_last.json").read_text())["mean_auroc"]["value"]
    values = [float(row["val_mean_auroc"]) for row in read_history(finished)]
    assert (best, last) == (pytest.approx(max(values)), pytest.approx(values[-1]))


def test_tensorboard_shows_the_history(finished):
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    tags = set(events.Tags()["tensors"])
    assert {"loss", "learning_rate", "val_loss", "val_mean_auroc", "val_auroc/Nodule", "val_auroc/Edema"} <= tags
    assert "val_auroc/Mass" not in tags  # undefined
    for tag, column in [("loss", "loss"), ("val_mean_auroc",) * 2, ("val_auroc/Nodule", "val_auroc_Nodule")]:
        shown = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        assert shown == [(int(row["epoch"]), pytest.approx(float(row[column]))) for row in read_history(finished)]


def test_the_log_explains_the_run(finished, built_dataset):
    lines = (finished / "train.log").read_text().splitlines()
    assert lines[0].startswith("simple_cnn @ ")
    assert '"num_channels": 4' in lines[0]
    assert lines[1].startswith(f"data {built_dataset}   split official   fingerprint ")
    assert [line.split()[:2] for line in lines[2:5]] == [["train", "33"], ["val", "15"], ["test", "12"]]
    assert "Atelectasis 1  Cardiomegaly 2" in lines[2]
    assert lines[5] == "left out: 0 missing, 0 rejected"
    pattern = r"epoch +(\d)/6   loss 0\.\d{4}   val AUROC 0\.\d{4} \(best 0\.\d{4}\)   \d+ img/s   \d+ s"
    assert re.findall(pattern, "\n".join(lines)) == ["1", "2", "3", "4", "5", "6"]
    assert lines[-1] == f"next: python evaluate.py --model_dir {finished} --data_dir {built_dataset}"


def test_the_same_seed_gives_the_same_numbers(finished, built_dataset, tmp_path):
    assert_same_run(run_train(make_experiment(tmp_path), built_dataset), finished)


def test_a_killed_run_resumes_to_the_same_numbers(finished, built_dataset, tmp_path):
    model_dir = make_experiment(tmp_path)
    command = [sys.executable, "train.py", "--model_dir", str(model_dir), "--data_dir", str(built_dataset)]
    deadline = time.monotonic() + 120
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (model_dir / "resume/state.npz").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -9
    epochs_done = len(read_history(model_dir)) if (model_dir / "history.csv").exists() else 1
    assert 1 <= epochs_done < EPOCHS  # it was in the middle
    assert_same_run(run_train(model_dir, built_dataset, "--resume"), finished)


def test_a_kill_between_weights_and_state_changes_nothing(finished, built_dataset, tmp_path, monkeypatch):
    model_dir, save_state, saves = make_experiment(tmp_path), experiment.save_state, []

    def killed_at_the_third(*arguments):
        saves.append(1)
        if len(saves) == 3:
            raise KeyboardInterrupt
        save_state(*arguments)

    monkeypatch.setattr(experiment, "save_state", killed_at_the_third)
    with pytest.raises(SystemExit, match=r"^interrupted"):
        run_train(model_dir, built_dataset)
    monkeypatch.undo()
    assert len(read_history(model_dir)) == 2
    assert_same_run(run_train(model_dir, built_dataset, "--resume"), finished)


def test_resume_of_a_finished_run_changes_nothing(copy, finished, built_dataset):
    assert_same_run(run_train(copy, built_dataset, "--resume"), finished)


def test_resume_writes_the_history_that_a_kill_left_out(copy, finished, built_dataset):
    (copy / "history.csv").unlink()  # killed after the last state, before the last history
    assert_same_run(run_train(copy, built_dataset, "--resume"), finished)


@pytest.mark.parametrize("change", [{"num_channels": 8}, {"learning_rate": 0.5}, {"seed": 231}])
def test_resume_with_other_params_is_refused(copy, built_dataset, change):
    make_experiment(copy, **change)
    with pytest.raises(SystemExit, match=r"^error: .*params\.json was changed since.*--restart"):
        run_train(copy, built_dataset, "--resume")


def test_resume_on_another_dataset_is_refused(copy, built_dataset, tmp_path):
    before = (copy / "dataset.json").read_text()
    other = change_records(built_dataset, tmp_path / "other", "val", lambda held: held["val"][1:])
    with pytest.raises(SystemExit, match=r"^error: --data_dir is not the dataset the run began on"):
        run_train(copy, other, "--resume")
    assert (copy / "dataset.json").read_text() == before


def test_a_trained_folder_is_not_trained_over(copy, built_dataset):
    with pytest.raises(
        SystemExit, match=r"^error: .*/copy already holds a run\. Add --resume to continue it, or --res"
    ):
        run_train(copy, built_dataset)


def test_restart_moves_the_old_run_aside(copy, finished, built_dataset):
    make_experiment(copy, num_epochs=1)
    run_train(copy, built_dataset, "--restart")
    assert len(read_history(copy)) == 1
    assert read_history(copy / "old/001") == read_history(finished)
    assert len(list((copy / "tensorboard").iterdir())) == 1


def test_training_stops_when_val_gets_no_better(built_dataset, tmp_path, monkeypatch):
    planned, seen = [0.6, 0.7, 0.7, 0.65, 0.9], []  # a tie is no better; the 0.9 comes too late

    def validate(run, index):
        seen.append([np.asarray(weight) for weight in run.model.trainable_variables])
        return {"val_loss": 0.5, "val_mean_auroc": planned[len(seen) - 1]}

    monkeypatch.setattr(train, "validate", validate)
    model_dir = run_train(make_experiment(tmp_path, early_stopping_patience=2), built_dataset)
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


def test_a_loss_that_is_no_number_ends_the_run(built_dataset, tmp_path):
    wild = {"optimizer": "sgd", "learning_rate": 10, "weight_decay": 1, "lr_schedule": "constant", "warmup_epochs": 0}
    model_dir = make_experiment(tmp_path, batch_size=2, **wild)  # every step multiplies the weights by -9
    text = r"^error: the loss of epoch \d is (nan|inf); lower learning_rate in params\.json and --restart$"
    with pytest.raises(SystemExit, match=text):
        run_train(model_dir, built_dataset)


def test_fewer_images_than_a_batch(built_dataset, tmp_path):
    with pytest.raises(
        SystemExit, match=r"^error: 33 training images are less than one batch of 34; build a larger dataset"
    ):
        run_train(make_experiment(tmp_path, batch_size=34), built_dataset)


def test_a_patient_in_two_splits_is_refused(built_dataset, tmp_path):
    leaked = change_records(built_dataset, tmp_path / "leaked", "val", lambda held: held["val"] + held["train"][:1])
    patient = records.unpack_row(next(records.read_records(leaked / "train-00000-of-00003.tfrecord"))).patient_id
    with pytest.raises(SystemExit, match=f"^error: patient {patient} is in train and in val, so scores would be too"):
        run_train(make_experiment(tmp_path / "run"), leaked)


def test_a_flipped_bit_in_a_shard_is_named(built_dataset, tmp_path):
    shutil.copytree(built_dataset, tmp_path / "data")
    shard = min((tmp_path / "data").glob("val-*.tfrecord"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-200] + bytes([data[-200] ^ 1]) + data[-199:])
    with pytest.raises(SystemExit, match=f"^error: {shard} is damaged at byte .*rewrites only this shard"):
        run_train(make_experiment(tmp_path / "run"), tmp_path / "data")
