"""AUROC within groups of images, and across two groups: does a model tell the disease, or where the image came from?

Where findings are more common in one group than in another (a hospital, a scanner, a view position), a model that only
recognises the group already ranks positives above negatives. Within a group that does not help. A pooled AUROC far
above the AUROC within groups is the mark of such a shortcut.
"""

from typing import NamedTuple

import numpy as np

from cxr.evaluation import metrics
from cxr.findings import FINDINGS


class Resampled(NamedTuple):
    """AUROC of every finding, and in every resample of the patients."""

    values: np.ndarray  # [14], nan without a pair
    pairs: np.ndarray  # int [14]
    samples: np.ndarray  # [resamples, 14], all nan with one patient; the same patients for every grouping and model


def resample_within(labels: np.ndarray, scores: np.ndarray, patient_ids: np.ndarray, groups: np.ndarray) -> Resampled:
    """Concordance over the pairs of a positive and a negative image of one group, divided by the number of such pairs.

    Both are summed over the groups. Images of unknown group ("") are in no pair; with one group for all images this is
    the pooled AUROC.

    Args:
        labels, scores: [n, 14]. patient_ids: [n]. groups: str [n].
    """
    patient, draws = _once_and_draws(patient_ids)
    members = [np.flatnonzero(groups == name) for name in np.unique(groups[groups != ""])]
    columns = []
    pairs = []
    for column in range(len(FINDINGS)):
        ratios, counts = _concordance(labels[:, column], scores[:, column], members, patient, draws)
        columns.append(ratios)
        pairs.append(counts[0])
    ratios = np.stack(columns, axis=1)  # [1 + resamples, 14]
    return Resampled(ratios[0], np.array(pairs), ratios[1:] if draws.shape[1] > 1 else np.full_like(ratios[1:], np.nan))


def within_groups(labels: np.ndarray, scores: np.ndarray, patient_ids: np.ndarray, groups: np.ndarray) -> dict:
    """AUROC within groups of every finding and their mean, each with its 95 % interval over patients.

    Args:
        labels, scores: [n, 14]. patient_ids: [n]. groups: str [n], "" unknown.

    Returns:
        {"mean_auroc": {"value", "low", "high", "findings": how many are defined and in it}, "findings": {name:
        {"auroc", "low", "high", "pairs"}}, "groups": {name: images}}; nan without a pair, and for intervals of
        one patient.
    """
    return report_of(resample_within(labels, scores, patient_ids, groups), groups)


def report_of(resampled: Resampled, groups: np.ndarray) -> dict:
    """What `within_groups` returns, of AUROCs within these groups that are resampled already."""
    report = with_intervals(resampled.values, resampled.samples)
    for name, count in zip(FINDINGS, resampled.pairs.tolist(), strict=True):
        report["findings"][name]["pairs"] = count
    names, counts = np.unique(groups[groups != ""], return_counts=True)
    return report | {"groups": dict(zip(names.tolist(), counts.tolist(), strict=True))}


def mean_within_groups(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """Mean over the findings of the AUROC within groups, as in `within_groups` but without intervals.

    Args:
        labels, scores: [n, 14]. groups: str [n].

    Returns:
        0 to 1; nan if no group has a positive and a negative image of the same finding.
    """
    members = [np.flatnonzero(groups == name) for name in np.unique(groups[groups != ""])]
    image, once = np.arange(len(groups)), np.ones((1, len(groups)), np.int64)
    columns = zip(labels.T, scores.T, strict=True)
    return metrics.mean_defined([_concordance(*column, members, image, once)[0][0] for column in columns])


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
    kept = np.where(labels == 1, (groups == positives)[:, None], (groups == negatives)[:, None])  # [n, 14]
    patient, draws = _once_and_draws(patient_ids)
    columns = []
    for column in range(len(FINDINGS)):
        rows = kept[:, column]
        truth, score = labels[rows, column], scores[rows, column]
        columns.append(metrics.share_won(*metrics.wins_of_draws(truth, score, patient[rows], draws)))
    ratios = np.stack(columns, axis=1)
    return with_intervals(ratios[0], ratios[1:] if draws.shape[1] > 1 else np.full_like(ratios[1:], np.nan))


def _once_and_draws(patient_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `metrics.draw_patients` returns, below a first row in which every patient counts once."""
    patient, draws = metrics.draw_patients(patient_ids)
    return patient, np.insert(draws, 0, 1, axis=0)


def _concordance(
    labels: np.ndarray, scores: np.ndarray, members: list[np.ndarray], patient: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC within groups of these rows, and its number of pairs, in every draw of patients: [draws] each."""
    wins = np.zeros(len(draws))
    pairs = np.zeros(len(draws), np.int64)
    for rows in members:
        won, counted = metrics.wins_of_draws(labels[rows], scores[rows], patient[rows], draws)
        wins += won
        pairs += counted
    return metrics.share_won(wins, pairs), pairs


def with_intervals(values: np.ndarray, samples: np.ndarray) -> dict:
    """AUROCs [14] and resampled ones [resamples, 14] as "mean_auroc" and "findings", each with its 95 % interval."""
    findings = {}
    for column, name in enumerate(FINDINGS):
        low, high = metrics.interval(samples[:, column])
        findings[name] = {"auroc": float(values[column]), "low": low, "high": high}
    defined = np.flatnonzero(~np.isnan(values))
    low, high = metrics.interval(metrics.means_of_defined(samples[:, defined]))
    mean = {"value": metrics.mean_defined(values), "low": low, "high": high, "findings": len(defined)}
    return {"mean_auroc": mean, "findings": findings}
