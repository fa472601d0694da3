import ast
import importlib
from pathlib import Path

import pytest

import build_dataset
import train

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"tensorflow", "keras", "pandas", "PIL", "cv2", "sklearn", "scipy", "matplotlib", "ray", "torch"}
HEAVY |= {"optuna", "fastapi", "uvicorn"}
SOURCES = {path.name: path for path in ROOT.glob("*.py")} | {
    f"-m tools.{path.stem}": path for path in (ROOT / "tools").glob("*.py")
}
COMMANDS = sorted(
    command
    for command, path in SOURCES.items()
    if "import argparse" in (text := path.read_text()) and "def main(" in text
)
MISTAKES = {  # command: (flags, what it says); {here} is a folder that holds an untrained experiment and a release
    "build_dataset.py": (
        "--data_dir {here}/nowhere --output_dir {here}/records",
        "error: no folder {here}/nowhere; expected an NIH release: Data_Entry CSV, lists and images",
    ),
    "train.py": (
        "--model_dir {here}/experiment --data_dir {here}/records",
        "error: {here}/records is not a built dataset (no dataset.json). "
        "Run: python build_dataset.py --data_dir RELEASE --output_dir {here}/records",
    ),
    "evaluate.py": (
        "--model_dir {here}/experiment --data_dir {here}/records",
        "error: {here}/experiment has not been trained. Run: python train.py --model_dir {here}/experiment",
    ),
    "search_hyperparams.py": (
        "--parent_dir {here}/experiment --data_dir {here}/records",
        "error: no {here}/experiment/search.json; it says what to search, for example "
        '{{"learning_rate": [1e-4, 1e-3]}} or {{"learning_rate": {{"low": 1e-5, "high": 1e-2, "log": true}}}}',
    ),
    "synthesize_results.py": (
        "--parent_dir {here}",
        "error: no metrics of val or test with the best weights below {here}. "
        "Run: python train.py --model_dir EXPERIMENT, then python evaluate.py --model_dir EXPERIMENT",
    ),
    "-m tools.download": (
        "--output_dir {here}/nih --links {here}/nowhere.csv",
        "error: no list of links {here}/nowhere.csv; expected a CSV with the columns name,bytes,checksum,url",
    ),
    "-m tools.localize": (
        "--model_dir {here}/experiment --data_dir {here}/release",
        "error: {here}/experiment has not been trained. Run: python train.py --model_dir {here}/experiment",
    ),
    "-m tools.show_augmentation": (
        "--model_dir {here}/experiment --data_dir {here}/release",
        "error: no {here}/release/BBox_List_2017.csv; "
        "download it from the same place as the images, or correct --data_dir",
    ),
    "-m tools.measure_distances": (
        "--model_dir {here}/experiment --data_dir {here}/records",
        "error: {here}/experiment has not been trained. Run: python train.py --model_dir {here}/experiment",
    ),
    "-m tools.report": (
        "--model_dir {here}/experiment",
        "error: {here}/experiment has not been trained. Run: python train.py --model_dir {here}/experiment",
    ),
    "predict.py": (
        "--model_dir {here}/experiment {here}/release/Data_Entry_2017.csv",
        "error: {here}/experiment has not been trained. Run: python train.py --model_dir {here}/experiment",
    ),
    "-m tools.export": (
        "--model_dir {here}/experiment --output_dir {here}/exported",
        "error: {here}/experiment has not been trained. Run: python train.py --model_dir {here}/experiment",
    ),
    "-m tools.serve": (
        "--model_dir {here}/experiment",
        "error: {here}/experiment has not been trained. Run: python train.py --model_dir {here}/experiment",
    ),
    "-m tools.make_sample": (
        "--output_dir {here}/release",
        "error: {here}/release already holds a release (Data_Entry_2017.csv); "
        "use it as it is, delete the folder, or give another --output_dir",
    ),
}
every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def here(tmp_path):
    for name in ("experiment/params.json", "release/Data_Entry_2017.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_the_commands_are_found():
    assert {"build_dataset.py", "train.py", "evaluate.py", "-m tools.make_sample"} <= set(COMMANDS)


@every_command
def test_help_says_what_it_does_and_how_without_heavy_imports(cli, command):
    done = cli("-X", "importtime", *command.split(), "--help")
    assert done.returncode == 0
    usage, what, how, *_ = done.stdout.split("\n\n")
    assert usage.startswith("usage: ")
    assert what == ast.get_docstring(ast.parse(SOURCES[command].read_text())).splitlines()[0]
    assert how.startswith(f"    python {command} --")
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in loaded  # the list of imports is there
    assert not loaded & HEAVY


@every_command
def test_a_bad_flag_exits_with_2(capsys, command):
    module = importlib.import_module(command.removeprefix("-m ").removesuffix(".py"))
    with pytest.raises(SystemExit) as caught:
        module.main(["--no_such_flag"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ")


@every_command
def test_the_commonest_mistake_ends_in_one_line(cli, here, command):
    assert command in MISTAKES, f"add the commonest mistake of {command}"
    flags, text = MISTAKES[command]
    done = cli(*command.split(), *flags.format(here=here).split())
    assert (done.returncode, done.stderr) == (1, text.format(here=here) + "\n")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--image_size 0", "--image_size 0: expected 32 to 4096 pixels"),
        ("--shard_size 0", "--shard_size 0: expected at least 1"),
        ("--patients 0", "--patients 0: expected at least 1"),
        ("--ratios 0.7 0.1 0.1", "--ratios 0.7 0.1 0.1: expected shares that sum to 1, the first above 0"),
        ("--ratios 0 0.5 0.5", "--ratios 0.0 0.5 0.5: expected shares that sum to 1, the first above 0"),
        ("--max_rejected 2", "--max_rejected 2.0: expected a share from 0 to 1"),
    ],
)
def test_impossible_values_of_build_dataset_exit_with_2(capsys, flags, text):
    with pytest.raises(SystemExit) as caught:
        build_dataset.parse_args(["--data_dir", "release", *flags.split()])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {text}")


def test_resume_and_restart_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as caught:
        train.parse_args(["--model_dir", "experiment", "--resume", "--restart"])
    assert caught.value.code == 2
    assert "--restart: not allowed with argument --resume" in capsys.readouterr().err


def test_a_model_dir_without_params_json(here):
    with pytest.raises(SystemExit) as caught:
        train.main(["--model_dir", str(here / "release"), "--data_dir", str(here)])
    assert str(caught.value) == (
        f"error: no {here}/release/params.json; an experiment is a folder with a params.json, "
        "which may be empty: {}. Copy one from experiments/simple_cnn."
    )
