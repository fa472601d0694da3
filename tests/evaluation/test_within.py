import numpy as np
import pytest

from cxr.evaluation import metrics
from cxr.evaluation.within import across_groups, within_groups
from cxr.findings import FINDINGS


def of_one_finding(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """The columns of all findings, of which only the first has positives."""
    truth, probabilities = np.zeros((len(labels), 14), np.int64), np.zeros((len(labels), 14))
    truth[:, 0], probabilities[:, 0] = labels, scores
    return truth, probabilities


def within(labels, scores, groups, patients=None) -> dict:
    patients = np.arange(len(labels)) if patients is None else np.array(patients)
    return within_groups(*of_one_finding(labels, scores), patients, np.array(groups))


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "expected", "pairs"),
    [
        ([1, 0, 1, 0], [0.9, 0.1, 0.2, 0.3], "AABB", 0.5, 2),  # won in A, lost in B
        ([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], "AABB", float("nan"), 0),  # each group has one class
        ([1, 0, 0, 1, 0], [0.9, 0.8, 0.95, 0.2, 0.2], "AAABB", 0.5, 3),  # 1 + 0 of A, a tie in B: 1.5 of 3
        ([1, 0, 1, 0], [0.9, 0.1, 0.2, 0.3], ["A", "A", "", ""], 1.0, 1),  # an unknown group is in no pair
        ([1, 0, 1, 0], [0.9, 0.1, 0.2, 0.3], "AAAA", 0.75, 4),  # one group: the pooled AUROC
    ],
)
def test_concordance_within_groups_by_hand(labels, scores, groups, expected, pairs):
    found = within(labels, scores, list(groups))
    assert found["findings"]["Atelectasis"]["auroc"] == pytest.approx(expected, nan_ok=True)
    assert found["findings"]["Atelectasis"]["pairs"] == pairs
    assert found["mean_auroc"]["value"] == pytest.approx(expected, nan_ok=True)
    assert found["mean_auroc"]["findings"] == int(pairs > 0)
    assert np.isnan(found["findings"]["Hernia"]["auroc"])


def test_a_model_that_tells_the_group_alone_has_half_within_and_nearly_all_pooled():
    groups = np.repeat(["A", "B"], 100)
    labels = np.r_[np.arange(100) < 80, np.arange(100) < 20].astype(int)
    scores = np.repeat([0.9, 0.1], 100)
    assert metrics.auroc(labels, scores) == pytest.approx(0.8)
    found = within(labels, scores, groups)
    assert found["findings"]["Atelectasis"]["auroc"] == 0.5
    assert found["groups"] == {"A": 100, "B": 100}


def test_intervals_are_over_patients():
    labels, scores = [1, 0, 0, 1], [0.9, 0.1, 0.8, 0.2]
    found = within(labels, scores, list("AABB"), patients=[1, 1, 2, 2])["findings"]["Atelectasis"]
    assert (found["auroc"], found["low"], found["high"]) == (0.5, 0.0, 1.0)  # patient 1 alone wins all, patient 2 none
    alone = within(labels, scores, list("AABB"), patients=[7, 7, 7, 7])["findings"]["Atelectasis"]
    assert np.isnan([alone["low"], alone["high"]]).all()


def test_positives_of_one_group_against_negatives_of_the_other():
    labels, scores = of_one_finding([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1])
    groups, patients = np.array(["AP", "AP", "PA", "PA"]), np.arange(4)
    one = across_groups(labels, scores, patients, groups, positives="AP", negatives="PA")
    other = across_groups(labels, scores, patients, groups, positives="PA", negatives="AP")
    assert one["findings"]["Atelectasis"]["auroc"] == 1.0
    assert other["findings"]["Atelectasis"]["auroc"] == 0.0
    assert list(one["findings"]) == list(FINDINGS)


def test_within_one_group_the_intervals_are_those_of_the_pooled_auroc():
    random = np.random.default_rng(5)
    labels, scores = (random.random((90, 14)) < 0.3).astype(int), random.random((90, 14))
    patients = random.integers(0, 30, 90)
    pooled = metrics.aurocs_with_intervals(labels, scores, patients)
    found = within_groups(labels, scores, patients, np.full(90, "A"))
    assert found["mean_auroc"] == pytest.approx(pooled[0])
    for name in FINDINGS:
        assert found["findings"][name]["low"] == pytest.approx(pooled[1][name]["low"])
