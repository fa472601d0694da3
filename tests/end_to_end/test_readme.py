"""The README says what is so: its parameter table, its commands, and its first command run."""

import importlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from cxr.params import FineTune, Params, parameter_table

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"python (?:-m \w+\.\w+|\w+\.py)[^`\n|]*", README)))


@pytest.mark.parametrize(("kind", "name"), [(Params, "parameters"), (FineTune, "fine-tuning parameters")])
def test_the_parameter_tables_are_those_that_params_py_makes(kind, name):
    between = rf"<!-- {name}: made by cxr\.params\.parameter_table -->\n(.*?)\n<!-- end of {name} -->"
    assert re.findall(between, README, re.DOTALL) == [parameter_table(kind)]


def test_the_readme_names_every_command_of_the_project():
    scripts = {path.name for path in ROOT.glob("*.py") if "argparse" in path.read_text()}
    tools = {f"tools.{path.stem}" for path in (ROOT / "tools").glob("*.py") if "argparse" in path.read_text()}
    named = {next(word for word in command.split()[1:] if word != "-m") for command in COMMANDS}
    assert scripts | tools <= named


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_the_readme_has_flags_that_exist(command):
    words = shlex.split(command)[1:]
    module, flags = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
    importlib.import_module(module).parse_args(flags)


def test_the_quickstart_makes_a_table_from_nothing(tmp_path):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    # The environment that runs this test stands in for .venv: it was installed from the same requirements.
    command = ["make", "demo", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/installed"]
    environment = {**os.environ, "PYTHONPATH": ""}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert re.search(r"^Atelectasis +\d+ +0\.\d{3}  \[0\.\d{3}, [01]\.\d{3}\]", ended.stdout, re.MULTILINE)
    assert "NOT COMPARABLE" in ended.stdout  # drawn images beside Wang et al.
    assert "tensorboard --logdir experiments" in ended.stdout
