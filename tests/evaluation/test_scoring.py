import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.evaluation import calibration, operating_points, scoring
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS

pytestmark = pytest.mark.usefixtures("few_resamples")


def made(*, images: int = 60, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (images, 14))
    return Predictions(
        image_ids=np.array([f"{row}.png" for row in range(images)]),
        patient_ids=generator.integers(0, 20, images),
        labels=labels,
        probabilities=np.round(0.3 * labels + 0.7 * generator.random(labels.shape), 2),
        ages=generator.integers(1, 90, images).astype(float),
        sexes=np.array(["F", "M"])[generator.integers(0, 2, images)],
        view_positions=np.array(["PA", "AP"])[generator.integers(0, 2, images)],
        groups=np.full(images, ""),
    )


@pytest.fixture(scope="module")
def val() -> dict:
    return scoring.score_predictions(made(), operating_points.fit(made()), made(seed=2).metadata)


@pytest.fixture(scope="module")
def test() -> dict:
    return scoring.score_predictions(made(seed=1), operating_points.fit(made()), made(seed=2).metadata)


def test_the_layout(val):
    assert list(val) == [
        "images",
        "patients",
        "loss",
        "mean_auroc",
        "findings",
        "subgroups",
        "floors",
        "within",
        "cross",
    ]
    assert list(val["findings"]["Mass"]) == [
        *("auroc", "low", "high", "average_precision", "positives"),
        *("threshold", "sensitivity", "specificity", "f1", "operating_points"),
        *("brier", "expected_calibration_error", "reliability", "calibration", "calibrated"),
    ]
    assert list(val["findings"]["Mass"]["operating_points"]) == list(operating_points.POINTS)
    assert list(val["subgroups"]) == ["view_position", "sex", "age"]
    assert list(val["floors"]) == ["metadata", "shuffled_labels"]
    assert list(val["within"]) == ["view_position"]  # no image has a group
    assert list(val["cross"]) == ["AP positives, PA negatives", "PA positives, AP negatives"]
    json.dumps(val, allow_nan=False)


def test_the_numbers_are_those_of_scikit_learn(test):
    given = made(seed=1)
    for column, name in enumerate(FINDINGS):
        labels, scores = given.labels[:, column], given.probabilities[:, column]
        found = test["findings"][name]
        assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
        assert found["average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
        assert found["positives"] == labels.sum()


def test_operating_points_are_fitted_on_one_set_and_scored_on_the_other(val, test):
    labels, scores = made(seed=1).labels[:, 4], made(seed=1).probabilities[:, 4]
    fitted = operating_points.choose_thresholds(made().labels[:, 4], made().probabilities[:, 4])
    for name, point in test["findings"]["Mass"]["operating_points"].items():
        assert point["threshold"] == val["findings"]["Mass"]["operating_points"][name]["threshold"] == fitted[name]
        assert point["sensitivity"] == (scores >= fitted[name])[labels == 1].mean()


def test_the_values_of_a_finding_are_those_at_its_youden_threshold(test):
    points = {name: finding["operating_points"] for name, finding in test["findings"].items()}
    for name, finding in test["findings"].items():
        flat = {key: finding[key] for key in ("threshold", "sensitivity", "specificity", "f1")}
        assert flat == {key: points[name]["youden"][key] for key in flat}
    for other in ("best_f1", "sensitivity_90"):  # at some finding the others have other values
        assert any(of_finding["youden"] != of_finding[other] for of_finding in points.values())


def test_calibration_is_fitted_on_one_set_and_scored_on_the_other(val, test):
    fitted = val["findings"]["Mass"]["calibration"]
    assert fitted == calibration.fit_platt(made().labels[:, 4], made().probabilities[:, 4])
    found, given = test["findings"]["Mass"], made(seed=1)
    assert found["calibration"] == fitted
    after = calibration.calibrate(given.probabilities[:, 4], fitted)
    assert found["brier"] == calibration.brier(given.labels[:, 4], given.probabilities[:, 4])
    assert found["calibrated"] == calibration.calibration_report(given.labels[:, 4], after)


def test_without_fitted_thresholds_there_are_no_operating_points():
    found = scoring.score_predictions(made(), {}, made().metadata)["findings"]["Mass"]
    assert found["auroc"] is not None
    assert (found["threshold"], found["f1"], found["calibration"], found["calibrated"]) == (None,) * 4
    assert found["operating_points"]["best_f1"] == dict.fromkeys(
        ("threshold", "sensitivity", "specificity", "precision", "f1")
    )


def test_undefined_is_none_and_left_out_of_the_mean():
    given = made()
    given.labels[:, 13] = 0  # no Hernia
    given.labels[:, 0] = 1  # all Atelectasis
    report = scoring.score_predictions(given, operating_points.fit(given), given.metadata)
    hernia, atelectasis = report["findings"]["Hernia"], report["findings"]["Atelectasis"]
    assert (hernia["positives"], hernia["auroc"], hernia["low"], hernia["average_precision"]) == (0, None, None, None)
    assert (hernia["threshold"], hernia["calibration"]) == (None, None)
    assert (atelectasis["auroc"], atelectasis["average_precision"]) == (None, 1.0)
    assert report["mean_auroc"]["findings"] == report["floors"]["metadata"]["mean_auroc"]["findings"] == 12
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("fitted", [operating_points.fit(made()), {}])
def test_no_images(fitted):
    none = made().rows(np.zeros(60, bool))
    report = scoring.score_predictions(none, fitted, made().metadata)
    assert report["within"]["view_position"]["mean_auroc"]["value"] is None
    assert (report["images"], report["patients"], report["loss"]) == (0, 0, None)
    assert report["mean_auroc"] == {"value": None, "low": None, "high": None, "findings": 0}
    assert report["findings"]["Mass"]["positives"] == 0
    assert report["findings"]["Mass"]["brier"] is None
