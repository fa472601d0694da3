import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from cxr.evaluation import operating_points
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS

NAN = float("nan")
SCORES = np.array([0.1, 0.4, 0.35, 0.8])

# Few distinct scores, so many ties; both classes are present.
mixed = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@pytest.mark.parametrize(
    ("labels", "scores", "youden", "sensitivity_90", "best_f1"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8], 0.7, 0.7, 0.7),  # everything is right from 0.7
        # 1/2 + 1 at 0.8, 1 + 1/2 at 0.35: ties go to the highest; F1 2/3 at 0.8, 4/5 at 0.35
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.8, 0.35, 0.35),
        # 1/2 + 1 beats 1 + 1/3 at the tie of 0.3; F1 2/3 at 0.8, 4/6 at 0.3: ties go to the highest
        ([0, 0, 0, 1, 1], [0.1, 0.3, 0.4, 0.3, 0.8], 0.8, 0.3, 0.8),
        ([0, 0, 0, 1, 1], [0.1, 0.1, 0.4, 0.3, 0.3], 0.3, 0.3, 0.3),  # 1 + 2/3
        ([1] * 10 + [0], [*np.arange(10, 0, -1.0), 0.5], 1, 2, 1),  # nine of ten positives at 2
        ([1, 1], [0.1, 0.9], NAN, NAN, NAN),
        ([0], [0.1], NAN, NAN, NAN),
        ([], [], NAN, NAN, NAN),
    ],
)
def test_the_operating_points(labels, scores, youden, sensitivity_90, best_f1):
    expected = {"youden": youden, "sensitivity_90": sensitivity_90, "best_f1": best_f1}
    found = operating_points.choose_thresholds(np.array(labels, int), np.array(scores, float))
    assert found == pytest.approx(expected, nan_ok=True)


@settings(deadline=None)  # the machine may be busy
@given(mixed)
def test_no_score_is_a_better_threshold(pairs):
    labels, scores = np.array(pairs).T
    chosen = operating_points.choose_thresholds(labels, scores)
    at = {score: operating_points.at_threshold(labels, scores, score) for score in scores}

    def youden(score):
        return at[score]["sensitivity"] + at[score]["specificity"]

    assert youden(chosen["youden"]) == pytest.approx(max(map(youden, at)))
    assert at[chosen["best_f1"]]["f1"] == max(values["f1"] for values in at.values())
    sensitive = [score for score in at if at[score]["sensitivity"] >= 0.9]
    assert chosen["sensitivity_90"] == max(sensitive)


@pytest.mark.parametrize(
    ("labels", "threshold", "sensitivity", "specificity", "precision", "f1"),
    [
        ([0, 0, 1, 1], 0.35, 1.0, 0.5, 2 / 3, 0.8),  # at the threshold is a call: 2 hits in 3, f1 = 4 / (2 + 3)
        ([0, 0, 1, 1], 0.36, 0.5, 0.5, 0.5, 0.5),  # 1 hit in 2 calls
        ([0, 0, 1, 1], 0.9, 0.0, 1.0, NAN, 0.0),  # no calls
        ([1, 1, 1, 1], 0.36, 0.5, NAN, 1.0, 2 / 3),  # no negatives: no specificity
        ([0, 0, 0, 0], 0.36, NAN, 0.5, 0.0, NAN),  # no positives
        ([0, 0, 1, 1], NAN, NAN, NAN, NAN, NAN),  # no operating point
    ],
)
def test_at_threshold(labels, threshold, sensitivity, specificity, precision, f1):
    found = operating_points.at_threshold(np.array(labels), SCORES, threshold)
    expected = {"sensitivity": sensitivity, "specificity": specificity, "precision": precision, "f1": f1}
    assert found == pytest.approx(expected, nan_ok=True)


@settings(deadline=None)
@given(mixed, st.integers(0, 9))
def test_at_threshold_is_what_scikit_learn_counts(pairs, threshold):
    labels, scores = np.array(pairs).T
    calls = (scores >= threshold).astype(int)
    (right, wrong), _ = confusion_matrix(labels, calls)
    expected = {
        "sensitivity": recall_score(labels, calls),
        "specificity": right / (right + wrong),
        "precision": precision_score(labels, calls, zero_division=np.nan),
        "f1": f1_score(labels, calls),
    }
    found = operating_points.at_threshold(labels, scores, threshold)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_calibration_and_calls_by_hand():
    nan = math.nan
    points = operating_points.OperatingPoints(
        *(np.array([a, b, nan]) for a, b in ((0.5, 0.2), (2.0, 1.0), (-1.0, 0.0)))
    )
    p = np.array([0.5, 0.2, 0.9])
    # logit(0.5) = 0, so sigmoid(-1); slope 1 and intercept 0 change nothing; without calibration nothing changes
    np.testing.assert_allclose(points.calibrated(p), [1 / (1 + math.e), 0.2, 0.9], atol=1e-12)
    assert points.calls(p) == [True, True, None]  # at the threshold is a call
    assert points.calls(p - 1e-9) == [False, False, None]
    same = points.calibrated(p) >= points.calibrated(points.thresholds)
    assert list(same[:2]) == points.calls(p)[:2]  # on the other side of the calibration too


def test_metrics_files_from_before_calibration_still_give_calls(tmp_path):
    (tmp_path / "metrics_val_best.json").write_text(
        json.dumps({"findings": {key: {"threshold": 0.3} for key in FINDINGS}})
    )
    points = operating_points.read_points(tmp_path, "best")
    assert not points.is_empty
    assert points.calibrated(np.full(14, 0.3)).tolist() == [0.3] * 14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"findings": {"Mass": {}}}', "has the findings Mass; this code works with Atelectasis"),
        (json.dumps({"findings": {key: {} for key in FINDINGS}}), r"is not a metrics file \(KeyError\('threshold'\)\)"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_file_that_is_not_a_metrics_file_is_named(tmp_path, text, message):
    (tmp_path / "metrics_val_best.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        operating_points.read_points(tmp_path, "best")


def predictions(*, images: int = 60, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (images, 14))
    probabilities = np.round(0.3 * labels + 0.7 * generator.random(labels.shape), 2)
    rows = np.arange(images)
    unknown = np.full(images, "")
    return Predictions(rows.astype(str), rows, labels, probabilities, np.full(images, NAN), *[unknown] * 3)


def metrics_of(fitted: dict[str, dict], **changes) -> str:
    """A metrics file of val, as far as `read_fitted` reads it; nan is null there."""
    findings = {
        name: {
            "operating_points": {
                point: {"threshold": None if math.isnan(threshold) else threshold}
                for point, threshold in finding["thresholds"].items()
            },
            "calibration": finding["calibration"],
        }
        for name, finding in fitted.items()
    }
    return json.dumps({"findings": findings, **changes})


def test_what_was_fitted_is_read_back_from_the_metrics_of_val(tmp_path):
    fitted = operating_points.fit(predictions())
    (tmp_path / "metrics_val_best.json").write_text(metrics_of(fitted, weights_sha256="a"))
    assert operating_points.read_fitted(tmp_path, "best", "a") == fitted
    assert operating_points.read_fitted(tmp_path, "last", "a") == {}


def test_an_undefined_threshold_is_read_back_as_nan(tmp_path):
    given = predictions()
    given.labels[:, FINDINGS.index("Mass")] = 0
    (tmp_path / "metrics_val_best.json").write_text(metrics_of(operating_points.fit(given)))
    mass = operating_points.read_fitted(tmp_path, "best", "a")["Mass"]
    assert all(math.isnan(threshold) for threshold in mass["thresholds"].values())
    assert mass["calibration"] is None


def test_fitted_points_as_arrays():
    given = predictions()
    given.labels[:, FINDINGS.index("Hernia")] = 1
    fitted = operating_points.fit(given)
    points = operating_points.points_of(fitted)
    mass = FINDINGS.index("Mass")
    thresholds = [finding["thresholds"] for finding in fitted.values()]
    np.testing.assert_equal(points.thresholds, [by_point["youden"] for by_point in thresholds])
    assert any(by_point["youden"] != by_point["best_f1"] for by_point in thresholds if by_point["youden"] > 0)
    assert points.slopes[mass] == fitted["Mass"]["calibration"]["slope"]
    assert points.intercepts[mass] == fitted["Mass"]["calibration"]["intercept"]
    assert np.isnan([column[FINDINGS.index("Hernia")] for column in points]).all()


def test_metrics_of_val_from_an_earlier_version(tmp_path):
    (tmp_path / "metrics_val_best.json").write_text('{"findings": {"Mass": {"threshold": 0.5}}}')
    text = (
        f"{tmp_path}/metrics_val_best.json has no operating points: an earlier version wrote it. "
        "Evaluate --split val --checkpoint best of this experiment again"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        operating_points.read_fitted(tmp_path, "best", "a")


def test_metrics_of_val_with_other_weights(tmp_path):
    path = tmp_path / "metrics_val_best.json"
    path.write_text(metrics_of(operating_points.fit(predictions()), weights_sha256="a"))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} was measured with other weights than"):
        operating_points.read_fitted(tmp_path, "best", "b")
