"""README and docs agree with the code: parameter tables, commands, links, and the first command runs."""

import importlib
import pathlib
import re
import shlex
import subprocess

import pytest

from cxr.params import FineTune, Params, parameter_table

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments" / "README.md"]
COMMAND = re.compile(r"python (?:-m (?:tools|bench)\.\w+|\w+\.py)[^`\n|#;]*")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)")


def commands_in(text: str) -> list[str]:
    """Commands of the project in a page or the Makefile, each once; a backslash continues a line."""
    one_line = text.replace("\\\n", " ").replace("$(PY)", "python").replace("$(TORCH)", "python3")
    found = (command.replace("$(ORIGINALS)", "O").replace("$(RELEASE)", "R") for command in COMMAND.findall(one_line))
    # A quotation mark without another one closes an echo of the Makefile.
    return sorted({command if command.count('"') % 2 == 0 else command.rstrip('"') for command in found})


def anchors_of(page: pathlib.Path) -> set[str]:
    """The names by which links reach the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(("kind", "name"), [(Params, "parameters"), (FineTune, "fine-tuning parameters")])
def test_parameter_tables_are_those_that_params_py_makes(kind, name):
    between = rf"<!-- {name}: made by cxr\.params\.parameter_table -->\n(.*?)\n<!-- end of {name} -->"
    assert re.findall(between, (ROOT / "docs" / "parameters.md").read_text(), re.DOTALL) == [parameter_table(kind)]


def test_the_readme_names_every_command_of_the_project():
    scripts = {path.name for path in ROOT.glob("*.py") if "argparse" in path.read_text()}
    tools = {f"tools.{path.stem}" for path in (ROOT / "tools").glob("*.py") if "argparse" in path.read_text()}
    commands = commands_in((ROOT / "README.md").read_text())
    assert scripts | tools <= {next(word for word in command.split()[1:] if word != "-m") for command in commands}


@pytest.mark.parametrize(
    ("page", "command"),
    [(shown(page), command) for page in [*PAGES, ROOT / "Makefile"] for command in commands_in(page.read_text())],
)
def test_every_command_has_flags_that_exist(page, command):
    words = shlex.split(command)[1:]
    module, flags = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
    importlib.import_module(module).parse_args(flags)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_leads_somewhere(page):
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path) if path else page
        assert target.exists(), f"{shown(page)}: {path}"
        assert not anchor or anchor in anchors_of(target), f"{shown(page)}: {path}#{anchor}"


def test_the_readme_fits_on_a_few_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_walk_names_files_and_functions_that_exist():
    text = (ROOT / "docs" / "walk.md").read_text()
    names = {path.name for path in ROOT.rglob("*.py")}
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / name).is_file() if "/" in name else name in names, name
    pairs = re.findall(r"`([\w/]+\.py)`\s+\(`(\w+)`", text)
    pairs += [(file, function) for function, file in re.findall(r"`(\w+)`\s+(?:of|in)\s+`([\w/]+\.py)`", text)]
    assert len(pairs) >= 5
    for file, function in pairs:
        assert f"def {function}(" in (ROOT / file).read_text(), f"{function} of {file}"


def test_pages_and_benchmarks_that_the_code_names_exist():
    listed = subprocess.run(["git", "ls-files", "*.py", "*.html"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        text = (ROOT / name).read_text()
        for path in re.findall(r"\bdocs/\w+\.md|\bbench/\w+\.py", text):
            assert (ROOT / path).is_file(), f"{name} names {path}"
        for module in re.findall(r"-m bench\.(\w+)", text):
            assert (ROOT / "bench" / f"{module}.py").is_file(), f"{name} names bench.{module}"
