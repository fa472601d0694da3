"""An average of experiments through every command."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.identity import error_of, png_of, predicted, scored, train_head
from support.runs import EPOCHS, make_average, make_experiment, run_train

import evaluate
import predict
import synthesize_results
from cxr import experiment, identity, storage
from cxr.engines.engine import LOCAL
from cxr.networks import assembly
from cxr.networks.mean_heat_map import CELLS
from cxr.networks.trained import trained_network
from cxr.params import as_json, load_params
from cxr.patient import Patient
from cxr.records.dataset import open_dataset
from inference.predictor import Predictor
from tools import export, localize, report
from tools.serving.app import Served, describe

pytestmark = pytest.mark.usefixtures("few_resamples")


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities / (1 - probabilities))


@pytest.fixture(scope="module")
def metadata(world, tmp_path_factory) -> Path:
    """A head over a network, with patient inputs."""
    params = storage.read_json(world / "float32/params.json")
    folder = tmp_path_factory.mktemp("metadata") / "metadata"
    return train_head(folder, world / "records", params["extractors"][0], metadata=True)


@pytest.fixture(scope="module")
def average(world, metadata, tmp_path_factory) -> Path:
    """The average of a CNN in float32, a head in bfloat16 and a head with patient inputs."""
    folder = tmp_path_factory.mktemp("average") / "average"
    return run_train(make_average(folder, world / "cnn", world / "bfloat16", metadata), world / "records")


@pytest.fixture
def changeable(pair, copied) -> Path:
    """A copy of an average over copies of its members, which a test may change."""
    cnn, head = copied("cnn"), copied("float32")
    return make_average(Path(shutil.copytree(pair, cnn.parent / "pair")), cnn, head)


def set_logits(folder: Path, bias: np.ndarray) -> None:
    """Give an experiment weights with which the logits of every image are `bias`."""
    model = assembly.trained_model(folder)
    model.get_layer("logits").set_weights([np.zeros(model.get_layer("logits").kernel.shape), bias])
    experiment.save_weights(model, folder, "best")


def test_logits_are_averaged_not_probabilities(world, copied, tmp_path):
    first = copied("cnn")
    second = Path(shutil.copytree(first, tmp_path / "second"))
    set_logits(first, np.arange(14.0) - 7)
    set_logits(second, np.arange(14.0) - 3)
    average = run_train(make_average(tmp_path / "average", first, second), world / "records")
    expected = 1 / (1 + np.exp(5 - np.arange(14.0)))  # the sigmoid of n - 5, halfway between n - 7 and n - 3
    assert scored(average).shape == (15, 14)
    np.testing.assert_allclose(scored(average), np.tile(expected, (15, 1)), rtol=1e-6)


def test_the_average_is_the_mean_of_the_predictions_of_its_members(world, metadata, average):
    members = [logits_of(scored(folder)) for folder in (world / "cnn", world / "bfloat16", metadata)]
    np.testing.assert_allclose(logits_of(scored(average)), np.mean(members, axis=0), atol=1e-5)
    assert np.abs(members[0] - members[1]).max() > 0.01


def test_predict_gives_the_probabilities_that_evaluate_scored(world, pair):
    np.testing.assert_allclose(predicted(pair, world / "records"), scored(pair), atol=1e-5)


def test_patient_inputs_reach_the_members_that_take_them(metadata, average):
    predictor = Predictor(average)
    square = np.random.default_rng(0).integers(0, 256, (32, 32, 1), np.uint8)

    def predict_with(found: Predictor, patient: Patient) -> np.ndarray:
        return logits_of(found.predict([found.read(png_of(square), patient)])[0].probabilities)

    young, old = Patient(20.0, "F", "PA"), Patient(80.0, "M", "AP")
    change = predict_with(Predictor(metadata), old) - predict_with(Predictor(metadata), young)
    assert np.abs(change).max() > 1e-3
    averaged = predict_with(predictor, old) - predict_with(predictor, young)
    np.testing.assert_allclose(averaged, change / 3, atol=1e-4)  # one of three members takes them
    served = Served(predictor, "average", "best", experiment.dataset_of(average), "", "")
    assert describe(served)["metadata"] is True


def test_test_time_augmentation_averages_that_of_the_members(world, pair):
    images = open_dataset(world / "records")
    found = evaluate.trained_logits(pair, "val", images, tta=2, engine=LOCAL)
    members = [evaluate.trained_logits(world / m, "val", images, tta=2, engine=LOCAL) for m in ("cnn", "float32")]
    np.testing.assert_allclose(found, np.mean(members, axis=0), atol=1e-6)
    assert np.abs(found - logits_of(scored(pair))).max() > 1e-3


def test_one_keras_model_gives_the_logits_and_heat_maps(pair):
    network = trained_network(pair)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    assert network.is_exact_in_keras
    models = [network.keras_model(), *(member.keras_model() for member in network.members)]
    found, *members = (np.asarray(model({"image": images}, training=False)) for model in models)
    np.testing.assert_allclose(found, np.mean(members, axis=0), atol=1e-6)
    sigmoids = [1 / (1 + np.exp(-logits)) for logits in (found, network.logits({"image": images}))]
    np.testing.assert_allclose(*sigmoids, atol=1e-5)
    mapper = network.heat_mapper()
    maps = mapper(images, [0, 5])
    assert maps.shape == (3, 2, CELLS, CELLS)
    assert maps.sum(axis=(2, 3)) == pytest.approx(1, abs=1e-5)
    assert (mapper.covers, mapper.method) == (32, "mean of cam, grad_cam")


def test_run_json_identifies_the_members(world, metadata, average):
    run = identity.read(average)
    folders = [world / "cnn", world / "bfloat16", metadata]
    assert [member["model_dir"] for member in run["members"]] == [str(folder) for folder in folders]
    for member, folder in zip(run["members"], folders, strict=True):
        assert member["weights_sha256"] == storage.sha256_of(folder / "best.weights.h5")
        assert member["params"] == as_json(load_params(folder))
        assert member["networks"] == identity.read(folder)["networks"]
    assert run["precision"] == "float32 and bfloat16"
    assert (run["networks"], run["leak"]["patients"]) == ({}, 0)
    metrics = storage.read_json(average / "metrics_val_best.json")
    assert metrics["weights_sha256"] == identity.weights_sha256(average, "best")
    assert len(metrics["params"]["members"]) == 3
    log = (average / "train.log").read_text()
    value = storage.read_json(world / "cnn/metrics_val_best.json")["mean_auroc"]["value"]
    assert f"member {world / 'cnn'}   val AUROC {value:.4f}\n" in log
    assert {path.name for path in average.iterdir() if path.name != ".lock"} == {
        *("params.json", "run.json", "dataset.json", "patients.json", "train.log"),
        *("metrics_val_best.json", "predictions_val_best.csv", "out_of_distribution.json"),
    }


def test_a_member_that_was_trained_again_is_rejected_by_every_command(world, changeable, tmp_path):
    below = Path(load_params(changeable).members[0])
    old = storage.sha256_of(below / "best.weights.h5")[:12]
    make_experiment(below, seed=231, num_epochs=1)
    run_train(below, world / "records", "--restart")
    now = storage.sha256_of(below / "best.weights.h5")[:12]
    text = (
        f"error: the members of {changeable} are not those that it was made of: {below}: weights_sha256 {old}, now "
        f"{now}; params.num_epochs {EPOCHS}, now 1; params.seed 230, now 231. Restore them, or make the average again "
        "with --restart"
    )
    image = tmp_path / "xray.png"
    image.write_bytes(png_of(np.zeros((32, 32, 1), np.uint8)))
    data = ["--data_dir", world / "records"]
    for main, more in (
        (evaluate.main, [*data, "--split", "val"]),
        (predict.main, [image]),
        (report.main, ["--split", "val"]),
        (localize.main, data),
        (export.main, ["--output_dir", tmp_path / "exported"]),
    ):
        assert error_of(main, "--model_dir", changeable, *more).removesuffix("\n") == text
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}$"):
        run_train(changeable, world / "records", "--resume")
    run_train(changeable, world / "records", "--restart")
    assert identity.read(changeable)["members"][0]["params"]["seed"] == 231
    assert identity.read(changeable / "old/001")["members"][0]["params"]["seed"] == 230


def test_a_moved_member_is_the_same(world, changeable, tmp_path):
    params = load_params(changeable)
    moved = Path(params.members[0]).rename(tmp_path / "moved")
    text = f"error: no folder {params.members[0]}, a member of {changeable}. If it was moved, change its path in "
    flags = ["--model_dir", changeable, "--data_dir", world / "records", "--split", "val"]
    assert error_of(evaluate.main, *flags).startswith(text)
    make_average(changeable, moved, Path(params.members[1]))
    before = scored(changeable)
    evaluate.main([str(flag) for flag in flags])
    np.testing.assert_array_equal(scored(changeable), before)


def test_resume_gives_the_same_result_and_nothing_is_overwritten_without_it(world, changeable):
    before = (changeable / "predictions_val_best.csv").read_bytes()
    (changeable / "predictions_val_best.csv").unlink()
    run_train(changeable, world / "records", "--resume")
    assert (changeable / "predictions_val_best.csv").read_bytes() == before
    with pytest.raises(SystemExit, match=r"already holds a run\. Add --resume to continue it, or --restart"):
        run_train(changeable, world / "records")
    make_average(changeable, *map(Path, [*load_params(changeable).members, world / "bfloat16"]))
    with pytest.raises(SystemExit, match=r"params\.json was changed since the run began: members 2, now 3\. "):
        run_train(changeable, world / "records", "--resume")


def test_export_and_report_name_the_members(world, average, tmp_path):
    flags = ["--model_dir", average, "--output_dir", tmp_path / "exported", "--data_dir", world / "records"]
    export.main([str(flag) for flag in [*flags, "--images", 3]])
    result = storage.read_json(tmp_path / "exported/export.json")
    assert result["patient_inputs"] == ["age", "sex", "view_position"]
    assert result["rescored"]["precision"] == "float32 and bfloat16"
    card = (tmp_path / "exported/MODEL_CARD.md").read_text()
    sha256 = storage.sha256_of(world / "cnn/best.weights.h5")
    assert "- model `average`, checkpoint `best`, the mean of the logits of 3 experiments\n" in card
    assert f"- member `{world / 'cnn'}`, model `simple_cnn`, SHA-256 of its weights {sha256[:12]}\n" in card
    assert "Age, sex and view position (PA or AP) are optional inputs" in card
    report.main(["--model_dir", str(average), "--split", "val"])
    page = (average / "report_val.html").read_text()
    assert f"<th>member {world / 'cnn'}</th><td>simple_cnn, SHA-256 {sha256}</td>" in page
    assert "No curves: an average trains nothing; see its members." in page


def test_the_table_of_results_names_the_members(world, average, tmp_path, capsys):
    shutil.copytree(average, tmp_path / "average")
    shutil.copytree(world / "cnn", tmp_path / "cnn")
    synthesize_results.main(["--parent_dir", str(tmp_path), "--split", "val"])
    table = capsys.readouterr().out
    assert f" {world / 'cnn'} + {world / 'bfloat16'} + " in table


def test_last_weights_are_rejected(world, average):
    text = f"{average} averages the best weights of its members and has no last weights; leave out --checkpoint last"
    flags = ["--model_dir", average, "--data_dir", world / "records", "--checkpoint", "last"]
    assert error_of(evaluate.main, *flags) == f"error: {text}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Predictor(average, "last")
