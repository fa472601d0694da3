"""What the page says, and how tools/serve.py fails to begin: without a server."""

import base64
import importlib.util
from pathlib import Path

import pytest
from serving import noise, seeded_experiment

from cxr.evaluation import operating
from predictor import Predictor
from tools import serve
from tools.serving import app, page, samples


@pytest.fixture(scope="module")
def model_dir(built_dataset, tmp_path_factory) -> Path:
    return seeded_experiment(tmp_path_factory.mktemp("serve") / "seeded", built_dataset)


@pytest.fixture(scope="module")
def predictor(model_dir) -> Predictor:
    return Predictor(model_dir)


def test_without_operating_points_nothing_is_called_and_the_page_says_how_to_get_them(predictor, monkeypatch, tmp_path):
    monkeypatch.setattr(predictor, "points", operating.read_points(tmp_path, "best"))
    served = app.Served(predictor, "seeded", "best", "python evaluate.py --model_dir X --split val")
    html = page.told(served, [], {"data": base64.b64encode(noise(2)).decode()})
    assert "<code>python evaluate.py --model_dir X --split val</code>" in html
    assert html.count('class="called"') == 0
    assert html.count("data-finding") == 14
    assert "operating point:" not in html  # there is no line to explain


@pytest.mark.parametrize(
    "asked", [{}, {"data": None}, {"data": "???"}, {"data": ["x"]}, {"sample": 99}, {"sample": "0"}]
)
def test_what_no_page_sends_is_answered_all_the_same(predictor, asked):
    drawn = [samples.Sample("none", noise(1), b"")]
    html = page.told(app.Served(predictor, "seeded", "best", ""), drawn, asked)
    assert "This image cannot be read:</strong> nothing has arrived; choose the file again" in html


def test_a_port_in_use_is_said_before_the_model_is_loaded(model_dir, monkeypatch):
    monkeypatch.setattr(serve, "require_gradio", lambda: None)
    with app.listen(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            serve.main(["--model_dir", str(model_dir), "--port", str(port)])
    assert str(caught.value) == f"error: port {port}: Address already in use. Give another: --port 7861"


def test_without_gradio_the_line_that_installs_it(model_dir, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        serve.main(["--model_dir", str(model_dir)])
    assert str(caught.value) == "error: the page needs Gradio. Run: pip install -r requirements-serve.txt"


def test_an_experiment_without_weights(model_dir, monkeypatch):
    monkeypatch.setattr(serve, "require_gradio", lambda: None)
    with pytest.raises(SystemExit) as caught:
        serve.main(["--model_dir", str(model_dir), "--checkpoint", "last", "--port", "0"])
    wanted = f"error: no {model_dir}/last.weights.h5. Run: python train.py --model_dir {model_dir}"
    assert str(caught.value) == wanted


def test_an_impossible_port_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        serve.parse_args(["--model_dir", "x", "--port", "70000"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("error: --port 70000: expected 0 to 65535\n")
