"""Pooled AUROC beside the AUROC within groups and across view positions: the marks of a shortcut."""

import numpy as np

from cxr.evaluation import metrics, within
from cxr.evaluation.predictions import Predictions
from cxr.evaluation.within import Resampled
from cxr.findings import FINDINGS

CROSSES = {  # key in the metrics file: group of the positives, group of the negatives
    "AP positives, PA negatives": ("AP", "PA"),
    "PA positives, AP negatives": ("PA", "AP"),
}


def groupings_of(predictions: Predictions) -> dict[str, np.ndarray]:
    """Names [n] by grouping: "view_position", and "group" where at least one image has one; "" unknown."""
    groupings = {"view_position": predictions.view_positions}
    return groupings | ({"group": predictions.groups} if (predictions.groups != "").any() else {})


def within_report(predictions: Predictions, pooled: Resampled) -> dict[str, dict]:
    """By grouping: what `within.within_groups` returns, and beside it by how much the pooled AUROC exceeds it.

    Args:
        pooled: AUROCs of all images.

    Returns:
        {grouping: {"mean_auroc": {..., "excess"}, "findings": {name: {..., "excess"}}, "groups"}}. "excess" is
        {"pooled", "difference": pooled minus within, "low", "high"}, of the images whose group is known. Its interval
        is a paired bootstrap: pooled and within are of the same resamples. nan where undefined.
    """
    given = predictions.labels, predictions.probabilities, predictions.patient_ids
    report = {}
    for grouping, groups in groupings_of(predictions).items():
        inside = within.resample_within(*given, groups)
        known = groups != ""
        outside = pooled if known.all() else within.resample_within(*given, np.where(known, "known", ""))
        report[grouping] = within.report_of(inside, groups)
        _add_excess(report[grouping], inside, outside)
    return report


def _add_excess(report: dict, inside: Resampled, outside: Resampled) -> None:
    differences = outside.samples - inside.samples
    for column, name in enumerate(FINDINGS):
        values = outside.values[[column]], inside.values[[column]]
        report["findings"][name]["excess"] = _excess(*values, differences[:, [column]])
    defined = ~np.isnan(inside.values)
    values = outside.values[defined], inside.values[defined]
    report["mean_auroc"]["excess"] = _excess(*values, differences[:, defined])


def _excess(pooled: np.ndarray, inside: np.ndarray, differences: np.ndarray) -> dict[str, float]:
    """Of the mean over some findings: values [findings] and resamples [resamples, findings]."""
    low, high = metrics.interval(metrics.means_of_defined(differences))
    return {
        "pooled": metrics.mean_defined(pooled),
        "difference": metrics.mean_defined(pooled - inside),
        "low": low,
        "high": high,
    }


def cross_report(predictions: Predictions) -> dict[str, dict]:
    """AUROC across view positions, both ways: what `within.across_groups` returns, by a key of CROSSES."""
    given = predictions.labels, predictions.probabilities, predictions.patient_ids, predictions.view_positions
    return {
        key: within.across_groups(*given, positives=positives, negatives=negatives)
        for key, (positives, negatives) in CROSSES.items()
    }


def grouping_shown(result: dict) -> str:
    """The grouping that a table shows: "group" where images have one, else "view_position"."""
    return "group" if "group" in result["within"] else "view_position"


def group_notes(result: dict) -> list[str]:
    """Means within groups and across view positions, and one line for each grouping that hints at a shortcut.

    Args:
        result: as in the metrics file.
    """
    lines = []
    for grouping, report in result["within"].items():
        if report["mean_auroc"]["value"] is not None:
            lines.append(f"within one {words(grouping)}: {_mean_words(report['mean_auroc'])}")
    for key, report in result["cross"].items():
        if report["mean_auroc"]["value"] is not None:
            lines.append(f"{key.replace(',', ' against')}: {_mean_words(report['mean_auroc'])}")
    return lines + [line for grouping in result["within"] for line in _shortcut(result, grouping)]


def words(grouping: str) -> str:
    """A grouping in words: "view position" for "view_position"."""
    return grouping.replace("_", " ")


def _mean_words(mean: dict) -> str:
    interval = "" if mean["low"] is None else f" [{mean['low']:.3f}, {mean['high']:.3f}]"
    return f"mean AUROC of {mean['findings']} {mean['value']:.3f}{interval}"


def _shortcut(result: dict, grouping: str) -> list[str]:
    """The findings, and the mean, whose pooled AUROC exceeds that within groups, the largest excess first."""
    report = result["within"][grouping]
    mean = report["mean_auroc"]
    rows = {name: values["excess"] for name, values in report["findings"].items() if exceeds(values["excess"])}
    parts = [
        f"{name} {rows[name]['pooled']:.3f} pooled, {report['findings'][name]['auroc']:.3f} within"
        for name in sorted(rows, key=lambda name: -rows[name]["difference"])
    ]
    if exceeds(mean["excess"]):
        pooled = mean["excess"]["pooled"]
        parts.append(f"mean of {mean['findings']} {pooled:.3f} pooled, {mean['value']:.3f} within")
    return [f"SHORTCUT? by {words(grouping)}: {'; '.join(parts)}"] if parts else []


def exceeds(excess: dict) -> bool:
    """Whether the pooled AUROC exceeds the AUROC within groups by more than its interval: the interval is above 0."""
    return excess["low"] is not None and excess["low"] > 0 and excess["difference"] > 0
