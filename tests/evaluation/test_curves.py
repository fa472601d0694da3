import numpy as np
import pytest

from cxr.evaluation import metrics
from tools.reporting import curves
from tools.reporting.finding_figures import ticks_between

LABELS, SCORES = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])


def test_a_roc_curve_by_hand():
    false_positive_rates, sensitivities = curves.roc_curve(*metrics.called_at_thresholds(LABELS, SCORES))
    assert false_positive_rates.tolist() == [0, 0, 0.5, 0.5, 1]
    assert sensitivities.tolist() == [0, 0.5, 0.5, 1, 1]
    assert np.trapezoid(sensitivities, false_positive_rates) == metrics.auroc(LABELS, SCORES) == 0.75


def test_precision_at_a_recall_is_that_of_the_highest_threshold_that_reaches_it():
    called = metrics.called_at_thresholds(LABELS, SCORES)
    assert curves.precision_at(np.array([0.01, 0.5, 0.51, 1]), *called) == pytest.approx([1, 1, 2 / 3, 2 / 3])
    hundred = np.arange(1, 101)  # all positive: 0.07 * 100 is 7.000000000000001, and still the seventh
    assert curves.precision_at(np.array([0.07]), hundred, hundred * 2 - np.arange(100))[0] == 7 / (14 - 6)


def test_the_mean_precision_over_recalls_is_the_average_precision():
    rng = np.random.default_rng(0)
    labels, scores = np.arange(100) % 2, rng.random(100)  # 50 positives, so each hundredth recall is a half of a step
    precisions = curves.precision_at(curves.RECALLS, *metrics.called_at_thresholds(labels, scores))
    assert precisions.mean() == pytest.approx(metrics.average_precision(labels, scores))


def test_bands_of_two_patients_by_hand():
    # Patient 1 is ranked correctly, patient 2 reversed: a resample of one alone is a perfect or a reversed curve.
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.1, 0.2, 0.8])
    bands = curves.bands(labels, scores, np.array([1, 1, 2, 2]))
    assert set(bands.sensitivity_low[1:-1]) == {0}
    assert set(bands.sensitivity_high) == {1}
    assert set(bands.precision_low) == {0.5}
    assert set(bands.precision_high) == {1}


def test_bands_do_not_depend_on_the_order_of_images_and_enclose_the_curve():
    rng = np.random.default_rng(1)
    labels, patients = np.arange(200) % 4 == 0, np.arange(200) // 4
    scores, order = np.round(labels + rng.normal(size=200), 1), rng.permutation(200)  # with ties
    bands = curves.bands(labels.astype(int), scores, patients, resamples=200)
    again = curves.bands(labels[order].astype(int), scores[order], patients[order], resamples=200)
    for first, second in zip(bands, again, strict=True):
        np.testing.assert_allclose(first, second)
    called = metrics.called_at_thresholds(labels.astype(int), scores)
    on_curve = np.interp(curves.FALSE_POSITIVE_RATES, *curves.roc_curve(*called))
    assert (bands.sensitivity_low <= on_curve).all()
    assert (on_curve <= bands.sensitivity_high).all()
    width = (bands.sensitivity_high - bands.sensitivity_low)[10:50]
    assert 0.05 < width.mean() < 0.5


def test_one_patient_has_no_band():
    assert curves.bands(LABELS, SCORES, np.ones(4)) is None


def test_ticks_are_round_probabilities_far_enough_apart():
    assert list(ticks_between(-3, 3)) == [0.1, 0.5, 0.9]
    assert list(ticks_between(-12, 12)) == [1e-5, 0.001, 0.1, 0.99]
    assert ticks_between(0.01, 0.02) == {}
