"""evaluate.py on datasets that the experiment was not trained on, and beside other experiments."""

import json
import re
import shutil
from pathlib import Path

import pytest

import evaluate
import train
from cxr.evaluation import metrics, predictions
from cxr.evaluation.comparison import compare
from cxr.records.dataset import open_dataset

pytestmark = pytest.mark.usefixtures("few_resamples")

PARAMS = {"image_size": 32, "num_channels": 4, "num_blocks": 1, "num_epochs": 1, "batch_size": 8}


def run_evaluate(model_dir: Path, data_dir: Path, *flags: str) -> None:
    evaluate.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir), *flags])


def assert_error(text: str, *arguments) -> None:
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}$"):
        run_evaluate(*arguments)


def read_metrics(folder: Path, split: str = "test") -> dict:
    return json.loads((folder / f"metrics_{split}_best.json").read_text())


def run_train(model_dir: Path, data_dir: Path, **changes) -> Path:
    (model_dir / "params.json").write_text(json.dumps(PARAMS | changes))
    train.main(["--model_dir", str(model_dir), "--data_dir", str(data_dir)])
    return model_dir


@pytest.fixture(scope="module")
def trained(one_epoch, tmp_path_factory) -> Path:
    """One epoch of training. Shared: tests that change it work on `copy`."""
    return shutil.copytree(one_epoch, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def rival(built_dataset, tmp_path_factory) -> Path:
    """The same with another seed, and evaluated."""
    model_dir = run_train(tmp_path_factory.mktemp("rival"), built_dataset, seed=231)
    run_evaluate(model_dir, built_dataset)
    return model_dir


@pytest.fixture(scope="module")
def elsewhere(write_release, build, tmp_path_factory) -> Path:
    """The same 20 patients split at random by another seed, so that test patients were in training."""
    folder = tmp_path_factory.mktemp("elsewhere")
    release = write_release(folder / "release", lists=False)
    build(release, folder / "records", "--ratios", 0.2, 0.3, 0.5, "--seed", 7)
    return folder / "records"


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "copy")


def keep_patients(model_dir: Path, **patients: list[int]) -> None:
    (model_dir / "patients.json").write_text(json.dumps({"train": [], "val": []} | patients))


def fingerprint(data_dir: Path) -> str:
    return json.loads((data_dir / "dataset.json").read_text())["fingerprint"]


def test_patients_seen_in_training_are_rejected(copy, elsewhere):
    text = f"were in training or validation of {copy}, so scores would be too good. Evaluate on a dataset of other "
    with pytest.raises(SystemExit, match=rf"^error: \d+ of the \d+ patients of test {re.escape(text)}"):
        run_evaluate(copy, elsewhere)
    assert not (copy / "external").exists()


def test_an_allowed_leak_is_marked_in_table_and_file(copy, elsewhere, capsys):
    keep_patients(copy, val=[int(predictions_patients(elsewhere)[0])])
    run_evaluate(copy, elsewhere, "--allow_leak")
    leak = read_metrics(copy / "external" / fingerprint(elsewhere)[:12])["leak"]
    assert leak == {"patients": 1, "images": 3, "where": [str(copy)], "unknown": []}
    text = f"LEAK: 1 of these patients (3 images) were in training or validation of {copy}; the scores are too good"
    assert text in capsys.readouterr().out.splitlines()


def predictions_patients(data_dir: Path) -> list[int]:
    from cxr.records.dataset import open_dataset

    return evaluate.split_index(open_dataset(data_dir), "test").patient_ids.tolist()


def test_external_validation_names_both_datasets_and_keeps_the_internal_results(copy, elsewhere, built_dataset, capsys):
    keep_patients(copy, train=[1000])
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    run_evaluate(copy, elsewhere, "--split", "val")
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before
    folder = copy / "external" / fingerprint(elsewhere)[:12]
    found, own = read_metrics(folder, "val"), read_metrics(copy, "val")
    assert found["trained_on"] == own["evaluated_on"]
    assert (found["evaluated_on"]["fingerprint"], found["split_name"]) == (fingerprint(elsewhere), "random")
    printed = capsys.readouterr().out.splitlines()
    assert f"evaluated on Data_Entry_2017.csv, fingerprint {fingerprint(elsewhere)[:12]}" in printed
    trained_on = f"Data_Entry_2017.csv, split official, fingerprint {fingerprint(built_dataset)[:12]}"
    assert f"EXTERNAL: trained on {trained_on}" in printed
    assert printed[-1] == f"written: {folder / 'metrics_val_best.json'}"
    # Even val of another dataset is scored at the operating points of the experiment's own val.
    assert {name: values["threshold"] for name, values in found["findings"].items()} == {
        name: values["threshold"] for name, values in own["findings"].items()
    }


def test_an_experiment_without_patients_json(copy, elsewhere, capsys):
    (copy / "patients.json").unlink()
    run_evaluate(copy, elsewhere)
    assert f"LEAK UNKNOWN: {copy} has no patients.json to compare with" in capsys.readouterr().out.splitlines()


def test_literature_all_prints_rows_of_other_splits(copy, built_dataset, capsys):
    run_evaluate(copy, built_dataset)
    assert "CheXNet 2017" not in capsys.readouterr().out
    run_evaluate(copy, built_dataset, "--literature", "all")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("CheXNet 2017"))
    assert "random, NOT COMPARABLE" in line


def test_the_difference_from_another_experiment_is_tested(copy, rival, built_dataset, capsys):
    run_evaluate(copy, built_dataset, "--compare", str(rival))
    found = read_metrics(copy)["comparison"]
    ours, theirs = (predictions.read_predictions(folder / "predictions_test_best.csv") for folder in (copy, rival))
    expected = metrics.none_for_nan(compare(ours, theirs))
    leak = {"patients": 0, "images": 0, "where": [], "unknown": []}
    assert found == {"model_dir": str(rival), "leak": leak, "seen": {"networks": {}, "scored": {}}, **expected}
    aurocs = [read_metrics(folder)["mean_auroc"]["value"] for folder in (copy, rival)]
    assert found["mean_auroc"]["difference"] == pytest.approx(aurocs[0] - aurocs[1])
    printed = capsys.readouterr().out.splitlines()
    assert f"AUROC minus that of {rival} on the same images (paired bootstrap over patients)" in printed
    assert printed[-2].split()[:3] == ["mean", "of", str(found["mean_auroc"]["findings"])]


def test_the_leak_of_the_other_experiment_is_marked(copy, rival, built_dataset, tmp_path, capsys):
    other = shutil.copytree(rival, tmp_path / "rival")
    seen = evaluate.split_index(open_dataset(built_dataset), "test").patient_ids[:1].tolist()
    patients = json.loads((other / "patients.json").read_text())
    (other / "patients.json").write_text(json.dumps(patients | {"train": patients["train"] + seen}))
    run_evaluate(copy, built_dataset, "--compare", str(other))
    assert read_metrics(copy)["comparison"]["leak"]["patients"] == 1
    printed = capsys.readouterr().out
    assert f"were in training or validation of {other}; the scores of {other} are too good" in printed


def test_comparing_with_an_experiment_that_has_not_been_evaluated(copy, trained, built_dataset):
    text = (
        f"error: no {trained}/predictions_test_best.csv to compare with. Run: python evaluate.py "
        f"--model_dir {trained} --data_dir {built_dataset} --split test --checkpoint best"
    )
    assert_error(text, copy, built_dataset, "--compare", str(trained))


@pytest.fixture
def altered_rival(rival, tmp_path):
    """altered_rival(function): a copy of the rival whose predictions are function(lines)."""

    def alter(function) -> Path:
        folder = shutil.copytree(rival, tmp_path / "rival")
        path = folder / "predictions_test_best.csv"
        path.write_text("\n".join(function(path.read_text().splitlines())) + "\n")
        return folder

    return alter


def test_comparing_with_predictions_that_lack_an_image(copy, altered_rival, built_dataset):
    folder = altered_rival(lambda lines: [line for line in lines if not line.startswith("00000018_001.png")])
    path = folder / "predictions_test_best.csv"
    text = f"error: {path} lacks image 00000018_001.png of test of {built_dataset}"
    assert_error(text, copy, built_dataset, "--compare", str(folder))


def test_comparing_with_predictions_of_another_image(copy, altered_rival, built_dataset):
    folder = altered_rival(lambda lines: [*lines, lines[-1].replace(lines[-1].split(",")[0], "x.png")])
    path = folder / "predictions_test_best.csv"
    text = f"error: {path} has image x.png, which is not in test of {built_dataset}"
    assert_error(text, copy, built_dataset, "--compare", str(folder))


def test_comparing_with_predictions_in_another_order(copy, rival, altered_rival, built_dataset):
    folder = altered_rival(lambda lines: [lines[0], *reversed(lines[1:])])
    run_evaluate(copy, built_dataset, "--compare", str(rival))
    expected = read_metrics(copy)["comparison"]
    run_evaluate(copy, built_dataset, "--compare", str(folder))
    assert read_metrics(copy)["comparison"] == expected | {"model_dir": str(folder)}
