"""The network that predicts is the one that was scored, in every precision."""

import re

import numpy as np
import pytest
from support.identity import error_of, predicted, scored, train_head

import evaluate
from cxr import storage
from cxr.findings import FINDINGS
from tools import export

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.mark.parametrize(("name", "tolerance"), [("cnn", 1e-5), ("float32", 1e-5), ("bfloat16", 2e-3)])
def test_predict_gives_the_probabilities_that_evaluate_scored(world, name, tolerance):
    np.testing.assert_allclose(predicted(world / name, world / "records"), scored(world / name), atol=tolerance)


def test_the_two_precisions_give_different_predictions(world):
    """Otherwise the test above would pass with either of them."""
    assert np.abs(scored(world / "bfloat16") - scored(world / "float32")).max() > 4e-3


def test_test_time_augmentation_uses_the_same_network(world, copied):
    model_dir = copied("bfloat16")
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(world / "records"), "--split", "val", "--tta", "2"])
    averaged = scored(model_dir / "tta_2")
    assert np.abs(averaged - scored(model_dir)).max() < 0.2  # moved by a pixel or two; float32 would differ by more


def test_an_export_in_another_precision_is_scored_again(world, tmp_path):
    flags = ["--model_dir", world / "bfloat16", "--output_dir", tmp_path / "exported"]
    text = "error: the frozen networks of this experiment compute in bfloat16, exported files in float32: that is"
    assert error_of(export.main, *flags).startswith(text)
    assert not (tmp_path / "exported").exists()
    export.main([str(flag) for flag in [*flags, "--data_dir", world / "records", "--images", 3]])
    result = storage.read_json(tmp_path / "exported/export.json")
    assert result["rescored"]["images"] == 15
    assert result["rescored"]["difference"] > 4e-3
    metrics = storage.read_json(world / "bfloat16/metrics_val_best.json")
    assert result["rescored"]["mean_auroc"]["before"] == pytest.approx(metrics["mean_auroc"]["value"], abs=0.02)
    thresholds = [(result["findings"][name]["thresholds"], metrics["findings"][name]["threshold"]) for name in FINDINGS]
    assert any(ours != theirs for ours, theirs in thresholds)
    card = (tmp_path / "exported/MODEL_CARD.md").read_text()
    assert "The experiment was scored in bfloat16; the files compute in float32, which is another model." in card
    assert f"frozen network `MobileNet`, SHA-256 of its weights {result['run']['networks']['MobileNet']}" in card


def test_an_experiment_in_another_precision_is_not_accepted_as_extractor(world, tmp_path):
    spec = {"source": "experiment", "model_dir": str(world / "bfloat16")}
    text = f"error: {world / 'bfloat16'} was trained on features computed in bfloat16, but precision is float32 here, "
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}.*'bfloat16' here too$"):
        train_head(tmp_path / "run", world / "records", spec)
