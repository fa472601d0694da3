"""Agreement of labels and readers of the same images."""

import itertools

import numpy as np

from cxr.evaluation import metrics


def share(values: np.ndarray) -> float:
    """Mean of some 0 and 1; nan without any."""
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

    Readers without such an image are left out too.

    Args:
        readings: [n, readers], NaN where a reader gave no answer.
    """
    points = {}
    for place, reader in enumerate(readers):
        others = np.delete(readings, place, axis=1)
        answers = (~np.isnan(others)).sum(axis=1)
        present = np.nansum(others, axis=1)
        judged = ~np.isnan(readings[:, place]) & (answers > 0) & (2 * present != answers)
        if not judged.any():
            continue
        majority = 2 * present[judged] > answers[judged]
        answer = readings[judged, place]
        points[reader] = {
            "sensitivity": share(answer[majority]),
            "specificity": share(1 - answer[~majority]),
            "images": int(judged.sum()),
        }
    return points
