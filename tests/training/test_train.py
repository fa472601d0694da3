import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.runs import (
    EPOCHS,
    assert_same_run,
    change_records,
    interrupted_at,
    make_experiment,
    read_history,
    run_train,
)

import evaluate
from cxr import experiment
from cxr.evaluation import out_of_distribution
from cxr.findings import FINDINGS
from cxr.records import example
from cxr.records.appearances import read_appearances
from cxr.records.dataset import open_dataset

pytestmark = pytest.mark.usefixtures("few_resamples")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(built_dataset, tmp_path_factory) -> Path:
    """An uninterrupted run. Read it, or work on a copy."""
    return run_train(make_experiment(tmp_path_factory.mktemp("finished")), built_dataset)


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_run_writes_its_files(finished):
    expected = "params.json run.json .lock dataset.json patients.json train.log history.csv tensorboard resume "
    expected += "best.weights.h5 last.weights.h5 metrics_val_best.json metrics_val_last.json "
    expected += "predictions_val_best.csv predictions_val_last.csv out_of_distribution.json"
    assert {path.name for path in finished.iterdir()} == set(expected.split())


def test_distances_are_fitted_and_evaluate_fits_those_of_an_older_run(finished, copy, built_dataset):
    val = read_appearances(open_dataset(built_dataset), "val")
    assert val.shape == (15, 73)
    fitted = out_of_distribution.read(finished, "best")
    assert fitted.threshold == fitted.distance(val).max()  # 1 % of 15 images is none
    out_of_distribution.path_of(copy).unlink()
    evaluate.main(["--model_dir", str(copy), "--data_dir", str(built_dataset), "--split", "val"])
    written = [out_of_distribution.path_of(folder).read_text() for folder in (finished, copy)]
    assert written[0] == written[1]


def test_the_patients_of_train_and_val_are_kept(finished, built_dataset):
    paths = open_dataset(built_dataset).paths
    ids = {split: set(example.read_split_index(paths(split)).patient_ids.tolist()) for split in ("train", "val")}
    assert experiment.patients_of(finished) == {split: sorted(members) for split, members in ids.items()}


def test_history_has_a_row_per_epoch_and_a_column_per_number(finished):
    rows = read_history(finished)
    measured = ["epoch", "loss", "learning_rate", "seconds", "images_per_second", "val_loss", "val_mean_auroc"]
    header = (finished / "history.csv").read_text().splitlines()[0]
    assert header.split(",") == measured + [f"val_auroc_{finding}" for finding in FINDINGS]
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0, abs=1e-9)  # the end of the cosine decay
    for row in rows:
        defined = [float(row[f"val_auroc_{finding}"]) for finding in FINDINGS if row[f"val_auroc_{finding}"]]
        assert float(row["val_mean_auroc"]) == pytest.approx(np.mean(defined))


def test_the_auroc_of_a_finding_without_positives_is_null(finished):
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
    assert lines[6].startswith("device ")
    pattern = rf"epoch +(\d)/{EPOCHS}   loss 0\.\d{{4}}   val AUROC 0\.\d{{4}} \(best 0\.\d{{4}}\)   \d+ img/s   \d+ s"
    assert re.findall(pattern, "\n".join(lines)) == ["1", "2", "3"]
    assert lines[-1] == f"next: python evaluate.py --model_dir {finished} --data_dir {built_dataset}"


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
    assert 1 <= epochs_done < EPOCHS  # it was killed in the middle
    assert_same_run(run_train(model_dir, built_dataset, "--resume"), finished)


def test_a_run_killed_in_its_first_epoch_begins_again_with_the_same_numbers(finished, built_dataset, tmp_path):
    """So the same seed gives the same numbers."""
    model_dir = make_experiment(tmp_path)
    with interrupted_at(1), pytest.raises(SystemExit, match=r"^interrupted"):
        run_train(model_dir, built_dataset)
    assert (model_dir / "best.weights.h5").exists()  # after the weights, before the first state
    assert not (model_dir / "resume").exists()
    assert_same_run(run_train(model_dir, built_dataset, "--resume"), finished)
    assert (
        "no epoch was finished: the run begins again with its initial weights" in (model_dir / "train.log").read_text()
    )


def test_results_of_earlier_weights_are_moved_aside(finished, built_dataset, tmp_path):
    model_dir = make_experiment(tmp_path)
    with interrupted_at(2, is_saved=True), pytest.raises(SystemExit, match=r"^interrupted"):
        run_train(model_dir, built_dataset)
    (model_dir / "metrics_test_best.json").write_text("of the second epoch")
    run_train(model_dir, built_dataset, "--resume")
    assert not (model_dir / "metrics_test_best.json").exists()
    assert (model_dir / "old/001/metrics_test_best.json").read_text() == "of the second epoch"
    assert_same_run(run_train(model_dir, built_dataset, "--resume"), finished)  # nothing left to do
    assert not (model_dir / "old/002").exists()


def test_a_kill_between_weights_and_state_changes_nothing(finished, built_dataset, tmp_path):
    model_dir = make_experiment(tmp_path)
    with interrupted_at(3), pytest.raises(SystemExit, match=r"^interrupted"):
        run_train(model_dir, built_dataset)
    assert len(read_history(model_dir)) == 2
    assert_same_run(run_train(model_dir, built_dataset, "--resume"), finished)


def test_resume_of_a_finished_run_changes_nothing(copy, finished, built_dataset):
    assert_same_run(run_train(copy, built_dataset, "--resume"), finished)


def test_resume_writes_a_history_that_a_kill_prevented(copy, finished, built_dataset):
    (copy / "history.csv").unlink()  # killed after the last state, before the last history
    assert_same_run(run_train(copy, built_dataset, "--resume"), finished)


@pytest.mark.parametrize("change", [{"num_channels": 8}, {"learning_rate": 0.5}, {"seed": 231}])
def test_resume_with_other_params_is_rejected(copy, built_dataset, change):
    make_experiment(copy, **change)
    with pytest.raises(SystemExit, match=r"^error: .*params\.json was changed since.*--restart"):
        run_train(copy, built_dataset, "--resume")


def test_resume_on_another_dataset_is_rejected(copy, built_dataset, tmp_path):
    before = (copy / "dataset.json").read_text()
    other = change_records(built_dataset, tmp_path / "other", "val", lambda held: held["val"][1:])
    with pytest.raises(SystemExit, match=r"^error: --data_dir is not the dataset the run began on"):
        run_train(copy, other, "--resume")
    assert (copy / "dataset.json").read_text() == before


def test_a_trained_folder_is_not_overwritten(copy, built_dataset):
    with pytest.raises(
        SystemExit, match=r"^error: .*/copy already holds a run\. Add --resume to continue it, or --res"
    ):
        run_train(copy, built_dataset)


def test_restart_moves_the_old_run_aside(copy, finished, built_dataset):
    make_experiment(copy, num_epochs=1)
    run_train(copy, built_dataset, "--restart")
    assert len(read_history(copy)) == 1
    assert read_history(copy / "old/001") == read_history(finished)
    of_both = [{path.name for path in (folder / "tensorboard").glob("events*")} for folder in (copy, copy / "old/001")]
    assert all(of_both)
    assert not of_both[0] & of_both[1]


def test_a_patient_in_two_splits_is_rejected(built_dataset, tmp_path):
    leaked = change_records(built_dataset, tmp_path / "leaked", "val", lambda held: held["val"] + held["train"][:1])
    patient = example.unpack_row(next(example.read_records(leaked / "train-00000-of-00003.tfrecord"))).patient_id
    with pytest.raises(SystemExit, match=f"^error: patient {patient} is in train and in val, so scores would be too"):
        run_train(make_experiment(tmp_path / "run"), leaked)


def test_the_error_names_a_shard_with_a_flipped_bit(built_dataset, tmp_path):
    shutil.copytree(built_dataset, tmp_path / "data")
    shard = min((tmp_path / "data").glob("val-*.tfrecord"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-200] + bytes([data[-200] ^ 1]) + data[-199:])
    with pytest.raises(SystemExit, match=f"^error: {shard} is damaged at byte .*rewrites only this shard"):
        run_train(make_experiment(tmp_path / "run"), tmp_path / "data")
