"""Members that do not fit together, and uses of an average that make no sense."""

import json
import re
from pathlib import Path

import pytest
from support.runs import make_average, make_experiment, run_train

from cxr import experiment, identity, storage

pytestmark = pytest.mark.usefixtures("few_resamples")


def test_an_average_is_neither_a_member_nor_an_extractor_nor_a_start(world, pair, tmp_path):
    def error(folder: Path, *flags: str) -> str:
        with pytest.raises(SystemExit) as caught:
            run_train(folder, world / "records", *flags)
        return str(caught.value)

    top = make_average(tmp_path / "top", world / "cnn", pair)
    assert error(top) == f"error: {pair}, a member of {top}, is an average itself; list its members instead"
    spec = {"source": "experiment", "model_dir": str(pair)}
    over = make_experiment(tmp_path / "over", {"model": "feature_extractor", "extractors": [spec]})
    text = "is an average, which has no layer of features; use its members as extractors"
    assert error(over) == f"error: {pair} {text}"
    start = error(make_experiment(tmp_path / "start"), "--restore_from", str(pair))
    assert start == f"error: {pair} is an average and has no weights of its own; use one of its members"
    new = make_average(tmp_path / "new", world / "cnn", world / "float32")
    text = "error: --restore_from has no effect on an average: it trains nothing and has no weights of its own"
    assert error(new, "--restore_from", str(world / "cnn")) == text
    assert not (new / "run.json").exists()


def test_members_that_do_not_fit_are_rejected(world, copied, tmp_path):
    def error(*members: Path) -> str:
        with pytest.raises(SystemExit) as caught:
            run_train(make_average(tmp_path / "average", *members), world / "records")
        return str(caught.value)

    cnn, other = copied("cnn"), world / "float32"
    untrained = make_experiment(tmp_path / "untrained")
    assert error(cnn, untrained) == (
        f"error: {untrained} has not been trained. Run: python train.py --model_dir {untrained}"
    )
    digest = storage.sha256_of(cnn / "best.weights.h5")[:12]
    assert error(cnn, other, world / "cnn") == (
        f"error: the members {cnn} and {world / 'cnn'} have the same weights (SHA-256 {digest}), which would count "
        "twice; leave one of them out"
    )
    info = storage.read_json(cnn / "dataset.json")
    storage.write_json(cnn / "dataset.json", info | {"image_size": 64})
    assert error(cnn, other) == (
        f"error: the member {cnn} was trained on images of 64 pixels, {world / 'records'} has 32; all members of an "
        "average get the same images"
    )
    assert not (tmp_path / "average/run.json").exists()


def test_a_member_trained_on_patients_of_val_is_a_leak(world, copied, tmp_path):
    cnn = copied("cnn")
    patients = experiment.patients_of(cnn)
    assert len(patients["val"]) == 5
    experiment.patients_path(cnn).write_text(json.dumps({"train": patients["val"][:2], "val": [90, 91]}))
    average = make_average(tmp_path / "average", cnn, world / "float32")
    with pytest.raises(SystemExit, match=f"^error: 2 patients of val were in training of {re.escape(str(cnn))}: val "):
        run_train(average, world / "records")
    run_train(average, world / "records", "--allow_leak")
    assert identity.read(average)["leak"]["patients"] == 2
    assert storage.read_json(average / "metrics_val_best.json")["leak"]["where"] == [str(average), str(cnn)]
    seen = experiment.patients_of(average)
    assert seen["val"] == patients["val"]
    assert {90, 91} <= set(seen["train"])  # another member chose its weights on them
