"""Errors when tools/serve.py starts."""

import importlib.util

import pytest

from tools import serve
from tools.serving import app


def test_a_port_in_use_is_reported_before_the_model_is_loaded(seeded):
    with app.listen(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            serve.main(["--model_dir", str(seeded), "--port", str(port)])
    assert str(caught.value) == f"error: port {port}: Address already in use. Give another: --port 7861"


def test_without_fastapi_the_error_names_the_command_that_installs_it(seeded, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        serve.main(["--model_dir", str(seeded)])
    assert str(caught.value) == "error: the page needs FastAPI and uvicorn. Run: pip install -r requirements/serve.txt"


def test_an_experiment_without_weights_is_rejected(seeded):
    with pytest.raises(SystemExit) as caught:
        serve.main(["--model_dir", str(seeded), "--checkpoint", "last", "--port", "0"])
    wanted = f"error: no {seeded}/last.weights.h5. Run: python train.py --model_dir {seeded}"
    assert str(caught.value) == wanted


def test_an_impossible_port_is_rejected_with_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        serve.parse_args(["--model_dir", "x", "--port", "70000"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("error: --port 70000: expected 0 to 65535\n")
