"""Training on a dataset with groups: epochs are compared by the AUROC within groups."""

import csv
import json
import re

import numpy as np
import pytest
from support.identity import train_head
from support.runs import make_experiment, read_history, run_train
from support.tiny import save_tiny

from cxr.evaluation.within import within_groups
from cxr.records import example
from cxr.records.dataset import open_dataset
from cxr.records.example import Index
from training import epochs, start
from training.history import POOLED, WITHIN, History

pytestmark = pytest.mark.usefixtures("few_resamples")

BY_WITHIN = "best epoch by the mean val AUROC within groups, not the pooled one; val images by group: "


@pytest.fixture(scope="module")
def make_grouped(tmp_path_factory, write_release, build):
    """make_grouped(group_of): a dataset of 60 images of patients 1 to 20, in the groups of group_of(patient, image)."""

    def make(group_of):
        folder = tmp_path_factory.mktemp("grouped")
        names = [(patient, image) for patient in range(1, 21) for image in range(3)]
        lines = [f"{patient:08d}_{image:03d}.png,{group_of(patient, image)}\n" for patient, image in names]
        (folder / "groups.csv").write_text("image_id,group\n" + "".join(lines))
        flags = ["--ratios", 0.6, 0.2, 0.2, "--shard_size", 16, "--groups", folder / "groups.csv"]
        build(write_release(folder / "release"), folder / "records", *flags)
        return folder / "records"

    return make


@pytest.fixture(scope="module")
def grouped(make_grouped):
    """A dataset whose groups are the even and the odd patients."""
    return make_grouped(lambda patient, image: ("even", "odd")[patient % 2])


def val_of(labels, groups) -> Index:
    """A val index of one finding."""
    count = len(labels)
    truth = np.zeros((count, 14), np.int64)
    truth[:, 0] = labels
    unknown = np.full(count, -1)
    nan = np.full(count, np.nan)
    ids = np.arange(count)
    return Index(ids.astype(str), ids, truth, nan, unknown, unknown, np.array(groups), nan, nan)


def columns_of(labels, scores, groups) -> dict:
    val = val_of(labels, groups)
    return epochs.val_columns(val, np.repeat(np.array(scores)[:, None], 14, axis=1))


def test_the_columns_of_val_by_hand():
    row = columns_of([1, 0, 1, 0], [0.9, 0.1, 0.2, 0.3], ["A", "A", "B", "B"])
    assert (row[POOLED], row[WITHIN]) == (0.75, 0.5)  # three of four pairs; won in A, lost in B
    assert list(row)[:3] == ["val_loss", POOLED, WITHIN]
    row = columns_of([1, 0, 1, 0], [0.9, 0.1, 0.2, 0.3], ["A", "A", "", ""])
    assert (row[POOLED], row[WITHIN]) == (0.75, 1.0)  # images without a group are in no pair
    assert columns_of([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], ["A", "A", "B", "B"])[WITHIN] is None  # groups of one class


def test_without_groups_there_is_no_column():
    assert WITHIN not in columns_of([1, 0], [0.9, 0.1], ["", ""])


def test_the_mean_is_that_of_the_metrics_file():
    random = np.random.default_rng(7)
    labels = (random.random((60, 14)) < 0.2).astype(int)
    scores = random.random((60, 14))
    groups = np.array(list("ABC") * 20)
    val = val_of([0] * 60, groups)._replace(labels=labels)
    expected = within_groups(labels, scores, np.arange(60), groups)["mean_auroc"]["value"]
    assert epochs.val_columns(val, scores)[WITHIN] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "groups", "expected"),
    [
        ([1, 0, 0], ["A", "A", "B"], WITHIN),
        ([1, 0], ["A", "A"], WITHIN),  # one group: the pooled value
        ([1, 0], ["A", "B"], POOLED),  # each group is of one class
        ([1, 0], ["", ""], POOLED),
        ([], [], POOLED),
    ],
)
def test_epochs_are_compared_within_groups_if_that_is_defined(labels, groups, expected):
    assert start.criterion_of(val_of(labels, groups)) == expected


def test_a_history_by_the_value_within_groups(tmp_path):
    history = History(tmp_path, WITHIN)
    values = [(0.6, 0.6), (0.7, 0.7), (0.8, 0.65), (0.9, 0.6)]
    history.rows = [{"epoch": n, POOLED: pooled, WITHIN: within} for n, (pooled, within) in enumerate(values, 1)]
    assert (history.best, history.epochs_since_best(), history.plateaus(2)) == (0.7, 2, 1)
    history.rows[-1] |= {"loss": 0.16128, "images_per_second": 412.4, "seconds": 186.2}
    described = "val AUROC 0.9000   val AUROC within groups 0.6000 (best 0.7000)"
    assert history.describe(10) == f"epoch   4/10   loss 0.1613   {described}   412 img/s   186 s"


def test_where_pooled_and_within_disagree_within_decides(grouped, tmp_path, monkeypatch):
    """The best weights, early stopping and the learning rate; the pooled value improves in every epoch."""
    planned = [(0.6, 0.6), (0.7, 0.7), (0.8, 0.65), (0.9, 0.6), (0.95, 0.5)]
    seen = []

    def columns(val, probabilities):
        pooled, within = planned[len(seen)]
        seen.append(pooled)
        return {"val_loss": 0.5, POOLED: pooled, WITHIN: within}

    monkeypatch.setattr(epochs, "val_columns", columns)
    kept = []
    save = epochs.Run.save

    def note(run, *, is_best):
        kept.append(is_best)
        save(run, is_best=is_best)

    monkeypatch.setattr(epochs.Run, "save", note)
    schedule = {"lr_schedule": "plateau", "warmup_epochs": 0, "learning_rate": 0.01}
    model_dir = run_train(make_experiment(tmp_path, num_epochs=6, early_stopping_patience=3, **schedule), grouped)
    rows = read_history(model_dir)
    assert [float(row[WITHIN]) for row in rows] == [0.6, 0.7, 0.65, 0.6, 0.5]
    assert kept == [True, True, False, False, False]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.01] * 4 + [0.001])
    log = (model_dir / "train.log").read_text()
    assert log.count(BY_WITHIN) == 1
    assert "no better val AUROC within groups for 3 epochs: stopping" in log


def test_groups_of_one_class_leave_the_pooled_value(make_grouped, tmp_path):
    data_dir = make_grouped(lambda patient, image: f"{patient}-{image}")  # one image each
    model_dir = run_train(make_experiment(tmp_path, num_epochs=1), data_dir)
    log = (model_dir / "train.log").read_text()
    assert "best epoch by the pooled val mean AUROC: no group of val has images with and without a finding; " in log
    assert BY_WITHIN not in log
    assert [row[WITHIN] for row in read_history(model_dir)] == [""]


def test_groups_go_from_the_records_through_features_into_the_predictions(grouped, tmp_path):
    model_dir = train_head(tmp_path / "head", grouped, save_tiny(tmp_path / "tiny.weights.h5"))
    (cache,) = (grouped / "features").iterdir()
    images, features = open_dataset(grouped), open_dataset(cache)
    assert features.info["groups"] == images.info["groups"] == {"even": 30, "odd": 30}
    index = example.read_split_index(images.paths("val"))
    assert example.read_split_index(features.paths("val")).groups.tolist() == index.groups.tolist()
    with (model_dir / "predictions_val_best.csv").open(newline="") as file:
        assert [row["group"] for row in csv.DictReader(file)] == index.groups.tolist()
    log = (model_dir / "train.log").read_text()
    names, counts = np.unique(index.groups, return_counts=True)
    assert BY_WITHIN + f"{names[0]} {counts[0]}  {names[1]} {counts[1]}\n" in log
    assert re.search(
        r"best weights: val mean AUROC within groups 0\.\d{4} \[0\.\d{4}, [01]\.\d{4}\] over \d+ findings\n", log
    )
    rows = read_history(model_dir)
    scores = json.loads((model_dir / "metrics_val_best.json").read_text())
    best = max(float(row[WITHIN]) for row in rows)
    assert scores["within"]["group"]["mean_auroc"]["value"] == pytest.approx(best, abs=1e-6)
