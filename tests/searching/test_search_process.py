import json
import time
from pathlib import Path

import pytest
from support.stub_search import TRAINER

from cxr import storage
from searching import process
from searching.locks import Locks
from searching.process import TrainProcess, TrialFailed
from searching.slots import make_slots


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(**params): a TrainProcess of the stub trainer in trial_0000, which ends with the test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    started = []

    def run(**params) -> TrainProcess:
        folder = tmp_path / "trial_0000"
        lock = Locks().take(folder)
        (folder / "params.json").write_text(json.dumps({"warmup_epochs": 0, "num_epochs": 2} | params))
        started.append(TrainProcess(folder, lock, make_slots(1)[0], data_dir="records", trainer=TRAINER))
        return started[-1]

    yield run
    for found in started:
        found.stop()


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def failure(run: TrainProcess) -> str:
    wait_until(run.is_over)
    with pytest.raises(TrialFailed) as caught:
        run.score()
    return str(caught.value)


def test_the_score_is_val_mean_auroc_of_the_best_weights(start):
    run = start(dropout=0.625)
    wait_until(run.is_over)
    assert run.score() == 0.625
    assert process.read_epochs(run.folder) == {1: 0.625, 2: 0.625}


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"batch_size": 13}, "exit code 1: error: batch_size 13 is unlucky"),  # the last line of its stderr
        ({"loss": "focal"}, "val mean AUROC is undefined: no finding has both classes in val"),
        ({"mixup": 7}, "val leaks: the weights have seen 7 of its patients, so the score is not ranked"),
    ],
)
def test_a_trial_without_a_score_fails_with_its_reason(start, params, reason):
    assert failure(start(**params)) == reason


def test_a_trial_that_is_killed_fails_with_its_signal(start):
    run = start(warmup_epochs=60)
    assert not run.is_over()
    run.process.kill()
    assert failure(run) == "ended by SIGKILL"


@pytest.mark.parametrize(("ignores", "signal_name"), [(False, "SIGTERM"), (True, "SIGKILL")])
def test_stop_uses_sigterm_and_if_it_is_ignored_sigkill(start, monkeypatch, ignores, signal_name):
    monkeypatch.setattr(process, "GRACE", 0.5 if ignores else 60)
    run = start(warmup_epochs=60, num_epochs=100, horizontal_flip=ignores)
    wait_until((run.folder / "seen.json").exists)
    run.stop()
    assert failure(run) == f"ended by {signal_name}"


def test_a_run_in_the_folder_is_resumed(start):
    run = start(warmup_epochs=0.5, num_epochs=3, dropout=0.5)
    wait_until((run.folder / "history.csv").exists)
    run.process.kill()
    run.process.wait()
    run.close()
    again = start(num_epochs=3, dropout=0.5)
    wait_until(again.is_over)
    assert again.score() == 0.5
    before, after = (again.folder / "train.log").read_text().splitlines()
    assert before == "started after epoch 0"
    assert after in ("resumed after epoch 1", "resumed after epoch 2")


def test_a_trial_waits_for_the_features_that_another_process_extracts(start, tmp_path, monkeypatch):
    with storage.exclusive(tmp_path, "extracting features into"), pytest.raises(ValueError, match="another") as caught:
        storage.exclusive(tmp_path, "extracting features into").__enter__()
    run = start(batch_size=13)
    first = run.process
    assert first.wait(60) == 1
    (run.folder / process.STDERR).write_text(f"error: {caught.value}\n")
    monkeypatch.setattr(process, "BUSY_WAIT", 0.2)
    assert not run.is_over()  # although its process has ended
    assert run.waits_until > time.monotonic()
    wait_until(lambda: not run.is_over() and run.process is not first)
    assert failure(run) == "exit code 1: error: batch_size 13 is unlucky"  # the second process fails for another reason


def test_a_trainer_inherits_the_lock(start):
    run = start(warmup_epochs=60)
    run.lock.release()  # as when the search is killed
    assert Locks().take(run.folder) is None
    run.stop()
    Locks().take(run.folder).release()


def test_only_epochs_with_a_defined_value_are_read(tmp_path):
    assert process.read_epochs(tmp_path) == {}
    (tmp_path / "history.csv").write_text("epoch,seconds,val_mean_auroc\n1,2.5,0.625\n2,2.5,\n3,2.5,0.75\n")
    assert process.read_epochs(tmp_path) == {1: 0.625, 3: 0.75}


def test_epochs_are_read_within_groups_where_that_is_defined(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,val_mean_auroc,val_within_auroc\n1,0.75,0.5\n2,0.875,0.25\n")
    assert process.read_epochs(tmp_path) == {1: 0.5, 2: 0.25}
    (tmp_path / "history.csv").write_text("epoch,val_mean_auroc,val_within_auroc\n1,0.75,\n2,,\n")
    assert process.read_epochs(tmp_path) == {1: 0.75}


@pytest.mark.parametrize(
    ("within", "expected", "is_within"),
    [
        ({"group": {"mean_auroc": {"value": 0.25}}, "view_position": {"mean_auroc": {"value": 0.125}}}, 0.25, True),
        ({"group": {"mean_auroc": {"value": None}}}, 0.5, False),  # undefined: the pooled one
        ({"view_position": {"mean_auroc": {"value": 0.125}}}, 0.5, False),  # no groups in the dataset
        ({}, 0.5, False),
    ],
)
def test_the_score_is_that_within_groups_if_there_is_one(start, within, expected, is_within):
    run = start(dropout=0.5, num_epochs=1)
    wait_until(run.is_over)
    path = run.folder / "metrics_val_best.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"within": within}))
    assert run.score() == expected
    assert process.is_within_groups(run.folder) == is_within


@pytest.mark.parametrize(
    ("text", "line"), [("", ""), ("\n \n", ""), ("noise\nerror: no\n\n", "error: no"), ("half", "half")]
)
def test_the_last_line_that_is_not_blank(tmp_path, text, line):
    (tmp_path / "stderr.log").write_text(text)
    assert process.last_line(tmp_path / "stderr.log") == line
