import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr.evaluation import metrics, subgroups
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS

pytestmark = pytest.mark.usefixtures("few_resamples")

AGES = [0, 17.9, 18, 39.99, 40, 59, 60, 79, 80, 95, np.nan, np.nan]
NAMES = ["0-17", "0-17", "18-39", "18-39", "40-59", "40-59", "60-79", "60-79", "80+", "80+", "unknown", "unknown"]


def made(repeats: int = 5) -> Predictions:
    """Twelve images of twelve ages, `repeats` times, all of different patients but pairs."""
    images = 12 * repeats
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (images, 14))
    return Predictions(
        image_ids=np.array([f"{row}.png" for row in range(images)]),
        patient_ids=np.arange(images) // 2,
        labels=labels,
        probabilities=0.3 * labels + 0.7 * generator.random(labels.shape),
        ages=np.array(AGES * repeats),
        sexes=np.array(["F", "M", "M", ""] * (images // 4)),
        view_positions=np.array(["PA", "PA", "AP"] * (images // 3)),
        groups=np.full(images, ""),
    )


def test_the_bounds_of_the_groups():
    assert subgroups.groups_of(made(1))["age"].tolist() == NAMES


def test_unknown_is_a_group():
    assert subgroups.groups_of(made(1))["sex"].tolist() == ["F", "M", "M", "unknown"] * 3
    assert subgroups.groups_of(made(1))["view_position"].tolist() == ["PA", "PA", "AP"] * 4


def test_each_group_is_scored_alone_and_empty_groups_are_absent():
    predictions = made()
    report = subgroups.subgroup_report(predictions)
    assert {kind: list(groups) for kind, groups in report.items()} == {
        "view_position": ["PA", "AP"],
        "sex": ["F", "M", "unknown"],
        "age": ["0-17", "18-39", "40-59", "60-79", "80+", "unknown"],
    }
    male = predictions.sexes == "M"
    found = report["sex"]["M"]
    assert (found["images"], found["patients"]) == (30, len(np.unique(predictions.patient_ids[male])))
    expected = [
        roc_auc_score(predictions.labels[male, column], predictions.probabilities[male, column])
        for column in range(len(FINDINGS))
    ]
    assert [values["auroc"] for values in found["findings"].values()] == pytest.approx(expected, abs=1e-9)
    assert found["mean_auroc"]["value"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert found["mean_auroc"]["low"] < found["mean_auroc"]["value"] < found["mean_auroc"]["high"]
    assert sum(group["images"] for group in report["age"].values()) == 60


def test_a_group_without_positives_has_no_auroc():
    predictions = made()
    predictions.labels[predictions.view_positions == "AP"] = 0
    found = subgroups.subgroup_report(predictions)["view_position"]["AP"]
    assert found["mean_auroc"]["findings"] == 0
    assert metrics.none_for_nan(found)["mean_auroc"]["value"] is None
    assert found["findings"]["Mass"]["positives"] == 0


def test_no_images_are_in_no_group():
    assert subgroups.subgroup_report(made().rows(np.zeros(60, bool))) == {"view_position": {}, "sex": {}, "age": {}}
