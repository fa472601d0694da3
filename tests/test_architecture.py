"""The house stays as it was planned: who imports whom, what loads TensorFlow, how long things are."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxr.params import FineTune, Params

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"cxr"},
    {"input_fn", "model_fn"},
    {"assemble"},
    {"evaluate", "predictor"},
    {"board"},
    {"fit"},
    {"build_dataset", "train", "predict"},
    {"searching"},
    {"search_hyperparams", "synthesize_results", "tools", "bench"},
]
LAYER_OF = {name: level for level, names in enumerate(LAYERS) for name in names}
WINGS = {"data", "networks", "evaluation"}
LOADS_TENSORFLOW = {
    "cxr/data/records.py",
    "cxr/history.py",  # TensorBoard
    *(f"cxr/networks/{name}.py" for name in ("features", "extractors", "augment", "losses", "cam", "optimizers")),
    *(f"cxr/networks/{name}.py" for name in ("hub", "normalize", "precision", "averaging", "patient", "batch_norm")),
    *(f"cxr/networks/{name}.py" for name in ("applications", "cutting", "devices")),
}
# Keras layers: TensorFlow at their top, so nobody imports them at theirs.
ONLY_LAZILY = {"cxr/networks/hub.py", "cxr/networks/batch_norm.py"}
SOURCES = sorted(
    [path for path in ROOT.glob("*.py") if not path.name.startswith("conftest")]
    + [path for folder in ("cxr", "searching", "tools", "bench") for path in (ROOT / folder).rglob("*.py")]
)
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in SOURCES}
TESTS = {f"tests/{path.name}": ast.parse(path.read_text()) for path in (ROOT / "tests").glob("*.py")}
every_source = pytest.mark.parametrize("name", TREES)


def imported(name: str) -> set[str]:
    """Dotted names of everything a file imports, anywhere in it; `from a import b` gives a.b."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: absolute imports only"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@every_source
def test_imports_point_down(name):
    own = name.split("/")[0].removesuffix(".py")
    assert own in LAYER_OF, f"{name} has no place in the house"
    for other in {module.split(".")[0] for module in imported(name)} & LAYER_OF.keys() - {own}:
        assert LAYER_OF[other] < LAYER_OF[own], f"{name} must not import {other}"


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("cxr/")])
def test_a_wing_stands_on_what_lies_directly_in_cxr(name):
    own = {name.split("/")[1]} | ({"data"} if name == "cxr/networks/features.py" else set())
    parts = [module.split(".") for module in imported(name) if module.startswith("cxr.")]
    assert {part[1] for part in parts} & WINGS <= own


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("cxr/")])
def test_cxr_has_no_command_line_and_only_named_modules_touch_tensorflow(name):
    roots = {module.split(".")[0] for module in imported(name)}
    assert "argparse" not in roots
    calls = {ast.unparse(node.func) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)}
    assert not calls & {"print", "sys.exit", "exit"}
    assert name in LOADS_TENSORFLOW or not roots & {"tensorflow", "keras", "tensorflow_hub"}


def test_importing_anything_does_not_load_tensorflow():
    names = [name for name in TREES if not name.startswith("bench/") and name not in ONLY_LAZILY]
    modules = ", ".join(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names)
    code = f"import sys, {modules}; print(sorted({{'tensorflow', 'keras'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("of", "field"),
    [("params", field.name) for field in dataclasses.fields(Params)]
    + [("fine_tune", field.name) for field in dataclasses.fields(FineTune)],
)
def test_every_parameter_is_read_somewhere(of, field):
    # Params.last_phase reads fine_tune's fields; Params' own fields must be read elsewhere, and not to refuse them.
    users = [path for path in SOURCES if of == "fine_tune" or path.name not in ("params.py", "effects.py")]
    assert any(re.search(rf"\b{of}\.{field}\b", path.read_text()) for path in users), f"nobody reads {of}.{field}"


@pytest.mark.parametrize("name", [*TREES, *TESTS])
def test_files_and_functions_are_short_and_named_for_what_they_hold(name):
    assert Path(name).stem not in {"util", "utils", "helper", "helpers", "misc", "common"}
    assert len((ROOT / name).read_text().splitlines()) <= 300
    for node in ast.walk((TREES | TESTS)[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{name}: {node.name}"
