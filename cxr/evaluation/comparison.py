"""Whether one experiment is better than another on the same images, or only luckier."""

import numpy as np

from cxr.evaluation import metrics
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS


def compare(ours: Predictions, theirs: Predictions) -> dict:
    """Paired bootstrap over patients: both experiments are judged on the same resamples.

    What makes a resample easy makes it easy for both, so the difference is known better than either AUROC.

    Args:
        ours, theirs: of the same images in the same order (`predictions.in_order_of`).

    Returns:
        "mean_auroc" {"difference": ours minus theirs, "low", "high", "p", "findings": how many are in it} and
        "findings" {name: {"difference", "low", "high", "p"}}; nan where undefined. p is two-sided.

    Raises:
        ValueError: labels or patients are others; there is one patient only; no finding has both classes.
    """
    _require_same_truth(ours, theirs)
    both = [metrics.bootstrap_aurocs(part.labels, part.probabilities, part.patient_ids) for part in (ours, theirs)]
    resampled = both[0] - both[1]
    values = np.array([_difference(ours, theirs, column) for column in range(len(FINDINGS))])
    defined = np.flatnonzero(~np.isnan(values))
    if len(defined) == 0:
        raise ValueError(f"no finding has both classes among the {len(ours.labels):,} images: nothing to compare")
    findings = {name: _tested(values[column], resampled[:, column]) for column, name in enumerate(FINDINGS)}
    mean = _tested(float(values[defined].mean()), metrics.means_of_defined(resampled[:, defined]))
    return {"mean_auroc": mean | {"findings": len(defined)}, "findings": findings}


def _require_same_truth(ours: Predictions, theirs: Predictions) -> None:
    other = (ours.labels != theirs.labels).any(axis=1) | (ours.patient_ids != theirs.patient_ids)
    if other.any():
        raise ValueError(
            f"{other.sum():,} images have other labels or patients in the two experiments, the first "
            f"{ours.image_ids[other][0]}: they were evaluated on datasets of different CSVs"
        )
    if len(np.unique(ours.patient_ids)) < 2:
        raise ValueError("all images are of one patient: a comparison over patients needs two and more")


def _difference(ours: Predictions, theirs: Predictions, column: int) -> float:
    labels = ours.labels[:, column]
    our_auroc, their_auroc = (metrics.auroc(labels, part.probabilities[:, column]) for part in (ours, theirs))
    return our_auroc - their_auroc


def _tested(value: float, samples: np.ndarray) -> dict[str, float]:
    low, high = metrics.interval(samples)
    return {"difference": float(value), "low": low, "high": high, "p": two_sided_p(samples)}


def two_sided_p(samples: np.ndarray) -> float:
    """Twice the share of resamples on the rarer side of 0, those at 0 on both sides; nan of none.

    One is added to both counts, so that it is never 0: 1,000 resamples can show no less than 0.002.
    """
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return float("nan")
    rarer = min((samples <= 0).sum(), (samples >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(samples) + 1)))
