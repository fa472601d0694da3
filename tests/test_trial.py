import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr import storage, trial

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run_of(tmp_path):
    """run_of(data_dir): a TrialRun of an experiment with empty params.json; closed at the end."""
    runs = []

    def start(data_dir: Path) -> trial.TrialRun:
        folder = tmp_path / "trial_0000"
        lock = trial.hold_trial(folder)
        (folder / "params.json").write_text("{}")
        runs.append(trial.TrialRun(folder, lock, data_dir=str(data_dir), cores=None))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_trial_that_fails_is_told_by_its_last_line(run_of, tmp_path):
    run = run_of(tmp_path / "nowhere")
    wait_until(run.is_over)
    assert run.failure() == (
        f"exit code 1: error: {tmp_path}/nowhere is not a built dataset (no dataset.json). "
        f"Run: python build_dataset.py --data_dir RELEASE --output_dir {tmp_path}/nowhere"
    )


def test_a_trial_that_is_killed_is_told_by_its_signal(run_of, built_dataset):
    run = run_of(built_dataset)
    assert not run.is_over()
    run.process.kill()
    wait_until(run.is_over)
    assert run.failure() == "ended by SIGKILL"


def test_a_trial_ends_when_it_is_asked_to(run_of, built_dataset):
    run = run_of(built_dataset)
    run.stop()
    assert run.failure() == "ended by SIGTERM"


def test_a_folder_is_held_until_the_search_and_its_train_py_have_ended(run_of, built_dataset):
    run = run_of(built_dataset)
    os.close(os.dup(run.lock))  # closing a copy lets nothing go
    assert trial.hold_trial(run.folder) is None
    mine, run.lock = run.lock, os.open(os.devnull, os.O_RDONLY)
    os.close(mine)  # as if the search had been killed
    assert trial.hold_trial(run.folder) is None
    run.stop()
    os.close(trial.hold_trial(run.folder))


def test_a_trial_waits_for_the_features_that_another_process_extracts(run_of, tmp_path, monkeypatch):
    with storage.exclusive(tmp_path, "extracting features into"), pytest.raises(ValueError, match="another") as caught:
        storage.exclusive(tmp_path, "extracting features into").__enter__()
    run = run_of(tmp_path / "nowhere")
    first = run.process
    assert first.wait(60) == 1
    (run.folder / trial.STDERR).write_text(f"error: {caught.value}\n")
    monkeypatch.setattr(trial, "BUSY_WAIT", 0.2)
    assert not run.is_over()  # though its process has ended
    assert run.waits_until > time.monotonic()
    wait_until(lambda: not run.is_over() and run.process is not first)
    wait_until(run.is_over)  # the second one fails for another reason
    assert run.failure().startswith("exit code 1: error: ")


def test_only_one_process_claims_at_a_time(tmp_path):
    code = f"import pathlib; from cxr import trial\nwith trial.one_at_a_time(pathlib.Path({str(tmp_path)!r})): print(1)"
    with trial.one_at_a_time(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1.5)
    assert other.communicate(timeout=60) == (b"1\n", None)


@pytest.mark.parametrize(
    ("cores", "jobs", "shares"),
    [
        ({0, 1}, 1, [None]),
        ({0, 1}, 2, [{0}, {1}]),
        ({2, 3, 5, 7}, 2, [{2, 3}, {5, 7}]),
        ({0, 1, 2}, 2, [{0}, {1, 2}]),
        ({0, 1}, 4, [{0}, {1}, {0}, {1}]),  # more jobs than cores
    ],
)
def test_jobs_share_the_cores(monkeypatch, cores, jobs, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    assert [trial.share_of_cores(slot, jobs) for slot in range(jobs)] == shares


def test_a_process_stays_on_its_cores():
    before = os.sched_getaffinity(0)
    with trial.confined_to({max(before)}):
        code = "import os; print(os.sched_getaffinity(0))"
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (seen, os.sched_getaffinity(0)) == (f"{ {max(before)} }\n", before)


def test_epochs_are_read_as_far_as_they_are_defined(tmp_path):
    assert trial.read_epochs(tmp_path) == {}
    (tmp_path / "history.csv").write_text("epoch,seconds,val_mean_auroc\n1,2.5,0.625\n2,2.5,\n3,2.5,0.75\n")
    assert trial.read_epochs(tmp_path) == {1: 0.625, 3: 0.75}


@pytest.mark.parametrize(
    ("text", "line"), [("", ""), ("\n \n", ""), ("noise\nerror: no\n\n", "error: no"), ("half", "half")]
)
def test_the_last_line_that_says_something(tmp_path, text, line):
    (tmp_path / "stderr.log").write_text(text)
    assert trial.last_line(tmp_path / "stderr.log") == line
