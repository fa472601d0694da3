import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr.evaluation import comparison, metrics
from cxr.evaluation.predictions import Predictions

NAN = float("nan")


def made(strength: float, *, seed: int, images: int = 300) -> Predictions:
    """The same images, labels and patients for every strength and seed; strength 1 predicts perfectly."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (images, 14))
    patient_ids = generator.integers(0, 100, images)
    noise = np.random.default_rng(seed).random(labels.shape)
    names = np.array([f"{row}.png" for row in range(images)])
    blank = np.full(images, "")
    probabilities = strength * labels + (1 - strength) * noise
    return Predictions(names, patient_ids, labels, probabilities, np.full(images, NAN), *[blank] * 3)


def test_the_better_experiment_wins_and_the_other_loses_by_the_same():
    good, bad = made(0.3, seed=1), made(0.1, seed=2)
    won, lost = comparison.compare(good, bad), comparison.compare(bad, good)
    assert won["mean_auroc"]["low"] > 0
    assert won["mean_auroc"]["p"] == pytest.approx(2 / 1001)  # no resample is on the other side
    mass = won["findings"]["Mass"]
    expected = [roc_auc_score(part.labels[:, 4], part.probabilities[:, 4]) for part in (good, bad)]
    assert mass["difference"] == pytest.approx(expected[0] - expected[1], abs=1e-9)
    mean = np.mean([values["difference"] for values in won["findings"].values()])
    assert won["mean_auroc"]["difference"] == pytest.approx(mean)
    assert won["mean_auroc"]["findings"] == 14
    for key, mirrored in {"difference": "difference", "low": "high", "high": "low"}.items():
        assert lost["findings"]["Mass"][key] == pytest.approx(-mass[mirrored])
    assert lost["findings"]["Mass"]["p"] == mass["p"]


def test_both_are_scored_on_the_same_resamples():
    good, bad = made(0.3, seed=1), made(0.1, seed=2)
    drawn = [metrics.bootstrap_aurocs(part.labels, part.probabilities, part.patient_ids)[:, 4] for part in (good, bad)]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    found = comparison.compare(good, bad)["findings"]["Mass"]
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))


def test_an_experiment_does_not_differ_from_itself():
    one = made(0.2, seed=1)
    assert comparison.compare(one, one)["mean_auroc"] == {
        "difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "findings": 14
    }  # fmt: skip


def test_chance_is_rarely_significant():
    found = comparison.compare(made(0.1, seed=1), made(0.1, seed=2))["findings"]
    ps = np.array([values["p"] for values in found.values()])
    assert (ps < 0.05).sum() <= 3  # 0.7 is expected of 14
    assert np.median(ps) > 0.2


def test_the_paired_interval_is_narrower_where_two_experiments_agree():
    one = made(0.2, seed=1)
    other = one._replace(probabilities=np.clip(one.probabilities + 0.02 * made(0, seed=3).probabilities, 0, 1))
    paired = comparison.compare(one, other)["mean_auroc"]
    alone, _ = metrics.aurocs_with_intervals(one.labels, one.probabilities, one.patient_ids)
    assert paired["high"] - paired["low"] < 0.5 * (alone["high"] - alone["low"])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([1.0] * 9, 2 * 1 / 10),
        ([1.0] * 8 + [-1.0], 2 * 2 / 10),
        ([1.0] * 8 + [0.0], 2 * 2 / 10),  # a tie counts on both sides
        ([0.0] * 9, 1.0),
        ([1.0] * 9 + [NAN], 2 * 1 / 10),
        ([NAN], NAN),
    ],
)
def test_two_sided_p(samples, expected):
    assert comparison.two_sided_p(np.array(samples)) == pytest.approx(expected, nan_ok=True)


def test_a_finding_with_one_class_is_undefined_and_not_in_the_mean():
    one, other = made(0.3, seed=1), made(0.1, seed=2)
    for part in (one, other):
        part.labels[:, 13] = 0
    found = comparison.compare(one, other)
    assert found["findings"]["Hernia"] == pytest.approx(
        {"difference": NAN, "low": NAN, "high": NAN, "p": NAN}, nan_ok=True
    )
    assert found["mean_auroc"]["findings"] == 13


def change_labels(part: Predictions) -> Predictions:
    labels = part.labels.copy()
    labels[7, 2] = 1 - labels[7, 2]
    return part._replace(labels=labels)


@pytest.mark.parametrize(
    ("change_ours", "change_theirs", "text"),
    [
        (
            lambda part: part,
            change_labels,
            "1 images have different labels or patients in the two experiments, the first 7.png: ",
        ),
        (
            lambda part: part,
            lambda part: part._replace(patient_ids=part.patient_ids + 1),
            "300 images have different labels or patients in the two experiments, the first 0.png: ",
        ),
        (
            *[lambda part: part._replace(patient_ids=np.full(300, 7))] * 2,
            "all images are of one patient; a comparison over patients needs at least two",
        ),
        (
            *[lambda part: part._replace(labels=np.zeros((300, 14), int))] * 2,
            "no finding has both classes among the 300 images: nothing to compare",
        ),
    ],
)
def test_what_cannot_be_compared(change_ours, change_theirs, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        comparison.compare(change_ours(made(0.3, seed=1)), change_theirs(made(0.1, seed=2)))


def test_within_groups_only_pairs_of_one_group_count():
    """Ours tells the group alone: 0.8 pooled and 0.5 within. Theirs tells nothing: 0.5 and 0.5."""
    labels = np.zeros((200, 14), int)
    labels[:, 4] = np.r_[np.arange(100) < 80, np.arange(100) < 20]
    one = made(0.2, seed=1, images=200)._replace(
        labels=labels,
        patient_ids=np.arange(200),
        probabilities=np.repeat([[0.9], [0.1]], 100, axis=0) * np.ones(14),
        groups=np.repeat(["A", "B"], 100),
    )
    other = one._replace(probabilities=np.full((200, 14), 0.5))
    found = comparison.compare(one, other)
    assert found["mean_auroc"]["difference"] == pytest.approx(0.3)
    assert found["mean_auroc"]["p"] == pytest.approx(2 / 1001)
    assert list(found["within"]) == ["view_position", "group"]
    assert found["within"]["group"]["findings"]["Mass"] == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert found["within"]["group"]["mean_auroc"]["findings"] == 1
    unknown = found["within"]["view_position"]["mean_auroc"]
    assert (unknown["findings"], np.isnan(unknown["difference"])) == (0, True)
