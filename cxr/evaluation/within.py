"""AUROC within groups of images, and across two groups: does a model tell the disease, or where the image came from?

Where findings are more common in one group than in another (a hospital, a scanner, a view position), a model that only
recognises the group already ranks positives above negatives. Within a group that does not help. A pooled AUROC far
above the AUROC within groups is the mark of such a shortcut.
"""

import numpy as np

from cxr.evaluation import metrics
from cxr.findings import FINDINGS


def within_groups(labels: np.ndarray, scores: np.ndarray, patient_ids: np.ndarray, groups: np.ndarray) -> dict:
    """AUROC within groups of every finding and their mean, each with its 95 % interval over patients.

    Concordance over the pairs of a positive and a negative image of one group, summed over the groups, divided by the
    number of such pairs. Images of unknown group ("") are in no pair.

    Args:
        labels, scores: [n, 14]. patient_ids: [n]. groups: str [n].

    Returns:
        {"mean_auroc": {"value", "low", "high", "findings": how many are defined and in it}, "findings": {name:
        {"auroc", "low", "high", "pairs"}}, "groups": {name: images}}; nan where there is no pair, and for intervals of
        one patient.
    """
    names, counts = np.unique(groups[groups != ""], return_counts=True)
    patient, draws = metrics.draw_patients(patient_ids)
    once = [np.ones(len(np.unique(patient_ids)), np.int64)]
    values, resampled, pairs = [], [], []
    for column in range(labels.shape[1]):
        truth, score = labels[:, column], scores[:, column]
        value, count = _concordance(truth, score, groups, names, patient, once)
        values.append(float(value[0]))
        pairs.append(int(count[0]))
        resampled.append(_concordance(truth, score, groups, names, patient, draws)[0])
    report = _with_intervals(values, np.array(resampled).T, patients=len(once[0]))
    for name, count in zip(FINDINGS, pairs, strict=True):
        report["findings"][name]["pairs"] = count
    return report | {"groups": dict(zip(names.tolist(), counts.tolist(), strict=True))}


def mean_within_groups(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """Mean over the findings of the AUROC within groups, as in `within_groups` but without intervals.

    Args:
        labels, scores: [n, 14]. groups: str [n].

    Returns:
        0 to 1; nan if no group has a positive and a negative image of the same finding.
    """
    names = np.unique(groups[groups != ""])
    image, once = np.arange(len(groups)), [np.ones(len(groups), np.int64)]
    columns = zip(labels.T, scores.T, strict=True)
    return metrics.mean_defined([_concordance(*pair, groups, names, image, once)[0][0] for pair in columns])


def across_groups(
    labels: np.ndarray,
    scores: np.ndarray,
    patient_ids: np.ndarray,
    groups: np.ndarray,
    *,
    positives: str,
    negatives: str,
) -> dict:
    """AUROC of the positives of one group against the negatives of another (xAUC, Kallus & Zhou 2019).

    Args:
        labels, scores: [n, 14]. patient_ids: [n]. groups: str [n].
        positives, negatives: names of the two groups.

    Returns:
        {"mean_auroc", "findings"} as of `within_groups`, without pairs.
    """
    patient, draws = metrics.draw_patients(patient_ids)
    values, resampled = [], []
    for column in range(labels.shape[1]):
        truth, score = labels[:, column], scores[:, column]
        kept = ((truth == 1) & (groups == positives)) | ((truth == 0) & (groups == negatives))
        values.append(metrics.auroc(truth[kept], score[kept]))
        wins, pairs = metrics.wins_of_draws(truth[kept], score[kept], patient[kept], draws)
        resampled.append(_ratio(wins, pairs))
    return _with_intervals(values, np.array(resampled).T, patients=len(np.unique(patient_ids)))


def _concordance(
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    names: np.ndarray,
    patient: np.ndarray,
    draws: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC within groups, and its number of pairs, in every draw of patients: [draws] each."""
    wins, pairs = np.zeros(len(draws)), np.zeros(len(draws), np.int64)
    for name in names:
        rows = groups == name
        won, counted = metrics.wins_of_draws(labels[rows], scores[rows], patient[rows], draws)
        wins += won
        pairs += counted
    return _ratio(wins, pairs), pairs


def _ratio(wins: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def _with_intervals(values: list[float], resampled: np.ndarray, *, patients: int) -> dict:
    """Values [14] and resamples [resamples, 14] as mean and findings with intervals; none of one patient."""
    if patients < 2:
        resampled = np.full_like(resampled, np.nan)
    findings = {}
    for column, name in enumerate(FINDINGS):
        low, high = metrics.interval(resampled[:, column])
        findings[name] = {"auroc": values[column], "low": low, "high": high}
    defined = np.flatnonzero(~np.isnan(values))
    low, high = metrics.interval(metrics.means_of_defined(resampled[:, defined]))
    mean = {"value": metrics.mean_defined(values), "low": low, "high": high, "findings": len(defined)}
    return {"mean_auroc": mean, "findings": findings}
