import contextlib
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

import evaluate
import search_hyperparams
from cxr import trial
from cxr.study import ERROR

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"image_size": 32, "num_channels": 4, "num_blocks": 2, "num_epochs": 6, "early_stopping_patience": 6}
REASON = "exit code 1: error: 33 training images are less than one batch of 34; build a larger dataset, or lower "
REASON += "batch_size in params.json"


def make_search(folder: Path, space: dict, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(SMALL | changes))
    (folder / "search.json").write_text(json.dumps(space))
    return folder


@pytest.fixture(autouse=True)
def same_signals():
    """`main` takes SIGTERM for Ctrl-C; not the tests after it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def search(folder: Path, data_dir: Path, *flags: object) -> None:
    search_hyperparams.main(["--parent_dir", str(folder), "--data_dir", str(data_dir), *map(str, flags)])


def start(folder: Path, data_dir: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "search_hyperparams.py", "--parent_dir", str(folder), "--data_dir", str(data_dir)]
    return subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def searched(built_dataset, tmp_path_factory) -> tuple[Path, list[str]]:
    """A grid of three, the second of which fails: begun by a search that is killed, ended by two at once.

    Returns its folder and what the two printed. Read it, do not change it.
    """
    folder = make_search(tmp_path_factory.mktemp("grid") / "batches", {"batch_size": [8, 34, 16]})
    deadline = time.monotonic() + 240
    with start(folder, built_dataset) as killed:
        while not (folder / "trial_0000/resume/state.npz").exists():
            assert killed.poll() is None, killed.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        killed.kill()  # its train.py lives on, and is waited for
    both = [start(folder, built_dataset), start(folder, built_dataset, "--jobs", "2")]
    told = [process.communicate(timeout=240) for process in both]
    assert [(process.returncode, errors) for process, (_, errors) in zip(both, told, strict=True)] == [(0, "")] * 2
    return folder, [output for output, _ in told]


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")
    return study.get_trials(deepcopy=False)


def val_of(model_dir: Path) -> float:
    return json.loads((model_dir / "metrics_val_best.json").read_text())["mean_auroc"]["value"]


def test_two_processes_on_a_study_try_everything_once(searched):
    folder, outputs = searched
    found = trials_of(folder)
    assert [(f.params["batch_size"], f.state.name) for f in found] == [(8, "COMPLETE"), (34, "FAIL"), (16, "COMPLETE")]
    for number in (0, 2):
        assert found[number].value == val_of(trial.folder_of(folder, number))
        assert list(found[number].intermediate_values) == [1, 2, 3, 4, 5, 6]
    begun = re.findall(r"trial_(\d{4})   batch_size (\d+)$", "".join(outputs), re.MULTILINE)
    assert sorted(begun) == [("0000", "8"), ("0001", "34"), ("0002", "16")]


def test_a_trial_that_ran_when_its_search_was_killed_is_resumed(searched):
    folder = searched[0] / "trial_0000"
    log = (folder / "train.log").read_text()
    assert log.count("simple_cnn @ ") == 2
    assert re.findall(r"^epoch +(\d)/6", log, re.MULTILINE) == ["1", "2", "3", "4", "5", "6"]  # none of them twice
    assert not (folder / "old").exists()


def test_every_trial_has_its_full_params_json(searched):
    for number, batch_size in enumerate((8, 34, 16)):
        written = json.loads((trial.folder_of(searched[0], number) / "params.json").read_text())
        assert written == SMALL | {"batch_size": batch_size}


def test_a_failed_trial_is_recorded_with_its_last_line_and_skipped(searched):
    folder, outputs = searched
    assert trials_of(folder)[1].user_attrs == {ERROR: REASON}
    for output in outputs:
        assert f"\ntrial_0001 failed: {REASON}\n" in output


def test_the_best_trial_is_printed_with_the_command_to_evaluate_it(searched, built_dataset):
    folder, outputs = searched
    best = max((trial.folder_of(folder, number) for number in (0, 2)), key=val_of)
    other = trial.folder_of(folder, 2 if best.name.endswith("0") else 0)
    sizes = {"trial_0000": 8, "trial_0002": 16}
    for output in outputs:
        table, tail = output[output.index("trial   ") :].split("\n\n")
        assert [line.split() for line in table.splitlines()] == [
            ["trial", "state", "val", "mean", "AUROC", "batch_size"],
            [best.name, "complete", f"{val_of(best):.4f}", str(sizes[best.name])],
            [other.name, "complete", f"{val_of(other):.4f}", str(sizes[other.name])],
            ["trial_0001", "fail", "34"],
        ]
        _, line, command = tail.splitlines()
        assert line == f"best: {best}, val mean AUROC {val_of(best):.4f}"
        assert command == f"next: python evaluate.py --model_dir {best} --data_dir {built_dataset} --split test"
        assert evaluate.parse_args(shlex.split(command)[3:]).model_dir == best


def test_a_finished_search_only_prints_its_results(searched, built_dataset, capsys):
    folder, outputs = searched
    search(folder, built_dataset)
    output = capsys.readouterr().out
    assert output == outputs[0][outputs[0].index("\ntrial   ") :]
    assert len(trials_of(folder)) == 3


def training_process(folder: Path) -> int:
    """Process id of the train.py of a trial that has ended its first epoch."""
    deadline = time.monotonic() + 120
    while not (folder / "resume/state.npz").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if str(folder) in words:
                return int(process.name)
    raise AssertionError(f"no train.py for {folder}")


def test_two_machines_share_a_database_and_a_killed_trial_is_recorded_and_skipped(built_dataset, tmp_path, capsys):
    shared = "--storage", f"sqlite:///{tmp_path}/shared.db"
    folders = []
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
        folders.append(make_search(tmp_path / machine / "search", {"batch_size": [8, 16, 4]}))
    both = [start(folder, built_dataset, *shared) for folder in folders]
    deadline = time.monotonic() + 120
    while not (first := list(tmp_path.glob("*/search/trial_0000"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(training_process(first[0]), signal.SIGKILL)
    told = [process.communicate(timeout=240) for process in both]
    assert [(process.returncode, errors) for process, (_, errors) in zip(both, told, strict=True)] == [(0, "")] * 2
    found = optuna.load_study(study_name="search", storage=shared[1]).get_trials(deepcopy=False)
    assert [(f.params["batch_size"], f.state.name) for f in found] == [(8, "FAIL"), (16, "COMPLETE"), (4, "COMPLETE")]
    assert found[0].user_attrs[ERROR].startswith("ended by SIGKILL")
    homes = {path.name: path.parent for path in tmp_path.glob("*/search/trial_*")}
    assert sorted(homes) == ["trial_0000", "trial_0001", "trial_0002"]
    best = max(found[1:], key=lambda trial: trial.value).number
    for folder in folders:
        capsys.readouterr()
        search(folder, built_dataset, *shared)
        elsewhere = "its folder is on another machine of this study; run the next line there"
        assert (elsewhere in capsys.readouterr().out) == (homes[f"trial_{best:04d}"] != folder)


@pytest.mark.parametrize("name", ["params.json", "search.json"])
def test_a_search_that_was_changed_since_is_refused(searched, built_dataset, name):
    path = searched[0] / name
    before = path.read_text()
    changed = {"params.json": SMALL | {"dropout": 0.5}, "search.json": {"batch_size": [8, 34, 16, 4]}}[name]
    try:
        path.write_text(json.dumps(changed))
        with pytest.raises(SystemExit, match=f"^error: {name} is not what the study in .*/batches began with, so its"):
            search(searched[0], built_dataset)
    finally:
        path.write_text(before)


def test_the_order_of_parameters_counts_as_it_numbers_the_combinations():
    first, other = {"batch_size": [8, 16], "dropout": [0, 0.5]}, {"dropout": [0, 0.5], "batch_size": [8, 16]}
    digest = search_hyperparams.digest
    assert digest(first, in_order=True) != digest(other, in_order=True)
    assert digest(first) == digest(other)  # params.json has no order


def test_other_spaces_in_search_json_are_no_change(searched, built_dataset):
    path = searched[0] / "search.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    search(searched[0], built_dataset)


def test_another_dataset_is_refused(searched, build, tiny_release, tmp_path):
    build(tiny_release(patients=10, images_each=1), tmp_path / "other")
    with pytest.raises(SystemExit, match=r"^error: --data_dir is not what the study in .*/batches began with"):
        search(searched[0], tmp_path / "other")


def test_a_hopeless_trial_is_ended_while_it_trains(built_dataset, tmp_path, capsys):
    folder = make_search(tmp_path / "ranges", {"learning_rate": {"low": 1e-7, "high": 1e-6, "log": True}},
                         num_epochs=100_000, early_stopping_patience=100_000)  # fmt: skip
    args = search_hyperparams.parse_args(["--parent_dir", str(folder), "--data_dir", str(built_dataset)])
    study = search_hyperparams.open_search(args).study._study
    for _ in range(5):
        study.add_trial(optuna.create_trial(value=0.99, intermediate_values=dict.fromkeys(range(1, 100), 0.99)))
    search(folder, built_dataset, "--trials", 6)
    found = trials_of(folder)[5]
    assert found.state.name == "PRUNED"
    epoch = max(found.intermediate_values)
    assert 2 <= epoch < 99
    assert f"{folder}/trial_0005   pruned after epoch {epoch}\n" in capsys.readouterr().out
    assert 1e-7 <= json.loads((folder / "trial_0005/params.json").read_text())["learning_rate"] <= 1e-6


def test_a_search_without_one_good_trial(built_dataset, tmp_path, capsys):
    folder = make_search(tmp_path / "bad", {"batch_size": [34]})
    text = r"^error: none of 1 trials came to a value; see stderr\.log and train\.log in their folders$"
    with pytest.raises(SystemExit, match=text):
        search(folder, built_dataset)
    assert f"\ntrial_0000 failed: {REASON}\n" in capsys.readouterr().out


def test_without_params_json(tmp_path, built_dataset):
    with pytest.raises(SystemExit, match=r"^error: no .*/params\.json; an experiment is a folder with a params\.json"):
        search(tmp_path, built_dataset)


def test_values_that_params_refuses_are_told_before_a_trial_starts(tmp_path, built_dataset):
    folder = make_search(tmp_path / "wrong", {"dropout": [0, 7]})
    with pytest.raises(SystemExit, match=r"search\.json with dropout 7 over params\.json: dropout is 7; expected 0 to"):
        search(folder, built_dataset)
    assert {path.name for path in folder.iterdir()} == {"params.json", "search.json"}


@pytest.mark.parametrize("flag", ["--jobs", "--trials"])
def test_numbers_of_nothing(capsys, flag):
    with pytest.raises(SystemExit) as caught:
        search_hyperparams.parse_args(["--parent_dir", "x", flag, "0"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {flag} 0: expected at least 1\n")


def test_the_search_of_experiments_can_be_searched():
    from cxr import search_space, storage

    folder = ROOT / "experiments/learning_rate"
    space = search_space.read_space(folder, storage.read_json(folder / "params.json"))
    assert [values["learning_rate"] for values in search_space.combinations(space)] == [1e-4, 5e-4, 2e-3, 1e-2]
