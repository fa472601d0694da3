"""Operating points: where a probability becomes a call. Chosen on val, judged on whatever else comes."""

import numpy as np

from cxr.evaluation.metrics import called_at_thresholds

POINTS = ("youden", "sensitivity_90", "best_f1")
SENSITIVITY = 0.9  # that "sensitivity_90" reaches on the images it was chosen on


def choose_thresholds(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The threshold of each operating point of one finding; scores at or above it are calls.

    "youden" maximises sensitivity + specificity - 1 (Youden 1950), "best_f1" maximises F1, "sensitivity_90" is the
    highest that still finds 90 % of the positives. Of equals the highest: fewer calls.

    Args:
        labels: int [n] of 0 and 1. scores: [n].

    Returns:
        A score by name; nan where one class is absent.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return dict.fromkeys(POINTS, float("nan"))
    hits, called = called_at_thresholds(labels, scores)
    places = {
        "youden": np.argmax(hits / positives - (called - hits) / negatives),
        "sensitivity_90": np.argmax(hits >= SENSITIVITY * positives),  # the first that does
        "best_f1": np.argmax(2 * hits / (positives + called)),
    }
    descending = np.sort(scores)[::-1]
    return {name: float(descending[called[places[name]] - 1]) for name in POINTS}


def at_threshold(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float]:
    """Sensitivity, specificity, precision (PPV) and F1 when scores at or above `threshold` are calls.

    nan where undefined: everything at a threshold of nan, precision without calls, the others without their class.
    """
    called = scores >= threshold
    hits = int((called & (labels == 1)).sum())
    positives, calls = int(labels.sum()), int(called.sum())
    negatives = len(labels) - positives
    if np.isnan(threshold):
        return dict.fromkeys(("sensitivity", "specificity", "precision", "f1"), float("nan"))
    return {
        "sensitivity": hits / positives if positives else float("nan"),
        "specificity": 1 - (calls - hits) / negatives if negatives else float("nan"),
        "precision": hits / calls if calls else float("nan"),
        "f1": 2 * hits / (positives + calls) if positives else float("nan"),
    }
