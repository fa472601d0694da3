"""Searches as processes: killed, in parallel, and one with the real train.py."""

import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from support.search_processes import kill_without_locks, training_process
from support.stub_search import TRAINER

import evaluate
import search_hyperparams
from searching.search import ERROR, open_search

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"warmup_epochs": 0, "num_epochs": 3}  # the stub reads warmup_epochs as seconds per epoch
UNLUCKY = "exit code 1: error: batch_size 13 is unlucky"


def make_search(folder: Path, space: dict, params: dict = QUICK, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params | changes))
    (folder / "search.json").write_text(json.dumps(space))
    return folder


@pytest.fixture(autouse=True)
def stub_environment(monkeypatch):
    """The stub trainer can import the project; its trials are short."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("searching.search.POLL", 0.05)


def search(folder: Path, data_dir: Path, *flags: object) -> None:
    """Search with the stub trainer, in this process."""
    search_hyperparams.main(["--parent_dir", str(folder), "--data_dir", str(data_dir), *map(str, flags)], TRAINER)


def start(folder: Path, data_dir: Path, *flags: str, script: str = "tests/support/stub_search.py") -> subprocess.Popen:
    command = [sys.executable, script, "--parent_dir", str(folder), "--data_dir", str(data_dir), *flags]
    # A job in the background of a shell ignores Ctrl-C, and so would everything that it starts.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, preexec_fn=heed, **pipes)


def wait_until(condition, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def end(*processes: subprocess.Popen) -> list[str]:
    """The output of processes, which must end without an error."""
    ended = [(*process.communicate(timeout=240), process.returncode) for process in processes]
    assert [(errors, code) for _, errors, code in ended] == [("", 0)] * len(processes)
    return [output for output, _, _ in ended]


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "search.journal"))
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend)).get_trials()


@pytest.fixture(scope="module")
def searched(built_dataset, tmp_path_factory) -> tuple[Path, list[str]]:
    """A grid of six trials, three of which fail: begun by a search that is killed, finished by two in parallel.

    Returns its folder and the output of the two. Read it, do not change it.
    """
    space = {"batch_size": [8, 13], "dropout": [0.25, 0.5, 0.75]}
    folder = make_search(tmp_path_factory.mktemp("grid") / "search", space, num_epochs=4, warmup_epochs=0.25)
    with start(folder, built_dataset) as killed:
        wait_until(lambda: list(folder.glob("trial_*/history.csv")))
        kill_without_locks(killed, folder)  # its training process continues, and the others wait for it
    return folder, end(start(folder, built_dataset), start(folder, built_dataset, "--jobs", "2"))


def test_two_searches_on_a_folder_try_every_combination_once(searched):
    folder, outputs = searched
    found = trials_of(folder)
    pairs = sorted((trial.params["batch_size"], trial.params["dropout"], trial.state.name) for trial in found)
    assert pairs == [
        *((8, dropout, "COMPLETE") for dropout in (0.25, 0.5, 0.75)),
        *((13, dropout, "FAIL") for dropout in (0.25, 0.5, 0.75)),
    ]
    for trial in found:
        expected = trial.params["dropout"] if trial.params["batch_size"] == 8 else None
        assert trial.value == expected
        assert list(trial.intermediate_values) == ([1, 2, 3, 4] if expected else [])
        written = json.loads((folder / f"trial_{trial.number:04d}/params.json").read_text())
        assert written == {"num_epochs": 4, "warmup_epochs": 0.25} | trial.params
    assert len(re.findall(r"   batch_size 8, dropout 0\.\d+$", "".join(outputs), re.MULTILINE)) in (2, 3)


def test_the_trial_of_a_killed_search_is_not_trained_twice(searched):
    logs = [
        (folder / "train.log").read_text() for folder in searched[0].glob("trial_*") if (folder / "train.log").exists()
    ]
    assert len(logs) == 3  # trials with batch_size 13 end before they write a log
    epochs = [line.rpartition(" ")[2] for log in logs for line in log.splitlines() if line.startswith("resumed")]
    assert epochs in ([], ["4"])  # its training process had finished before it was claimed again


def test_failed_trials_are_recorded_with_the_last_line_of_their_error(searched):
    folder, outputs = searched
    failed = [trial for trial in trials_of(folder) if trial.state.name == "FAIL"]
    assert [trial.user_attrs for trial in failed] == [{ERROR: UNLUCKY}] * 3
    for output in outputs:
        assert [f"\ntrial_{trial.number:04d} failed: {UNLUCKY}\n" in output for trial in failed] == [True] * 3


def test_the_best_trial_is_printed_with_the_command_to_evaluate_it(searched, built_dataset):
    folder, outputs = searched
    best = next(folder / f"trial_{trial.number:04d}" for trial in trials_of(folder) if trial.value == 0.75)
    for output in outputs:
        table, tail = output[output.index("trial   ") :].split("\n\n")
        rows = [line.split() for line in table.splitlines()]
        assert rows[0] == ["trial", "state", "val", "mean", "AUROC", "batch_size", "dropout"]
        assert rows[1] == [best.name, "complete", "0.7500", "8", "0.75"]
        assert [row[1:] for row in rows[2:4]] == [
            ["complete", "0.5000", "8", "0.5"],
            ["complete", "0.2500", "8", "0.25"],
        ]
        assert sorted(row[1:] for row in rows[4:]) == [["fail", "13", value] for value in ("0.25", "0.5", "0.75")]
        *_, line, command = tail.splitlines()
        assert line == f"best: {best}, val mean AUROC 0.7500"
        assert command == f"next: python evaluate.py --model_dir {best} --data_dir {built_dataset} --split test"
        assert evaluate.parse_args(shlex.split(command)[3:]).model_dir == best


def test_a_finished_search_only_prints_its_results(searched, built_dataset, capsys):
    folder, outputs = searched
    search(folder, built_dataset)
    assert capsys.readouterr().out == outputs[0][outputs[0].index("\ntrial   ") :]
    assert len(trials_of(folder)) == 6


def test_a_killed_trial_is_recorded_and_the_search_continues(built_dataset, tmp_path):
    folder = make_search(tmp_path / "search", {"dropout": [0.25, 0.5]}, warmup_epochs=0.5)
    running = start(folder, built_dataset)
    wait_until((folder / "trial_0000/history.csv").exists)
    os.kill(training_process(folder / "trial_0000"), signal.SIGKILL)
    end(running)
    first, second = trials_of(folder)
    assert (first.state.name, first.user_attrs) == ("FAIL", {ERROR: "ended by SIGKILL"})
    assert second.state.name == "COMPLETE"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_search_ends_its_trials_and_the_same_command_resumes_them(built_dataset, tmp_path, sent):
    folder = make_search(tmp_path / "search", {"dropout": [0.25, 0.5]}, warmup_epochs=1)
    running = start(folder, built_dataset, "--jobs", "2")
    wait_until(lambda: len(list(folder.glob("trial_*/history.csv"))) == 2)
    running.send_signal(sent)
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors.splitlines()[-1][:11]) == (1, "interrupted")
    assert [training_process(folder / f"trial_000{number}") for number in (0, 1)] == [None, None]
    end(start(folder, built_dataset, "--jobs", "2"))
    assert [trial.state.name for trial in trials_of(folder)] == ["COMPLETE", "COMPLETE"]
    for number in (0, 1):
        first, second = (folder / f"trial_000{number}/train.log").read_text().splitlines()
        assert (first, second[:7]) == ("started after epoch 0", "resumed")


def test_a_trial_below_the_median_is_pruned_while_it_trains(built_dataset, tmp_path, capsys):
    params = QUICK | {"num_epochs": 100_000, "warmup_epochs": 0.1}
    folder = make_search(tmp_path / "ranges", {"dropout": {"low": 0.1, "high": 0.2}}, params)
    study = open_search(folder, built_dataset).study
    for _ in range(5):
        study.add_trial(optuna.create_trial(value=0.99, intermediate_values=dict.fromkeys(range(1, 1000), 0.99)))
    search(folder, built_dataset, "--trials", 6)
    found = trials_of(folder)[5]
    epoch = max(found.intermediate_values)
    assert found.state.name == "PRUNED"
    assert 2 <= epoch < 999
    assert f"{folder}/trial_0005   pruned after epoch {epoch}\n" in capsys.readouterr().out
    assert training_process(folder / "trial_0005") is None


def test_a_trial_with_a_leak_is_not_ranked(built_dataset, tmp_path, capsys):
    params = QUICK | {"dropout": 0.9}
    folder = make_search(tmp_path / "leaks", {"mixup": [0, 7], "dropout": [0.5]}, params)
    search(folder, built_dataset)
    output = capsys.readouterr().out
    states = {trial.params["mixup"]: trial.state.name for trial in trials_of(folder)}
    assert states == {0: "COMPLETE", 7: "FAIL"}
    assert " failed: val leaks: the weights have seen 7 of its patients, so the score is not ranked\n" in output


def test_with_groups_trials_are_compared_by_the_auroc_within_them(built_dataset, tmp_path, capsys):
    folder = make_search(tmp_path / "groups", {"ema_decay": [0.5, 0.75]}, dropout=0.9)  # dropout: the pooled AUROC
    search(folder, built_dataset)
    values = {trial.value: set(trial.intermediate_values.values()) for trial in trials_of(folder)}
    assert values == {0.5: {0.5}, 0.75: {0.75}}
    output = capsys.readouterr().out
    assert re.search(r"^trial +state +val mean AUROC within groups +ema_decay$", output, re.MULTILINE)
    assert re.search(r"^best: .*, val mean AUROC within groups 0\.7500$", output, re.MULTILINE)
    assert output.count("   val mean AUROC within groups 0.") == 2  # as they end


def test_each_job_has_its_own_gpu_and_cores(built_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("searching.slots.visible_gpus", lambda: ["0", "1"])
    folder = make_search(tmp_path / "search", {"dropout": [0.25, 0.5]}, warmup_epochs=0.3)
    search(folder, built_dataset, "--jobs", 2)
    seen = [json.loads(path.read_text()) for path in sorted(folder.glob("trial_*/seen.json"))]
    assert [found["CUDA_VISIBLE_DEVICES"] for found in seen] == ["0", "1"]
    assert [found["TF_FORCE_GPU_ALLOW_GROWTH"] for found in seen] == ["true", "true"]
    if len(os.sched_getaffinity(0)) > 1:
        assert not set(seen[0]["cores"]) & set(seen[1]["cores"])


@pytest.mark.parametrize("name", ["params.json", "search.json"])
def test_a_changed_search_is_rejected(searched, built_dataset, name):
    path = searched[0] / name
    before = path.read_text()
    try:
        path.write_text(before.replace("4", "5") if name == "params.json" else before.replace("0.75", "0.8"))
        with pytest.raises(SystemExit, match=f"^error: {name} has changed since the search in .*/search began, so its"):
            search(searched[0], built_dataset)
        path.write_text(json.dumps(json.loads(before), indent=3))
        search(searched[0], built_dataset)  # white space is not a change
    finally:
        path.write_text(before)


def test_another_dataset_is_rejected(searched, build, tiny_release, tmp_path):
    build(tiny_release(patients=10, images_each=1), tmp_path / "other")
    with pytest.raises(SystemExit, match=r"^error: --data_dir has changed since the search in .*/search began"):
        search(searched[0], tmp_path / "other")


def test_a_search_without_a_complete_trial(built_dataset, tmp_path, capsys):
    folder = make_search(tmp_path / "bad", {"batch_size": [13]})
    text = r"^error: none of 1 trials has a score; see stderr\.log and train\.log in their folders$"
    with pytest.raises(SystemExit, match=text):
        search(folder, built_dataset)
    assert f"\ntrial_0000 failed: {UNLUCKY}\n" in capsys.readouterr().out


def test_without_params_json(tmp_path, built_dataset):
    with pytest.raises(SystemExit, match=r"^error: no .*/params\.json; an experiment is a folder with a params\.json"):
        search(tmp_path, built_dataset)


def test_values_that_params_rejects_are_reported_before_a_trial_starts(tmp_path, built_dataset):
    folder = make_search(tmp_path / "wrong", {"dropout": [0, 7]})
    with pytest.raises(SystemExit, match=r"search\.json with dropout 7 over params\.json: dropout is 7; expected 0 to"):
        search(folder, built_dataset)
    assert {path.name for path in folder.iterdir()} == {"params.json", "search.json"}


@pytest.mark.parametrize("flag", ["--jobs", "--trials"])
def test_numbers_below_one(capsys, flag):
    with pytest.raises(SystemExit) as caught:
        search_hyperparams.parse_args(["--parent_dir", "x", flag, "0"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {flag} 0: expected at least 1\n")


def test_a_search_with_the_real_train_py_is_killed_and_resumed(built_dataset, tmp_path):
    params = {"image_size": 32, "num_channels": 4, "num_blocks": 1, "num_epochs": 4}
    folder, script = make_search(tmp_path / "real", {"batch_size": [8]}, params), "search_hyperparams.py"
    trial = folder / "trial_0000"
    with start(folder, built_dataset, script=script) as killed:
        wait_until((trial / "resume/state.npz").exists)
        kill_without_locks(killed, folder)
        os.kill(training_process(trial), signal.SIGKILL)
    ([output], [found]) = end(start(folder, built_dataset, script=script)), trials_of(folder)
    assert list(found.intermediate_values) == [1, 2, 3, 4]
    assert found.value == json.loads((trial / "metrics_val_best.json").read_text())["mean_auroc"]["value"]
    assert f"best: {trial}, val mean AUROC {found.value:.4f}" in output
    log = (trial / "train.log").read_text()
    epochs = [int(epoch) for epoch in re.findall(r"^epoch +(\d)/4", log, re.MULTILINE)]
    assert log.count("simple_cnn @ ") == 2
    assert (epochs, epochs[-1]) == (sorted(set(epochs)), 4)  # none twice; a kill may leave out one line
