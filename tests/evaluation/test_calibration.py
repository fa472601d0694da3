import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from cxr.evaluation import calibration, metrics


def drawn(*, images: int = 4000, slope: float = 1.0, shift: float = 0.0, seed: int = 0):
    """Labels drawn with the true probabilities, and those of a model whose logits are slope * truth + shift."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-2, 1.5, images)
    labels = (generator.random(images) < 1 / (1 + np.exp(-logits))).astype(int)
    return labels, 1 / (1 + np.exp(-(slope * logits + shift)))


def test_brier():
    assert calibration.brier(np.array([1, 0]), np.array([0.7, 0.4])) == pytest.approx((0.09 + 0.16) / 2)
    assert np.isnan(calibration.brier(np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize("digits", [9, 1])  # with one there are many ties, also on the edges of bins
def test_brier_and_bins_are_those_of_scikit_learn(digits):
    labels, probabilities = drawn()
    probabilities = np.round(probabilities, digits)
    assert calibration.brier(labels, probabilities) == pytest.approx(brier_score_loss(labels, probabilities), abs=1e-9)
    bins = calibration.reliability(labels, probabilities)
    observed, probability = calibration_curve(labels, probabilities, n_bins=10, strategy="quantile")
    assert [bin_["observed"] for bin_ in bins] == pytest.approx(observed, abs=1e-9)
    assert [bin_["probability"] for bin_ in bins] == pytest.approx(probability, abs=1e-9)
    assert sum(bin_["images"] for bin_ in bins) == 4000
    assert digits == 1 or {bin_["images"] for bin_ in bins} == {400}


def test_the_expected_calibration_error_by_hand():
    labels = np.array([0] * 9 + [1] + [1] * 10)
    probabilities = np.array([0.2] * 10 + [0.9] * 10)  # ties stay together: two bins of ten
    assert calibration.calibration_report(labels, probabilities) == {
        "brier": pytest.approx((9 * 0.04 + 0.64 + 10 * 0.01) / 20),
        "expected_calibration_error": pytest.approx((10 * 0.1 + 10 * 0.1) / 20),
        "reliability": [
            {"images": 10, "probability": pytest.approx(0.2), "observed": 0.1},
            {"images": 10, "probability": pytest.approx(0.9), "observed": 1.0},
        ],
    }


def test_no_images_have_no_calibration():
    report = calibration.calibration_report(np.zeros(0, int), np.zeros(0))
    assert report["reliability"] == []
    assert np.isnan(report["expected_calibration_error"])


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (2.0, 1.0), (0.3, -1.0)])
def test_platt_inverts_a_change_of_the_logits(slope, shift):
    fitted = calibration.fit_platt(*drawn(images=40_000, slope=slope, shift=shift))
    assert fitted["slope"] == pytest.approx(1 / slope, rel=0.05)
    assert fitted["intercept"] == pytest.approx(-shift / slope, abs=0.1)


def test_platt_is_the_best_fit_to_its_targets():
    labels, probabilities = drawn(slope=2.0, shift=1.0)
    positives = labels.sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    after = calibration.calibrate(probabilities, calibration.fit_platt(labels, probabilities))
    logits = np.log(probabilities / (1 - probabilities))
    assert after.mean() == pytest.approx(targets.mean(), abs=1e-6)  # the two conditions of the optimum
    assert (after * logits).mean() == pytest.approx((targets * logits).mean(), abs=1e-6)


def test_calibration_fitted_on_val_improves_test():
    fitted = calibration.fit_platt(*drawn(slope=3.0, shift=2.0))
    labels, probabilities = drawn(slope=3.0, shift=2.0, seed=1)
    before = calibration.calibration_report(labels, probabilities)
    after = calibration.calibration_report(labels, calibration.calibrate(probabilities, fitted))
    assert before["expected_calibration_error"] > 0.09
    assert after["expected_calibration_error"] < 0.02
    assert after["brier"] < before["brier"]


def test_calibration_keeps_the_order():
    labels, probabilities = drawn(slope=2.0)
    after = calibration.calibrate(probabilities, calibration.fit_platt(labels, probabilities))
    assert metrics.auroc(labels, after) == pytest.approx(metrics.auroc(labels, probabilities), abs=1e-12)


def test_certain_probabilities_stay_finite():
    after = calibration.calibrate(np.array([0.0, 0.5, 1.0]), {"slope": 1.0, "intercept": 0.0})
    assert after == pytest.approx([1e-7, 0.5, 1 - 1e-7], abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([1, 1], [0.1, 0.9]),  # one class
        ([0, 0], [0.1, 0.9]),
        ([0, 1], [0.5, 0.5]),  # nothing to scale
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),  # would reverse the order
        ([], []),
    ],
)
def test_data_that_cannot_be_fitted(labels, probabilities):
    assert calibration.fit_platt(np.array(labels, int), np.array(probabilities)) is None


def test_classes_that_do_not_overlap_give_a_finite_slope():
    fitted = calibration.fit_platt(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert 0 < fitted["slope"] < 10
