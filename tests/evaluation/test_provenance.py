import json
import re

import numpy as np
import pytest

from cxr.evaluation import provenance
from cxr.findings import FINDINGS
from cxr.params import load_params


def info(fingerprint: str) -> dict:
    return {
        **{"findings": list(FINDINGS), "image_size": 32, "fingerprint": fingerprint, "kind": "images"},
        **{"source": {"csv": "a.csv", "csv_sha256": "77", "containers": []}, "split": {"name": "random", "seed": 1}},
    }


def make_experiment(folder, *, fingerprint: str, train=None, val=(), over=()):
    """A trained experiment on a dataset; without train there is no patients.json; `over` are its extractors."""
    folder.mkdir()
    extractors = [{"source": "experiment", "model_dir": str(below)} for below in over]
    model = {0: "simple_cnn", 1: "feature_extractor"}.get(len(over), "ensemble")
    (folder / "params.json").write_text(json.dumps({"model": model, "extractors": extractors}))
    (folder / "dataset.json").write_text(json.dumps(info(fingerprint)))
    if train is not None:
        (folder / "patients.json").write_text(json.dumps({"train": list(train), "val": list(val)}))
    return folder


SCORED = np.array([1, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("train", "val", "patients", "images"),
    [([5, 6], [7], 0, 0), ([1, 5], [7], 1, 2), ([5], [3], 1, 1), ([1, 2], [4], 3, 4)],
)
def test_patients_of_another_dataset_that_the_weights_have_seen(tmp_path, train, val, patients, images):
    model_dir = make_experiment(tmp_path / "a", fingerprint="old", train=train, val=val)
    where = [str(model_dir)] if patients else []
    for split in ("train", "val", "test"):
        found = provenance.find_leak(model_dir, info("new"), split, SCORED)
        assert found == {"patients": patients, "images": images, "where": where, "unknown": []}


def test_train_and_val_of_its_own_dataset_are_not_a_leak(tmp_path):
    model_dir = make_experiment(tmp_path / "a", fingerprint="one", train=[1, 2], val=[3])
    assert provenance.find_leak(model_dir, info("one"), "train", SCORED)["patients"] == 0
    assert provenance.find_leak(model_dir, info("one"), "val", SCORED[3:])["patients"] == 0
    assert provenance.find_leak(model_dir, info("one"), "test", SCORED)["patients"] == 3  # its lists were changed


def test_an_experiment_without_patients_json_is_unknown_except_on_its_own_dataset(tmp_path):
    model_dir = make_experiment(tmp_path / "a", fingerprint="old")
    nothing = {"patients": 0, "images": 0, "where": []}
    assert provenance.find_leak(model_dir, info("new"), "test", SCORED) == nothing | {"unknown": [str(model_dir)]}
    assert provenance.find_leak(model_dir, info("old"), "test", SCORED) == nothing | {"unknown": []}


def test_the_extractors_and_their_extractors_count_too(tmp_path):
    lowest = make_experiment(tmp_path / "lowest", fingerprint="older", train=[4])
    below = make_experiment(tmp_path / "below", fingerprint="old", train=[9], over=[lowest])
    beside = make_experiment(tmp_path / "beside", fingerprint="old", train=[1], val=[2])
    top = make_experiment(tmp_path / "top", fingerprint="new", train=[8], over=[below, beside])
    assert list(provenance.experiments_below(top)) == [top, below, lowest, beside]
    found = provenance.find_leak(top, info("new"), "test", SCORED)
    assert found == {"patients": 3, "images": 4, "where": [str(lowest), str(beside)], "unknown": []}
    assert provenance.find_leak(top, info("new"), "val", SCORED)["patients"] == 2  # but for 2, of the val of `beside`


def test_patients_of_val_in_the_training_set_of_other_weights_are_a_leak(tmp_path):
    model_dir = make_experiment(
        tmp_path / "a", fingerprint="one", train=[3, 9], val=[3, 4]
    )  # trained with --allow_leak
    assert provenance.find_leak(model_dir, info("one"), "val", SCORED[3:])["patients"] == 1


def test_patients_of_val_in_the_training_set_of_extractors_are_found_before_training(tmp_path):
    below = make_experiment(tmp_path / "below", fingerprint="old", train=[3], val=[4])
    over = make_experiment(tmp_path / "over", fingerprint="old", train=[9], over=[below])
    start = make_experiment(tmp_path / "start", fingerprint="old", train=[1])
    params = load_params(over)
    assert provenance.training_leak(params, SCORED, None) == {
        **{"patients": 1, "images": 1, "where": [str(below)], "unknown": []}
    }
    found = provenance.training_leak(params, SCORED, start)
    assert (found["patients"], found["where"]) == (2, [str(start), str(below)])
    text = f"2 patients of val were in training of {start} and {below}: val scores would be too good."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}.*--allow_leak"):
        provenance.require_no_training_leak(found)


def test_the_error_of_a_leak():
    provenance.require_no_leak({"patients": 0}, "test", 9)
    text = (
        "2 of the 1,000 patients of test were in training or validation of a and b, so scores would be too good. "
        "Evaluate on a dataset of other patients. If only the ids are equal, or you want the score anyway, add "
        "--allow_leak: the result is then marked"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        provenance.require_no_leak({"patients": 2, "where": ["a", "b"]}, "test", 1000)


def test_results_on_another_dataset_have_their_own_folder(tmp_path):
    model_dir = make_experiment(tmp_path / "a", fingerprint="0123456789abcdef")
    assert provenance.results_dir(model_dir, info("0123456789abcdef")) == model_dir
    assert provenance.results_dir(model_dir, info("fedcba9876543210")) == model_dir / "external/fedcba987654"
    assert provenance.results_dir(model_dir, info("0123456789abcdef"), tta=5) == model_dir / "tta_5"
    assert provenance.results_dir(model_dir, info("fedcba9876543210"), 2) == model_dir / "external/fedcba987654/tta_2"


def test_a_dataset_is_identified_by_its_csv_split_and_fingerprint():
    assert provenance.dataset_facts(info("one")) == {
        "csv": "a.csv", "csv_sha256": "77", "split_name": "random", "fingerprint": "one"
    }  # fmt: skip
