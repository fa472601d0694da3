"""The network that predicts is the one that was scored, in every precision."""

import re
import shutil

import numpy as np
import pytest
from support.identity import error_of, predicted, scored, train_head

import evaluate
import train
from cxr import identity, storage
from cxr.evaluation.metrics import sigmoid
from cxr.findings import FINDINGS
from cxr.networks import kept
from cxr.networks.trained import TrainedExperiment
from cxr.params import load_params
from cxr.records.dataset import open_dataset
from tools import export

SAME = 1e-5  # the most by which two probabilities of one network differ
OTHER = 20 * SAME  # the least by which two networks differ in some probability

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.mark.parametrize("name", ["cnn", "float32", "bfloat16", "int8"])
def test_predict_gives_the_probabilities_that_evaluate_scored(world, name):
    np.testing.assert_allclose(predicted(world / name, world / "records"), scored(world / name), atol=SAME)


@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_the_precisions_give_different_predictions(world, name):
    """Otherwise the test above would pass with any of them."""
    assert np.abs(scored(world / name) - scored(world / "float32")).max() > OTHER


def test_test_time_augmentation_uses_the_same_network(world, copied):
    model_dir = copied("bfloat16")
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(world / "records"), "--split", "val", "--tta", "2"])
    averaged = scored(model_dir / "tta_2")
    network = TrainedExperiment(model_dir)
    datasets = {"image": open_dataset(world / "records")}
    expected, in_float32 = (
        sigmoid(evaluate.predict_logits(model, "val", datasets, load_params(model_dir), tta=2).astype(np.float64))
        for model in (network, network.keras_model())
    )
    np.testing.assert_allclose(averaged, expected, atol=SAME)
    assert np.abs(averaged - in_float32).max() > OTHER


def test_an_experiment_runs_its_own_network_on_any_dataset(world, copied, tmp_path):
    model_dir = copied("int8")
    sha256 = identity.read(model_dir)["prepared"]["Tiny"]
    assert kept.hash_of([(model_dir / f"networks/Tiny{ending}").read_bytes() for ending in kept.PARTS]) == sha256
    records = shutil.copytree(world / "records", tmp_path / "records", ignore=shutil.ignore_patterns("features"))
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(records), "--split", "val"])
    np.testing.assert_array_equal(scored(model_dir), scored(world / "int8"))
    (cache,) = records.glob("features/Tiny-*/dataset.json")
    assert storage.read_json(cache)["network_sha256"] == sha256
    assert [path.name for path in records.glob("features/networks/*.bin")] == [f"Tiny-{sha256[:12]}.bin"]


def test_a_damaged_network_is_not_used(world, copied):
    model_dir = copied("int8")
    (model_dir / "networks/Tiny.bin").write_bytes((world / "bfloat16/networks/Tiny.bin").read_bytes())
    text = f"error: the network files {model_dir}/networks/Tiny.xml and .bin are damaged, or of another network"
    assert error_of(evaluate.main, "--model_dir", model_dir, "--data_dir", world / "records").startswith(text)


def test_a_run_by_onednn_must_be_trained_again(world, copied):
    model_dir = copied("bfloat16")
    storage.write_json(model_dir / "run.json", identity.read(model_dir) | {"runtime": "onednn"})
    text = (
        f"error: the features of {model_dir} were computed by oneDNN, which OpenVINO has replaced and whose numbers "
        f"differ. Train it again: python train.py --model_dir {model_dir} --restart"
    )
    assert error_of(evaluate.main, "--model_dir", model_dir, "--data_dir", world / "records") == text
    assert error_of(train.main, "--model_dir", model_dir, "--data_dir", world / "records", "--resume") == text


def test_an_export_in_another_precision_is_scored_again(world, tmp_path):
    flags = ["--model_dir", world / "bfloat16", "--output_dir", tmp_path / "exported"]
    text = "error: the frozen networks of this experiment compute in bfloat16, exported files in float32: that is"
    assert error_of(export.main, *flags).startswith(text)
    assert not (tmp_path / "exported").exists()
    export.main([str(flag) for flag in [*flags, "--data_dir", world / "records", "--images", 3]])
    result = storage.read_json(tmp_path / "exported/export.json")
    assert result["rescored"]["images"] == 15
    assert result["rescored"]["difference"] > OTHER
    metrics = storage.read_json(world / "bfloat16/metrics_val_best.json")
    assert result["rescored"]["mean_auroc"]["before"] == pytest.approx(metrics["mean_auroc"]["value"], abs=0.02)
    thresholds = [(result["findings"][name]["thresholds"], metrics["findings"][name]["threshold"]) for name in FINDINGS]
    assert any(ours != theirs for ours, theirs in thresholds)
    card = (tmp_path / "exported/MODEL_CARD.md").read_text()
    assert "The experiment was scored in bfloat16; the files compute in float32, which is another model." in card
    assert "- image sets that `Tiny` has seen: not stated" in card
    assert f"frozen network `Tiny`, SHA-256 of its weights {result['run']['networks']['Tiny']}" in card


def test_an_experiment_in_another_precision_is_not_accepted_as_extractor(world, tmp_path):
    spec = {"source": "experiment", "model_dir": str(world / "bfloat16")}
    text = f"error: {world / 'bfloat16'} was trained on features computed in bfloat16, but precision is float32 here, "
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}.*'bfloat16' here too$"):
        train_head(tmp_path / "run", world / "records", spec)
