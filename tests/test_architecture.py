"""The house stays as it was planned: who imports whom, what loads TensorFlow, how long files and functions are."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

from cxr.params import FineTune, Params

ROOT = Path(__file__).resolve().parents[1]
VERBS = {"build_dataset", "input_fn", "model_fn", "train", "evaluate", "predict"}
VERBS |= {"search_hyperparams", "synthesize_results"}
LAYERS = [  # a file imports from its own entry and from the rows above
    {"cxr"},
    {"input_fn", "model_fn"},
    {"evaluate"},
    {"training", "inference"},
    {"build_dataset", "train", "predict"},
    {"searching"},
    {"search_hyperparams", "synthesize_results", "tools", "bench"},
]
LAYER_OF = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOMS = {  # of cxr: those whose files each may import beside its own and the shared words, the files directly in cxr
    "images": set(),
    "engines": set(),
    "release": {"images", "engines"},
    "records": {"images", "engines", "release"},
    "networks": {"engines", "records"},
    "evaluation": set(),
}
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for pattern in (
        "*.py",
        "cxr/**/*.py",
        "training/*.py",
        "inference/*.py",
        "searching/*.py",
        "tools/**/*.py",
        "bench/*.py",
    )
    for path in ROOT.glob(pattern)
    if path.name != "__init__.py"
}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
FRAMEWORKS = {"tensorflow", "keras"}


def imported(node: ast.AST) -> set[str]:
    """Names of the modules that an import statement or a tree of them imports; of ours the files."""
    found = set()
    for one in ast.walk(node):
        if isinstance(one, ast.Import):
            found |= {alias.name for alias in one.names}
        elif isinstance(one, ast.ImportFrom):
            full = {f"{one.module}.{alias.name}" for alias in one.names}
            found |= {name if name in SOURCES else one.module for name in full}
    return found


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def loads_framework_at_top(name: str) -> bool:
    top = [node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    return any(module.split(".")[0] in FRAMEWORKS for node in top for module in imported(node))


def test_only_the_verbs_stand_on_top():
    assert {name for name in SOURCES if "." not in name} == VERBS


def test_imports_point_down():
    for name, tree in TREES.items():
        own = name.split(".")[0]
        for other in {module.split(".")[0] for module in imported(tree)} & LAYER_OF.keys() - {own}:
            assert LAYER_OF[other] < LAYER_OF[own], f"{name} must not import {other}"


def test_a_room_stands_on_the_rooms_below_it():
    wrong = []
    for name, tree in TREES.items():
        room = name.split(".")[1] if name.startswith("cxr.") else ""
        rooms = {module.split(".")[1] for module in imported(tree) if module.startswith("cxr.")} & ROOMS.keys()
        allowed = {room} | ROOMS.get(room, set()) if name.startswith("cxr.") else ROOMS.keys()
        wrong += [f"{name} imports from {other}" for other in rooms - allowed]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle():
    graph = {name: imported(tree) & SOURCES.keys() for name, tree in TREES.items()}
    done, path = set(), []

    def visit(name: str) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            done.add(path.pop())

    for name in sorted(graph):
        visit(name)


def test_own_modules_are_imported_at_the_top():
    late = []
    for name, tree in TREES.items():
        for function in functions(tree) if not name.startswith("bench.") else ():
            own = {module for node in function.body for module in imported(node)} & SOURCES.keys()
            late += [f"{name}.{function.name}: {module}" for module in own if not loads_framework_at_top(module)]
    assert sorted(set(late)) == []


def test_the_command_line_stays_in_the_commands():
    for name, tree in TREES.items():
        is_command = "." not in name or (name.split(".")[0] in ("tools", "bench") and name.count(".") == 1)
        assert is_command or not imported(tree) & {"argparse"}, f"{name} knows of argparse"
        if name.startswith("cxr."):
            calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            assert not calls & {"print", "sys.exit", "exit"}, name


def test_importing_anything_does_not_load_tensorflow():
    light = [name for name in TREES if not name.startswith("bench.") and not loads_framework_at_top(name)]
    code = f"import sys, {', '.join(light)}; print(sorted({FRAMEWORKS} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_parameter_is_read_somewhere():
    text = "".join(path.read_text() for name, path in SOURCES.items() if name not in ("cxr.params", "cxr.effects"))
    for field in dataclasses.fields(Params):
        assert re.search(rf"\bparams\.{field.name}\b", text), f"no line reads params.{field.name}"
    text = "".join(path.read_text() for path in SOURCES.values())
    for field in dataclasses.fields(FineTune):
        assert re.search(rf"\bfine_tune\.{field.name}\b", text), f"no line reads fine_tune.{field.name}"


def test_files_and_functions_are_short_and_named_for_what_they_hold():
    tests = [path for path in ROOT.glob("tests/**/*.py") if "__pycache__" not in path.parts]
    for path in [*SOURCES.values(), *tests]:
        assert path.stem not in {"util", "utils", "helper", "helpers", "misc", "common"}
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        for function in functions(ast.parse(text)):
            assert function.end_lineno - function.lineno < 60, f"{path}: {function.name}"
