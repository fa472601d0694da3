"""Exact metrics by finding, of labels [n, 14] and probabilities [n, 14]. Undefined is nan in memory, null on disk."""

import numpy as np

from cxr.findings import FINDINGS

RESAMPLES = 1000
SEED = 230  # of the bootstrap; fixed, so reports never differ by it
AT_ONCE = 131072  # images times resamples in one block of a bootstrap, 1 MB


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, in their dtype; large logits do not overflow, nan stays nan."""
    with np.errstate(invalid="ignore"):  # logaddexp warns of nan
        return np.exp(-np.logaddexp(0, -logits))


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a positive outscores a negative, ties counted one half (Mann-Whitney U / (P N)).

    Args:
        labels: [n] of 0 and 1.
        scores: [n], larger is more likely positive.

    Returns:
        0 to 1; nan where one class is absent.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    wins = mean_ranks(scores)[labels == 1].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Rank [n] of each score in ascending order, from 1; ties share the mean of their ranks."""
    _, tie, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[tie]


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Sum over thresholds of precision times the gain in recall; tied scores are one threshold.

    The step-wise area under the precision-recall curve, as in sklearn.metrics.average_precision_score. nan without
    positives.
    """
    positives = labels.sum()
    if positives == 0:
        return float("nan")
    hits, called = called_at_thresholds(labels, scores)
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / called).sum() / positives)


def called_at_thresholds(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each distinct score, from the highest: the number of positives and of images at or above it."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    return np.cumsum(labels[order])[last_of_tie], np.flatnonzero(last_of_tie) + 1


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean binary cross-entropy over images and findings, probabilities kept 1e-7 away from 0 and 1."""
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(labels == 1, np.log(p), np.log1p(-p)).mean())


def bootstrap_aurocs(
    labels: np.ndarray, scores: np.ndarray, patient_ids: np.ndarray, *, resamples: int = RESAMPLES, seed: int = SEED
) -> np.ndarray:
    """AUROC of every finding in resamples of the *patients*, drawn with replacement.

    Images of one patient are alike, so resampling images would give too narrow intervals. The resamples depend only on
    the seed and the patients, so two experiments on the same images are scored on the same resamples.

    Args:
        labels, scores: [n, findings].
        patient_ids: [n].

    Returns:
        [resamples, findings]; nan where a resample lacks a class.
    """
    patient, draws = draw_patients(patient_ids, resamples=resamples, seed=seed)
    findings = range(labels.shape[1])
    columns = [share_won(*wins_of_draws(labels[:, f], scores[:, f], patient, draws)) for f in findings]
    return np.array(columns).T.reshape(resamples, labels.shape[1])


def draw_patients(
    patient_ids: np.ndarray, *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Draw as many patients as there are, with replacement, once for every resample.

    Returns:
        Index of the patient of each row, int [n] from 0; and how often each patient was drawn, int [resamples,
        patients].
    """
    _, patient = np.unique(patient_ids, return_inverse=True)
    count = patient.max(initial=-1) + 1
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, count), np.int64)
    for draw in draws:
        draw[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    return patient, draws


def share_won(wins: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Wins over pairs, [n] each; nan without pairs."""
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def wins_of_draws(
    labels: np.ndarray, scores: np.ndarray, patient: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a positive and a negative, and how many of them are in order, ties counted one half.

    Only the draws change, so scores are sorted once. Each resample then takes a running sum over the negatives, and
    for each positive the sum at its rank among them. As many resamples are computed at once as fit into a cache.

    Args:
        labels, scores: [n].
        patient: int [n], which of the patients an image is of, from 0.
        draws: how often each patient was drawn, int [resamples, patients].

    Returns:
        Wins float [resamples] and pairs int [resamples] of images that occur as often as their patient was drawn.
    """
    negatives = np.flatnonzero(labels == 0)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    sorted_scores = scores[negatives]
    of_negative = patient[negatives]
    of_positive = patient[labels == 1]
    first = np.searchsorted(sorted_scores, scores[labels == 1], "left")  # negatives below each positive
    last = np.searchsorted(sorted_scores, scores[labels == 1], "right")  # and those tied with it
    wins, pairs = np.zeros(len(draws)), np.zeros(len(draws), np.int64)
    size = max(1, AT_ONCE // max(1, len(labels)))
    for begin in range(0, len(draws), size):
        block = slice(begin, begin + size)
        below = np.zeros((len(draws[block]), len(negatives) + 1), np.int64)
        np.cumsum(draws[block].take(of_negative, axis=1), axis=1, out=below[:, 1:])
        weights = draws[block].take(of_positive, axis=1)
        pairs[block] = weights.sum(axis=1) * below[:, -1]
        # Each win is counted twice, so that half wins stay whole.
        wins[block] = np.einsum("dp,dp->d", weights, below.take(first, axis=1) + below.take(last, axis=1)) / 2
    return wins, pairs


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the samples that are not nan; (nan, nan) without any."""
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def aurocs_with_intervals(labels: np.ndarray, scores: np.ndarray, patient_ids: np.ndarray) -> tuple[dict, dict]:
    """AUROC of every finding and their mean, each with its 95 % interval over patients.

    Args:
        labels, scores: [n, 14]. patient_ids: [n].

    Returns:
        mean {"value", "low", "high", "findings": number of defined findings in the mean},
        findings {name: {"auroc", "low", "high", "positives"}}; nan where undefined. With one patient there is no
        interval: all resamples are equal.
    """
    values = [auroc(*column) for column in zip(labels.T, scores.T, strict=True)]
    resampled = bootstrap_aurocs(labels, scores, patient_ids)
    if len(np.unique(patient_ids)) < 2:
        resampled = np.full_like(resampled, np.nan)
    findings = {}
    for column, name in enumerate(FINDINGS):
        low, high = interval(resampled[:, column])
        positives = int(labels[:, column].sum())
        findings[name] = {"auroc": values[column], "low": low, "high": high, "positives": positives}
    defined = np.flatnonzero(~np.isnan(values))
    low, high = interval(means_of_defined(resampled[:, defined]))
    return {"value": mean_defined(values), "low": low, "high": high, "findings": len(defined)}, findings


def means_of_defined(samples: np.ndarray) -> np.ndarray:
    """Mean [n] of each row of samples [n, findings] over its defined findings; nan without any."""
    defined = ~np.isnan(samples)
    counts = defined.sum(axis=1)
    sums = np.where(defined, samples, 0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(samples), np.nan), where=counts > 0)


def mean_defined(values: list[float]) -> float:
    """Mean of the values that are not nan; nan without any."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def none_for_nan(value):
    """The same nested dict or list with None in place of nan, for JSON."""
    if isinstance(value, dict):
        return {key: none_for_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [none_for_nan(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
