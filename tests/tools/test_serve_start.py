"""Errors when tools/serve.py starts."""

import importlib.util
from pathlib import Path

import pytest
from support.serving import seeded_experiment

from tools import serve
from tools.serving import app


@pytest.fixture(scope="module")
def model_dir(built_dataset, tmp_path_factory) -> Path:
    return seeded_experiment(tmp_path_factory.mktemp("serve") / "seeded", built_dataset)


def test_a_port_in_use_is_reported_before_the_model_is_loaded(model_dir):
    with app.listen(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            serve.main(["--model_dir", str(model_dir), "--port", str(port)])
    assert str(caught.value) == f"error: port {port}: Address already in use. Give another: --port 7861"


def test_without_fastapi_the_error_names_the_command_that_installs_it(model_dir, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        serve.main(["--model_dir", str(model_dir)])
    assert str(caught.value) == "error: the page needs FastAPI and uvicorn. Run: pip install -r requirements/serve.txt"


def test_an_experiment_without_weights_is_rejected(model_dir):
    with pytest.raises(SystemExit) as caught:
        serve.main(["--model_dir", str(model_dir), "--checkpoint", "last", "--port", "0"])
    wanted = f"error: no {model_dir}/last.weights.h5. Run: python train.py --model_dir {model_dir}"
    assert str(caught.value) == wanted


def test_an_impossible_port_is_rejected_with_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        serve.parse_args(["--model_dir", "x", "--port", "70000"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("error: --port 70000: expected 0 to 65535\n")
