"""Results by view position, sex and age: a mean over all images hides groups with poor results."""

import numpy as np

from cxr.evaluation import metrics
from cxr.evaluation.predictions import Predictions

AGES = ((18, "0-17"), (40, "18-39"), (60, "40-59"), (80, "60-79"), (np.inf, "80+"))  # years below, name


def groups_of(predictions: Predictions) -> dict[str, np.ndarray]:
    """Names [n] of the group of each image, by "view_position", "sex" and "age"; "unknown" without metadata."""
    ages = np.full(len(predictions.ages), "unknown", dtype="<U7")
    for below, name in reversed(AGES):
        ages[predictions.ages < below] = name  # false for nan
    known = {"view_position": predictions.view_positions, "sex": predictions.sexes}
    return {kind: np.where(names == "", "unknown", names) for kind, names in known.items()} | {"age": ages}


def subgroup_report(predictions: Predictions) -> dict:
    """AUROC of every finding and their mean in every group that has an image, with intervals over its patients.

    A group may lack a class of a finding; "findings" is the number of findings in its mean.
    """
    order = ["PA", "AP", "F", "M", *(name for _, name in AGES), "unknown"]
    report = {}
    for kind, names in groups_of(predictions).items():
        present = sorted(set(names.tolist()), key=order.index)
        report[kind] = {name: _group_report(predictions.rows(names == name)) for name in present}
    return report


def _group_report(members: Predictions) -> dict:
    mean, findings = metrics.aurocs_with_intervals(members.labels, members.probabilities, members.patient_ids)
    patients = len(np.unique(members.patient_ids))
    return {"images": len(members.image_ids), "patients": patients, "mean_auroc": mean, "findings": findings}
