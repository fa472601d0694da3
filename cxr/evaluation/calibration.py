"""Calibration: whether a probability of 0.2 means one in five, and Platt scaling, which makes it so. Fitted on val."""

import numpy as np

from cxr.evaluation import metrics

BINS = 10
EDGE = 1e-7  # probabilities are clipped to this distance from 0 and 1, so their logits are finite


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared difference of probability and label (Brier 1950); nan without images."""
    return float(np.mean((probabilities - labels) ** 2)) if len(labels) else float("nan")


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> list[dict]:
    """Mean probability and share of positives, in bins of equal numbers of images from low to high.

    With bins of equal width nearly all images would be in the first, because most findings are rare. The edges are the
    deciles, ties stay together (sklearn.calibration.calibration_curve, strategy "quantile"), empty bins are left out.

    Returns:
        At most 10 of {"images", "probability", "observed"}.
    """
    if len(labels) == 0:
        return []
    edges = np.percentile(probabilities, np.linspace(0, 100, BINS + 1)[1:-1])
    place = np.searchsorted(edges, probabilities)
    return [
        {
            "images": int((place == bin_).sum()),
            "probability": float(probabilities[place == bin_].mean()),
            "observed": float(labels[place == bin_].mean()),
        }
        for bin_ in np.unique(place)
    ]


def expected_calibration_error(bins: list[dict]) -> float:
    """Mean distance of probability and share of positives in the bins of `reliability`, by images; nan without bins."""
    images = sum(bin_["images"] for bin_ in bins)
    distances = (bin_["images"] * abs(bin_["probability"] - bin_["observed"]) for bin_ in bins)
    return sum(distances) / images if images else float("nan")


def fit_platt(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float] | None:
    """Slope and intercept of the logits that fit the labels best (Platt 1999, with his targets).

    Platt's targets, (P + 1) / (P + 2) for positives and 1 / (N + 2) for negatives, keep the fit finite where the two
    classes do not overlap.

    Returns:
        {"slope", "intercept"} for `calibrate`; None where one class is absent, or where the slope is not positive,
        which would reverse the order of the images.
    """
    from sklearn.linear_model import LogisticRegression

    positives = int(labels.sum())
    negatives = len(labels) - positives
    logits = _logits(probabilities)
    if positives == 0 or negatives == 0 or np.ptp(logits) == 0:
        return None
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    both = np.repeat([1, 0], len(labels))  # each image as positive and as negative, weighted by its target
    regression = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    regression.fit(np.tile(logits, 2)[:, None], both, sample_weight=np.concatenate([targets, 1 - targets]))
    slope, intercept = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    return {"slope": slope, "intercept": intercept} if slope > 0 else None


def calibrate(probabilities: np.ndarray, calibration: dict[str, float]) -> np.ndarray:
    """Probabilities after Platt scaling with the result of `fit_platt`; their order is kept."""
    return metrics.sigmoid(calibration["slope"] * _logits(probabilities) + calibration["intercept"])


def calibration_report(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Brier score, expected calibration error and its reliability bins."""
    bins = reliability(labels, probabilities)
    return {
        "brier": brier(labels, probabilities),
        "expected_calibration_error": expected_calibration_error(bins),
        "reliability": bins,
    }


def _logits(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities, EDGE, 1 - EDGE)
    return np.log(p) - np.log1p(-p)
