"""A model against radiologists' labels, beside the labels that were mined from NIH's reports.

The labels of a reader study are findings of NIH or combinations of them. A combination is present where one of its
findings is; its probability is that of at least one, if they were independent: 1 - (1 - p1)(1 - p2)...
"""

import itertools
from typing import NamedTuple

import numpy as np

from cxr.evaluation import metrics
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS

COMBINATIONS = {
    "Nodule or mass": ("Nodule", "Mass"),
    "Airspace opacity": ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"),
    "Abnormal": FINDINGS,
}
FEWEST = 8  # expert positives; with fewer, every number of a finding is null


class ExpertLabels(NamedTuple):
    """Radiologists' labels of some images, in the order of the predictions they are compared with."""

    study: str
    findings: list[str]
    labels: np.ndarray  # int [n, findings], final
    readers: list[str]
    readings: np.ndarray  # float [n, readers, findings]: 1, 0, NaN where a reader hedged or did not read


def combined(values: np.ndarray, finding: str) -> np.ndarray | None:
    """Labels or probabilities [n] of a study's finding from those of the 14 [n, 14]; None where it is none of them."""
    names = COMBINATIONS.get(finding, (finding,))
    if not set(names) <= set(FINDINGS):
        return None
    columns = [FINDINGS.index(name) for name in names]
    present = 1 - np.prod(1 - values[:, columns].astype(np.float64), axis=1)
    return present.astype(values.dtype)


def compare_with_experts(predictions: Predictions, experts: ExpertLabels) -> dict:
    """Every finding of a study: the model against both labels, and NIH's labels and the readers against the experts.

    Args:
        predictions: of the very images of `experts`, in the same order.

    Returns:
        {"study", "images", "patients", "mean_auroc_nih", "mean_auroc_expert": {"value", "low", "high", "findings"} over
        the same findings, "findings": {name: {"auroc_nih", "auroc_expert" {"value", "low", "high"}, "positives_nih",
        "positives_expert", "nih_sensitivity", "nih_ppv", "kappa_nih", "kappa_readers", "readers": {id: {"sensitivity",
        "specificity", "images"}}}}}; nan where undefined, all of a finding with fewer than FEWEST expert positives.
    """
    findings, columns = {}, {}
    for place, finding in enumerate(experts.findings):
        nih = combined(predictions.labels, finding)
        if nih is None:
            continue
        truth, readings = experts.labels[:, place], experts.readings[:, :, place]
        enough = truth.sum() >= FEWEST
        if enough:
            columns[finding] = nih, truth, combined(predictions.probabilities, finding)
        nothing = float("nan")
        findings[finding] = {
            "auroc_nih": {"value": nothing, "low": nothing, "high": nothing},
            "auroc_expert": {"value": nothing, "low": nothing, "high": nothing},
            "positives_nih": int(nih.sum()),
            "positives_expert": int(truth.sum()),
            "nih_sensitivity": _share(nih[truth == 1]) if enough else nothing,
            "nih_ppv": _share(truth[nih == 1]) if enough else nothing,
            "kappa_nih": kappa(nih, truth) if enough else nothing,
            "kappa_readers": kappa_between(readings) if enough else nothing,
            "readers": reader_points(readings, experts.readers) if enough else {},
        }
    means = {}
    for key, place in (("nih", 0), ("expert", 1)):
        means[f"mean_auroc_{key}"], values = _aurocs(columns, place, predictions.patient_ids)
        for finding, value in values.items():
            findings[finding][f"auroc_{key}"] = value
    patients = len(np.unique(predictions.patient_ids))
    head = {"study": experts.study, "images": len(predictions.image_ids), "patients": patients}
    return metrics.none_for_nan(head | means | {"findings": findings})


def _aurocs(columns: dict[str, tuple], place: int, patient_ids: np.ndarray) -> tuple[dict, dict]:
    """AUROC of findings against the labels at `place`, mean and each, over those that have both classes in both."""
    usable = {name: of for name, of in columns.items() if all(0 < of[k].sum() < len(of[k]) for k in (0, 1))}
    if not usable:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "findings": 0}, {}
    labels = np.stack([of[place] for of in usable.values()], axis=1)
    scores = np.stack([of[2] for of in usable.values()], axis=1)
    resampled = metrics.bootstrap_aurocs(labels, scores, patient_ids)
    if len(np.unique(patient_ids)) < 2:
        resampled = np.full_like(resampled, np.nan)
    values = {}
    for column, name in enumerate(usable):
        low, high = metrics.interval(resampled[:, column])
        values[name] = {"value": metrics.auroc(labels[:, column], scores[:, column]), "low": low, "high": high}
    low, high = metrics.interval(metrics.means_of_defined(resampled))
    mean = metrics.mean_defined([value["value"] for value in values.values()])
    return {"value": mean, "low": low, "high": high, "findings": len(values)}, values


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two raters [n] of 0 and 1: agreement above what their own rates make by chance.

    nan without images, and where both always say the same.
    """
    if len(one) == 0:
        return float("nan")
    agreed, first, second = (one == other).mean(), one.mean(), other.mean()
    by_chance = first * second + (1 - first) * (1 - second)
    return float((agreed - by_chance) / (1 - by_chance)) if by_chance < 1 else float("nan")


def kappa_between(readings: np.ndarray) -> float:
    """Mean of Cohen's kappa over the pairs of readers that share images; nan without a pair.

    Args:
        readings: [n, readers], NaN where a reader gave no answer.
    """
    kappas = []
    for one, other in itertools.combinations(readings.T, 2):
        both = ~np.isnan(one) & ~np.isnan(other)
        kappas.append(kappa(one[both], other[both]))
    return metrics.mean_defined(kappas)


def reader_points(readings: np.ndarray, readers: list[str]) -> dict[str, dict]:
    """Sensitivity and specificity of each reader against the majority of the others; ties of the others are left out.

    Args:
        readings: [n, readers], NaN where a reader gave no answer.
    """
    points = {}
    for place, reader in enumerate(readers):
        others = np.delete(readings, place, axis=1)
        answers = (~np.isnan(others)).sum(axis=1)
        present = np.nansum(others, axis=1)
        judged = ~np.isnan(readings[:, place]) & (answers > 0) & (2 * present != answers)
        majority, answer = 2 * present[judged] > answers[judged], readings[judged, place]
        points[reader] = {
            "sensitivity": _share(answer[majority]),
            "specificity": _share(1 - answer[~majority]),
            "images": int(judged.sum()),
        }
    return points
