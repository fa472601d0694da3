import numpy as np
import pytest

from cxr.evaluation import metrics, shortcuts, within
from cxr.evaluation.predictions import Predictions

NAN = float("nan")


def made(labels, scores, *, view_positions=None, groups=None, patients=None) -> Predictions:
    """Predictions of Atelectasis; the other findings have no positives."""
    count = len(labels)
    truth = np.zeros((count, 14), np.int64)
    probabilities = np.zeros((count, 14))
    truth[:, 0] = labels
    probabilities[:, 0] = scores
    return Predictions(
        image_ids=np.arange(count).astype(str),
        patient_ids=np.arange(count) if patients is None else np.array(patients),
        labels=truth,
        probabilities=probabilities,
        ages=np.full(count, NAN),
        sexes=np.full(count, ""),
        view_positions=np.full(count, "") if view_positions is None else np.array(list(view_positions)),
        groups=np.full(count, "") if groups is None else np.array(list(groups)),
    )


def report_of(predictions: Predictions) -> dict:
    everything = np.full(len(predictions.labels), "all")
    pooled = within.resample_within(predictions.labels, predictions.probabilities, predictions.patient_ids, everything)
    return metrics.none_for_nan(shortcuts.within_report(predictions, pooled))


def telling_the_group() -> Predictions:
    """80 of 100 images of A have Atelectasis and 20 of 100 of B; the score is that of the group alone."""
    labels = np.r_[np.arange(100) < 80, np.arange(100) < 20].astype(int)
    return made(labels, np.repeat([0.9, 0.1], 100), groups="A" * 100 + "B" * 100)


def test_a_model_that_tells_the_group_alone_is_a_shortcut():
    report = report_of(telling_the_group())
    assert list(report) == ["view_position", "group"]
    values = report["group"]["findings"]["Atelectasis"]
    assert (values["auroc"], values["pairs"]) == (0.5, 80 * 20 + 20 * 80)
    assert values["excess"]["pooled"] == pytest.approx(0.8)
    assert values["excess"]["difference"] == pytest.approx(0.3)
    assert 0.2 < values["excess"]["low"] < 0.3 < values["excess"]["high"] < 0.4
    assert report["group"]["mean_auroc"]["excess"] == values["excess"]  # of the only finding that is defined
    assert report["view_position"]["findings"]["Atelectasis"]["excess"]["difference"] is None
    assert shortcuts.group_notes({"within": report, "cross": {}}) == [
        "within one group: mean AUROC of 1 0.500 [0.500, 0.500]",
        "SHORTCUT? by group: Atelectasis 0.800 pooled, 0.500 within; mean of 1 0.800 pooled, 0.500 within",
    ]


def test_a_model_that_does_not_tell_the_group_is_no_shortcut():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 400)
    found = made(labels, labels + random.normal(size=400), groups="AB" * 200, view_positions=["PA"] * 400)
    report = report_of(found)
    for values in (report["group"]["mean_auroc"], report["group"]["findings"]["Atelectasis"]):
        assert values["excess"]["low"] < 0 < values["excess"]["high"]
    excess = report["view_position"]["mean_auroc"]["excess"]
    assert (excess["difference"], excess["low"], excess["high"]) == (0, 0, 0)  # one group: the pooled AUROC
    assert not any(line.startswith("SHORTCUT") for line in shortcuts.group_notes({"within": report, "cross": {}}))


def test_the_interval_of_the_excess_is_of_the_same_resamples():
    random = np.random.default_rng(4)
    labels = random.integers(0, 2, 90)
    found = made(labels, random.random(90), groups="ABC" * 30, patients=random.integers(0, 30, 90))
    given = found.labels, found.probabilities, found.patient_ids
    inside = within.resample_within(*given, found.groups).samples[:, 0]
    low, high = np.percentile(metrics.bootstrap_aurocs(*given)[:, 0] - inside, [2.5, 97.5])
    excess = report_of(found)["group"]["findings"]["Atelectasis"]["excess"]
    assert (excess["low"], excess["high"]) == (pytest.approx(low), pytest.approx(high))


def test_the_excess_is_of_the_images_whose_group_is_known():
    # Of A: 0.9 > 0.1. Unknown: a positive below every negative, which would lower the pooled AUROC to 0.5.
    found = made([1, 0, 1, 0], [0.9, 0.1, 0.05, 0.3], groups=["A", "A", "", ""])
    excess = report_of(found)["group"]["findings"]["Atelectasis"]["excess"]
    assert (excess["pooled"], excess["difference"]) == (1.0, 0.0)


def test_one_patient_has_no_interval_and_no_shortcut():
    found = telling_the_group()._replace(patient_ids=np.full(200, 7))
    report = report_of(found)
    assert report["group"]["mean_auroc"]["excess"]["low"] is None
    assert shortcuts.group_notes({"within": report, "cross": {}}) == ["within one group: mean AUROC of 1 0.500"]


def test_the_largest_excess_is_named_first():
    def values(pooled, auroc, low):
        return {"auroc": auroc, "excess": {"pooled": pooled, "difference": pooled - auroc, "low": low, "high": 1.0}}

    findings = {
        "Mass": values(0.8, 0.75, 0.01),
        "Edema": values(0.894, 0.836, 0.04),
        "Hernia": values(0.9, 0.8, -0.01),  # the largest, but chance explains it
        "Nodule": values(0.6, 0.62, -0.1),
    }
    mean = {"value": 0.7, "low": 0.69, "high": 0.71, "findings": 4, "excess": values(0.7, 0.7, 0.0)["excess"]}
    report = {"view_position": {"mean_auroc": mean, "findings": findings}}
    assert shortcuts.group_notes({"within": report, "cross": {}})[1:] == [
        "SHORTCUT? by view position: Edema 0.894 pooled, 0.836 within; Mass 0.800 pooled, 0.750 within"
    ]


def test_across_view_positions_both_ways():
    found = made([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], view_positions=["AP", "AP", "PA", "PA"])
    cross = shortcuts.cross_report(found)
    values = {key: report["findings"]["Atelectasis"]["auroc"] for key, report in cross.items()}
    assert values == {"AP positives, PA negatives": 1.0, "PA positives, AP negatives": 0.0}
    unknown = shortcuts.cross_report(made([1, 0], [0.9, 0.1]))
    assert np.isnan(unknown["AP positives, PA negatives"]["mean_auroc"]["value"])
