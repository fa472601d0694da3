"""Exact per-finding metrics of labels [n, 14] and probabilities [n, 14]. Undefined is nan in memory, null on disk."""

import numpy as np

from cxr.findings import FINDINGS

RESAMPLES = 1000
SEED = 230  # of the bootstrap; not a parameter, so that no two reports differ by it


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a positive outscores a negative, ties counted one half (Mann-Whitney U / (P N)).

    Args:
        labels: [n] of 0 and 1.
        scores: [n], larger is more likely positive.

    Returns:
        0 to 1; nan where one class is absent.
    """
    _, tie, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[tie]  # [n] from 1, ties share their mean
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    wins = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Sum over thresholds of precision times the recall gained there; tied scores are one threshold.

    The step-wise area under the precision-recall curve, as in sklearn.metrics.average_precision_score. nan without
    positives.
    """
    positives = labels.sum()
    if positives == 0:
        return float("nan")
    hits, called = _called_at_thresholds(labels, scores)
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / called).sum() / positives)


def _called_at_thresholds(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each distinct score, from the highest: positives at or above it, and all at or above it."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    return np.cumsum(labels[order])[last_of_tie], np.flatnonzero(last_of_tie) + 1


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean binary cross-entropy over images and findings, probabilities kept 1e-7 away from 0 and 1."""
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(labels == 1, np.log(p), np.log1p(-p)).mean())


def youden_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The score that maximises sensitivity + specificity - 1 when called positive at or above it (Youden 1950).

    Returns nan where one class is absent. Of equals the highest: fewer calls.
    """
    positives = labels.sum()
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    hits, called = _called_at_thresholds(labels, scores)
    best = np.argmax(hits / positives - (called - hits) / negatives)
    return float(np.sort(scores)[::-1][called[best] - 1])


def at_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float]:
    """Sensitivity, specificity and F1 when scores at or above `threshold` are called positive; nan where undefined."""
    called = scores >= threshold
    hits = int((called & (labels == 1)).sum())
    positives, calls = int(labels.sum()), int(called.sum())
    negatives = len(labels) - positives
    if np.isnan(threshold):
        return dict.fromkeys(("sensitivity", "specificity", "f1"), float("nan"))
    return {
        "sensitivity": hits / positives if positives else float("nan"),
        "specificity": 1 - (calls - hits) / negatives if negatives else float("nan"),
        "f1": 2 * hits / (positives + calls) if positives else float("nan"),
    }


def bootstrap_aurocs(
    labels: np.ndarray, scores: np.ndarray, patient_ids: np.ndarray, *, resamples: int = RESAMPLES, seed: int = SEED
) -> np.ndarray:
    """AUROC of every finding in resamples of the *patients*, drawn with replacement.

    Images of one patient are alike, so resampling images would give intervals too narrow.

    Args:
        labels, scores: [n, findings].
        patient_ids: [n].

    Returns:
        [resamples, findings]; nan where a resample lacks a class.
    """
    _, patient = np.unique(patient_ids, return_inverse=True)
    count = patient.max(initial=-1) + 1
    generator = np.random.default_rng(seed)
    result = np.full((resamples, labels.shape[1]), np.nan)
    orders = [np.argsort(scores[:, finding], kind="stable") for finding in range(labels.shape[1])]
    for row in range(resamples):
        times = np.bincount(generator.integers(count, size=count), minlength=count)[patient]  # [n] draws of each image
        for finding, order in enumerate(orders):
            result[row, finding] = _weighted_auroc(labels[order, finding], scores[order, finding], times[order])
    return result


def _weighted_auroc(labels: np.ndarray, scores: np.ndarray, times: np.ndarray) -> float:
    """AUROC of images that occur `times` times each; scores ascending."""
    starts = np.flatnonzero(np.diff(scores, prepend=np.nan) != 0)
    positive = np.add.reduceat(times * labels, starts)  # per distinct score
    negative = np.add.reduceat(times, starts) - positive
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def evaluate(
    labels: np.ndarray, probabilities: np.ndarray, patient_ids: np.ndarray, thresholds: dict[str, float | None] | None
) -> dict:
    """Everything a metrics file says about predictions.

    Args:
        labels: int [n, 14]. probabilities: float [n, 14]. patient_ids: [n].
        thresholds: operating point of each finding; None chooses Youden's from these very predictions, which is only
            right for val.

    Returns:
        images, patients, loss, mean_auroc {value, low, high, findings: how many were defined}, findings {name: {...}};
        low and high are the 95 % interval over patients; undefined is None.
    """
    resampled = bootstrap_aurocs(labels, probabilities, patient_ids)
    findings, values = {}, []
    for column, name in enumerate(FINDINGS):
        truth, scores = labels[:, column], probabilities[:, column]
        threshold = youden_threshold(truth, scores) if thresholds is None else thresholds.get(name)
        threshold = float("nan") if threshold is None else threshold
        values.append(auroc(truth, scores))
        low, high = _interval(resampled[:, column])
        findings[name] = {
            "auroc": values[-1],
            "low": low,
            "high": high,
            "average_precision": average_precision(truth, scores),
            "positives": int(truth.sum()),
            "threshold": threshold,
            **at_threshold(truth, scores, threshold),
        }
    defined = np.flatnonzero(~np.isnan(values))
    low, high = _interval(np.array([mean_defined(row) for row in resampled[:, defined]]))
    mean = {"value": mean_defined(values), "low": low, "high": high, "findings": len(defined)}
    images, loss = len(labels), log_loss(labels, probabilities) if len(labels) else float("nan")
    report = {"images": images, "patients": len(np.unique(patient_ids)), "loss": loss, "mean_auroc": mean}
    return none_for_nan({**report, "findings": findings})


def mean_defined(values: list[float]) -> float:
    """Mean of the values that are not nan; nan if there is none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _interval(samples: np.ndarray) -> tuple[float, float]:
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def none_for_nan(value):
    """The same nested dict with None where nan was, for JSON."""
    if isinstance(value, dict):
        return {key: none_for_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
