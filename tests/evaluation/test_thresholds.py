import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from cxr.evaluation import thresholds

NAN = float("nan")
SCORES = np.array([0.1, 0.4, 0.35, 0.8])

# Few distinct scores, so that ties abound; both classes are there.
mixed = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@pytest.mark.parametrize(
    ("labels", "scores", "youden", "sensitivity_90", "best_f1"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8], 0.7, 0.7, 0.7),  # everything is right from 0.7
        # 1/2 + 1 at 0.8, 1 + 1/2 at 0.35: of equals the highest; F1 2/3 at 0.8, 4/5 at 0.35
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.8, 0.35, 0.35),
        # 1/2 + 1 beats 1 + 1/3 at the tie of 0.3; F1 2/3 at 0.8, 4/6 at 0.3: of equals the highest
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
    found = thresholds.choose_thresholds(np.array(labels, int), np.array(scores, float))
    assert found == pytest.approx(expected, nan_ok=True)


@settings(deadline=None)  # the machine may be busy
@given(mixed)
def test_no_score_is_a_better_threshold(pairs):
    labels, scores = np.array(pairs).T
    chosen = thresholds.choose_thresholds(labels, scores)
    at = {score: thresholds.at_threshold(labels, scores, score) for score in scores}

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
    found = thresholds.at_threshold(np.array(labels), SCORES, threshold)
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
    found = thresholds.at_threshold(labels, scores, threshold)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
