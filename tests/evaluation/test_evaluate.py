import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import evaluate
import train
from cxr import experiment
from cxr.evaluation import calibration, metrics, operating_points, predictions
from cxr.findings import FINDINGS
from cxr.networks.assembly import trained_model
from cxr.params import Params, load_params
from cxr.records import dataset, example, parsing
from input_fn import input_fn
from model_fn import model_fn

pytestmark = pytest.mark.usefixtures("few_resamples")

NO_LEAK = {"patients": 0, "images": 0, "where": [], "unknown": []}
PARAMS = {"image_size": 32, "num_channels": 4, "num_blocks": 1, "num_epochs": 1, "batch_size": 8}


def run_evaluate(model_dir: Path, data_dir: Path, *flags: str) -> None:
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir), *flags])


@pytest.fixture(scope="module")
def trained(one_epoch, built_dataset, tmp_path_factory) -> Path:
    """One epoch of training, then the test split scored. Shared: tests that change it work on `copy`."""
    model_dir = shutil.copytree(one_epoch, tmp_path_factory.mktemp("trained") / "run")
    run_evaluate(model_dir, built_dataset)
    return model_dir


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.fixture
def altered_dataset(built_dataset, tmp_path):
    """altered_dataset(function): a copy of the dataset whose dataset.json function(info) has changed."""

    def alter(function) -> Path:
        data_dir = shutil.copytree(built_dataset, tmp_path / "altered")
        info = json.loads((data_dir / "dataset.json").read_text())
        function(info)
        (data_dir / "dataset.json").write_text(json.dumps(info))
        return data_dir

    return alter


def read_csv(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def index_of(data_dir: Path, split: str) -> example.Index:
    return example.read_split_index(dataset.open_dataset(data_dir).paths(split))


@pytest.mark.parametrize("split", ["val", "test"])
def test_predictions_hold_every_image_once_in_dataset_order(trained, built_dataset, split):
    rows = read_csv(trained / f"predictions_{split}_best.csv")
    index = index_of(built_dataset, split)
    names = [f"{kind}_{finding}" for kind in ("label", "prob") for finding in FINDINGS]
    assert list(rows[0]) == ["image_id", "patient_id", *names, "age", "sex", "view_position", "group"]
    assert [row["image_id"] for row in rows] == index.image_ids.tolist()
    assert [int(row["patient_id"]) for row in rows] == index.patient_ids.tolist()
    assert [[int(row[f"label_{finding}"]) for finding in FINDINGS] for row in rows] == index.labels.tolist()
    assert all(0 < float(row[f"prob_{finding}"]) < 1 for row in rows for finding in FINDINGS)
    assert [float(row["age"]) for row in rows] == index.ages.tolist()
    assert [row["sex"] for row in rows] == ["FM"[sex] for sex in index.sexes]
    assert [row["view_position"] for row in rows] == [("PA", "AP")[position] for position in index.view_positions]


def test_predictions_equal_those_of_each_image_alone(trained, built_dataset):
    import tensorflow as tf

    images = dataset.open_dataset(built_dataset)
    model = model_fn(Params(**PARAMS), images.info)
    experiment.load_weights(model, trained, "best")
    rows = read_csv(trained / "predictions_test_best.csv")
    singles = [record for path in images.paths("test") for record in example.read_records(path)]
    for row, record in list(zip(rows, singles, strict=True))[-3:]:  # the last are in a short batch
        inputs, _ = parsing.parse_batch(tf.constant([record]), images.info)
        expected = tf.sigmoid(model({"image": inputs["image"]}))[0]
        assert [float(row[f"prob_{finding}"]) for finding in FINDINGS] == pytest.approx(expected.numpy(), abs=1e-6)


def test_metrics_hold_what_design_says(trained, built_dataset):
    scores = json.loads((trained / "metrics_test_best.json").read_text())
    assert list(scores) == [
        *("split", "checkpoint", "tta", "images", "patients", "loss"),
        *("mean_auroc", "findings", "subgroups", "floors", "within", "cross"),
        *("trained_on", "evaluated_on", "leak", "seen"),
        *("dataset_fingerprint", "split_name", "params", "weights_sha256", "git_sha", "library_versions"),
    ]
    assert (scores["split"], scores["checkpoint"], scores["split_name"]) == ("test", "best", "official")
    assert (scores["images"], scores["patients"]) == (12, 4)
    assert scores["dataset_fingerprint"] == dataset.open_dataset(built_dataset).info["fingerprint"]
    assert {**scores["params"], **PARAMS} == scores["params"]  # resolved: the defaults are there too
    assert scores["params"]["learning_rate"] == 1e-3
    assert scores["mean_auroc"].keys() == {"value", "low", "high", "findings"}
    assert tuple(scores["findings"]) == FINDINGS
    assert scores["trained_on"] == scores["evaluated_on"]
    assert scores["evaluated_on"] == {
        "csv": "Data_Entry_2017.csv",
        "csv_sha256": dataset.open_dataset(built_dataset).info["source"]["csv_sha256"],
        "split_name": "official",
        "fingerprint": scores["dataset_fingerprint"],
    }
    assert scores["leak"] == NO_LEAK
    assert scores["floors"]["metadata"]["images"] == 33  # of train
    counts = {kind: [group["images"] for group in groups.values()] for kind, groups in scores["subgroups"].items()}
    assert {kind: sum(images) for kind, images in counts.items()} == {"view_position": 12, "sex": 12, "age": 12}


def columns(model_dir: Path, split: str, finding: str) -> tuple[np.ndarray, np.ndarray]:
    rows = read_csv(model_dir / f"predictions_{split}_best.csv")
    labels = np.array([int(row[f"label_{finding}"]) for row in rows])
    return labels, np.array([float(row[f"prob_{finding}"]) for row in rows])


def test_metrics_follow_from_the_predictions_csv_alone(trained):
    scores = json.loads((trained / "metrics_test_best.json").read_text())["findings"]
    for finding in FINDINGS:
        value = metrics.auroc(*columns(trained, "test", finding))
        assert scores[finding]["auroc"] == (None if np.isnan(value) else value)


def test_operating_points_are_fitted_on_val_and_scored_on_test(trained):
    val = json.loads((trained / "metrics_val_best.json").read_text())["findings"]
    test = json.loads((trained / "metrics_test_best.json").read_text())["findings"]
    assert (
        val["Cardiomegaly"]["threshold"]
        == operating_points.choose_thresholds(*columns(trained, "val", "Cardiomegaly"))["youden"]
    )
    assert {name: values["threshold"] for name, values in test.items()} == {
        name: values["threshold"] for name, values in val.items()
    }
    labels, probabilities = columns(trained, "test", "Cardiomegaly")
    called = probabilities >= val["Cardiomegaly"]["threshold"]
    assert test["Cardiomegaly"]["sensitivity"] == called[labels == 1].mean()
    assert test["Cardiomegaly"]["specificity"] == pytest.approx((~called[labels == 0]).mean())
    for point in operating_points.POINTS:
        fitted, scored = (part["Cardiomegaly"]["operating_points"][point]["threshold"] for part in (val, test))
        assert fitted == scored is not None
    assert test["Cardiomegaly"]["calibration"] == val["Cardiomegaly"]["calibration"]
    assert val["Cardiomegaly"]["calibration"] == calibration.fit_platt(*columns(trained, "val", "Cardiomegaly"))


def test_without_a_val_file_there_are_no_operating_points(copy, built_dataset):
    (copy / "metrics_val_best.json").unlink()
    run_evaluate(copy, built_dataset)
    test = json.loads((copy / "metrics_test_best.json").read_text())["findings"]
    assert {(values["threshold"], values["sensitivity"]) for values in test.values()} == {(None, None)}
    assert test["Cardiomegaly"]["auroc"] is not None


def test_evaluating_again_writes_the_same_bytes_and_prints_the_table(copy, trained, built_dataset, capsys):
    run_evaluate(copy, built_dataset, "--split", "val", "--checkpoint", "last")
    for name in ("predictions_val_last.csv", "metrics_val_last.json"):
        found, expected = ((folder / name).read_text() for folder in (copy, trained))
        sha = r'"git_sha": .*'  # the checkout may have been edited between the two
        assert re.sub(sha, "", found) == re.sub(sha, "", expected)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["finding", "positives", "pooled", "AUROC"]
    assert [line.split("  ")[0] for line in printed[16:18]] == ["age, sex, view position only", "labels shuffled"]
    assert printed[-1] == f"written: {copy / 'metrics_val_last.json'}"


def test_an_empty_split_is_scored_as_undefined(copy, altered_dataset, capsys):
    data_dir = altered_dataset(lambda info: info["splits"]["test"].update(images=0, patients=0, shards=[]))
    run_evaluate(copy, data_dir)
    scores = json.loads((copy / "metrics_test_best.json").read_text())
    assert (scores["images"], scores["patients"], scores["loss"]) == (0, 0, None)
    assert scores["mean_auroc"] == {"value": None, "low": None, "high": None, "findings": 0}
    assert read_csv(copy / "predictions_test_best.csv") == []
    assert "the test split is empty: nothing to score" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("wanted", "passes"), [(0.0, True), (1.0, False)])
def test_at_least_decides_the_exit_code(copy, built_dataset, wanted, passes):
    value = json.loads((copy / "metrics_test_best.json").read_text())["mean_auroc"]["value"]
    if passes:
        run_evaluate(copy, built_dataset, "--at_least", str(wanted))
    else:
        with pytest.raises(SystemExit, match=f"^error: mean AUROC {value} is not above --at_least 1.0$"):
            run_evaluate(copy, built_dataset, "--at_least", str(wanted))


def test_an_untrained_experiment(built_dataset, tmp_path):
    (tmp_path / "params.json").write_text("{}")
    text = f"error: {tmp_path} has not been trained. Run: python train.py --model_dir {tmp_path}"
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}$"):
        run_evaluate(tmp_path, built_dataset)


def test_an_experiment_that_has_not_finished_an_epoch(copy, built_dataset):
    (copy / "best.weights.h5").unlink()
    text = f"error: no {copy / 'best.weights.h5'}. Run: python train.py --model_dir {copy}"
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}$"):
        run_evaluate(copy, built_dataset)


def test_params_that_were_changed_after_training(copy, built_dataset):
    (copy / "params.json").write_text(json.dumps(PARAMS | {"num_channels": 8}))
    text = (
        f"error: {copy}/params.json was changed since the run began: num_channels 4, now 8. Undo that, copy the folder"
    )
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}"):
        run_evaluate(copy, built_dataset)


def test_images_of_another_size(copy, altered_dataset):
    data_dir = altered_dataset(lambda info: info.update(image_size=64))
    text = f"error: {data_dir} has images of 64 pixels, the model was trained on 32. Run: python build_dataset.py "
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}"):
        run_evaluate(copy, data_dir)


def test_findings_in_another_order(copy, altered_dataset):
    data_dir = altered_dataset(lambda info: info["findings"].reverse())
    text = f"error: {data_dir}/dataset.json has the findings Hernia, Pleural_Thickening, "
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}"):
        run_evaluate(copy, data_dir)


def test_fewer_predictions_than_images(built_dataset):
    with pytest.raises(ValueError, match=r"^11 predictions for 12 images: the dataset changed in the meantime$"):
        evaluate.predictions_of(index_of(built_dataset, "test"), np.zeros((11, 14)))


def test_unknown_metadata_are_empty_in_the_csv(built_dataset):
    index = index_of(built_dataset, "test")
    unknown = index._replace(
        ages=index.ages * np.nan, sexes=index.sexes * 0 - 1, view_positions=index.view_positions * 0 - 1
    )
    lines = predictions.to_csv(evaluate.predictions_of(unknown, np.zeros((12, 14)))).splitlines()
    assert all(line.endswith(",0.5,,,,") for line in lines[1:])


def require_tta_of_copies(model_dir: Path, data_dir: Path) -> None:
    """Score val and test with three copies of every image, and compare with the mean of their logits."""
    before = (model_dir / "metrics_val_best.json").read_text()
    run_evaluate(model_dir, data_dir, "--split", "val", "--tta", "3")
    datasets = {"image": dataset.open_dataset(data_dir)}
    params = load_params(model_dir)
    model = trained_model(model_dir)
    batches = [input_fn("val", datasets, params, inputs=["image"], tta_copy=copy) for copy in range(3)]
    logits = [model.predict(batch, verbose=0) for batch in batches]
    assert not np.allclose(logits[0], logits[1])
    rows = read_csv(model_dir / "tta_3/predictions_val_best.csv")
    written = [[float(row[f"prob_{finding}"]) for finding in FINDINGS] for row in rows]
    np.testing.assert_allclose(written, 1 / (1 + np.exp(-np.mean(logits, axis=0))), atol=1e-6)
    found = json.loads((model_dir / "tta_3/metrics_val_best.json").read_text())
    assert found["tta"] == 3
    assert (model_dir / "metrics_val_best.json").read_text() == before  # its operating points are without augmentation
    run_evaluate(model_dir, data_dir, "--tta", "3")  # test, with the operating points of tta_3
    tested = json.loads((model_dir / "tta_3/metrics_test_best.json").read_text())
    parts = [result["findings"]["Effusion"] for result in (tested, found)]
    thresholds_of = [{k: v["threshold"] for k, v in part["operating_points"].items()} for part in parts]
    assert thresholds_of[0] == thresholds_of[1] != {}


def test_tta_averages_the_copies_and_keeps_the_results_without_it(copy, built_dataset):
    require_tta_of_copies(copy, built_dataset)


def test_tta_averages_crops(tiny_release, build, tmp_path):
    data_dir = tmp_path / "records"
    build(tiny_release(patients=10), data_dir, "--image_size", 48, "--ratios", 0.6, 0.2, 0.2)
    (tmp_path / "params.json").write_text(json.dumps(PARAMS | {"crop_size": 32}))
    train.main(["--model_dir", str(tmp_path), "--data_dir", str(data_dir)])
    require_tta_of_copies(tmp_path, data_dir)


def test_tta_of_0_is_rejected(trained, built_dataset, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_evaluate(trained, built_dataset, "--tta", "0")
    assert "--tta 0: expected at least 1" in capsys.readouterr().err


def test_a_model_whose_outputs_are_nan_is_not_scored(copy, built_dataset):
    model = trained_model(copy)
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    experiment.save_weights(model, copy, "best")
    before = (copy / "metrics_test_best.json").read_text()
    with pytest.raises(SystemExit, match=r"^error: the model's outputs are NaN or infinite: its weights are damaged"):
        run_evaluate(copy, built_dataset)
    assert (copy / "metrics_test_best.json").read_text() == before
