import json
import pathlib
import signal

import pytest

from cxr import errors
from cxr.engines.local import run_local
from cxr.errors import one_line_errors
from cxr.findings import parse_findings


def run(function, *arguments):
    with one_line_errors():
        function(*arguments)


def interrupt():
    raise KeyboardInterrupt


def terminate():
    signal.raise_signal(signal.SIGTERM)


def import_absent():
    raise ImportError("Reading DICOM needs pydicom. Run: pip install -r requirements/dicom.txt")


def raise_runtime_error():
    raise RuntimeError("a worker process was killed")


def map_in_a_worker():
    list(run_local(parse_findings, ["Nonsense"], workers=1))


@pytest.mark.parametrize(
    ("function", "line"),
    [
        pytest.param(lambda: parse_findings("Nonsense"), "error: unknown finding 'Nonsense'", id="ours"),
        pytest.param(raise_runtime_error, "error: a worker process was killed", id="our RuntimeError"),
        pytest.param(lambda: pathlib.Path("absent").read_bytes(), "error: .*No such file.*'absent'", id="the system's"),
        pytest.param(import_absent, "error: Reading DICOM needs pydicom", id="an optional package"),
        pytest.param(interrupt, "interrupted; nothing is lost but the work since the last file", id="Ctrl-C"),
        pytest.param(terminate, "interrupted; nothing is lost but the work since the last file", id="SIGTERM"),
        pytest.param(map_in_a_worker, "error: unknown finding 'Nonsense'", id="ours, raised in a worker process"),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_line_and_exit_code_1(function, line):
    with pytest.raises(SystemExit, match=line) as exit_:
        run(function)
    assert isinstance(exit_.value.code, str)  # Python prints it to stderr and ends with code 1
    assert "\n" not in exit_.value.code


@pytest.mark.parametrize(
    ("function", "error"),
    [
        pytest.param(lambda: {}["key"], KeyError, id="of another kind"),
        pytest.param(lambda: json.loads("{"), json.JSONDecodeError, id="a ValueError out of a library"),
    ],
)
def test_a_bug_keeps_its_traceback(function, error):
    with pytest.raises(error):
        run(function)


def test_a_library_in_an_environment_below_the_project_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "ROOT", tmp_path)

    def raised_in(path: pathlib.Path):
        path.parent.mkdir(parents=True)
        path.write_text("raise ValueError('from a file')")
        return lambda: exec(compile(path.read_text(), str(path), "exec"), {})

    with pytest.raises(SystemExit, match="error: from a file"):
        run(raised_in(tmp_path / "tools/own.py"))
    with pytest.raises(ValueError, match="from a file"):
        run(raised_in(tmp_path / ".venv/lib/python3/site-packages/library.py"))


def test_a_block_without_an_error():
    run(lambda: None)


def test_the_handler_of_sigterm_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        run(interrupt)
    assert signal.getsignal(signal.SIGTERM) == before
