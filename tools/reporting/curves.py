"""ROC and precision-recall curves, and their 95 % bands over patients."""

from typing import NamedTuple

import numpy as np

from cxr.evaluation import metrics

FALSE_POSITIVE_RATES = np.linspace(0, 1, 101)  # of the band of ROC
RECALLS = np.linspace(0.01, 1, 100)  # of the band of precision, which is undefined at recall 0


class Bands(NamedTuple):
    """Central 95 % of resampled curves, point by point; each [points]."""

    sensitivity_low: np.ndarray  # at FALSE_POSITIVE_RATES
    sensitivity_high: np.ndarray
    precision_low: np.ndarray  # at RECALLS
    precision_high: np.ndarray


def roc_curve(hits: np.ndarray, called: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rate and sensitivity at every threshold, from (0, 0) to (1, 1).

    Args:
        hits, called: positives called and all called at each threshold, as `metrics.called_at_thresholds` counts them;
            the last one calls every image, and both classes are present.
    """
    false = called - hits
    return np.append(0, false / false[-1]), np.append(0, hits / hits[-1])


def precision_at(recalls: np.ndarray, hits: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Precision at the highest threshold that reaches each recall, recalls above 0: the steps of average precision."""
    wanted = np.ceil(recalls * hits[-1] - 1e-9)  # number of positives; 0.07 * 100 is slightly more than 7
    place = np.searchsorted(hits, wanted)
    return hits[place] / called[place]


def bands(
    labels: np.ndarray, scores: np.ndarray, patient_ids: np.ndarray, *, resamples: int = metrics.RESAMPLES
) -> Bands | None:
    """Bands of both curves of one finding, over the same resamples of patients as its AUROC interval.

    Args:
        labels: [n] of 0 and 1, both present. scores, patient_ids: [n].

    Returns:
        None with one patient: all resamples are equal.
    """
    _, patient = np.unique(patient_ids, return_inverse=True)
    count = patient.max(initial=-1) + 1
    if count < 2:
        return None
    order = np.argsort(-scores, kind="stable")
    patient, positive = patient[order], labels[order] == 1
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    generator = np.random.default_rng(metrics.SEED)
    sensitivities = []
    precisions = []
    for _ in range(resamples):
        times = np.bincount(generator.integers(count, size=count), minlength=count)[patient]
        hits, called = np.cumsum(times * positive)[last_of_tie], np.cumsum(times)[last_of_tie]
        if 0 < hits[-1] < called[-1]:
            sensitivities.append(np.interp(FALSE_POSITIVE_RATES, *roc_curve(hits, called)))
            precisions.append(precision_at(RECALLS, hits, called))
    if not sensitivities:
        return None
    return Bands(*np.percentile(sensitivities, [2.5, 97.5], axis=0), *np.percentile(precisions, [2.5, 97.5], axis=0))
