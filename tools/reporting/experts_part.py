"""The section of a report about radiologists' labels: experts_{split}_best.json."""

from typing import TYPE_CHECKING

import numpy as np

from cxr.evaluation.experts_table import auroc_cell, experts_notes
from tools.reporting import figures
from tools.reporting.evaluated import Evaluated
from tools.reporting.figures import Drawing, draw_figure, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATES = np.linspace(0, 1, 101)  # false-positive rates of roc_expert


def experts_part(evaluated: Evaluated) -> dict | None:
    """Studies with their tables and ROC curves, and notes; None without the file."""
    if evaluated.experts is None:
        return None
    studies = [study_part(name, study) for name, study in evaluated.experts.items()]
    return {"studies": studies, "notes": experts_notes(evaluated.result["split"])}


def study_part(name: str, study: dict) -> dict:
    """The table of a study, and a ROC curve of each finding that has enough expert positives."""
    rows = [
        {
            "finding": finding,
            "positives_nih": values["positives_nih"],
            "positives_expert": values["positives_expert"],
            "aurocs": [values["auroc_nih"], values["auroc_expert"]],
            "shares": [values[key] for key in ("nih_sensitivity", "nih_ppv", "kappa_nih", "kappa_readers")],
        }
        for finding, values in study["findings"].items()
    ]
    return {
        "name": readable(name),
        **{key: study[key] for key in ("images", "patients")},
        "rows": rows,
        "over": study["mean_auroc_nih"]["findings"],
        "means": [study["mean_auroc_nih"], study["mean_auroc_expert"]],
        "drawn": [roc(finding, values) for finding, values in study["findings"].items() if values["roc_expert"]],
    }


def roc(finding: str, values: dict) -> Drawing:
    """The model against the experts' final labels; readers against the majority of the other readers; NIH's labels."""
    readers = [point for point in values["readers"].values() if None not in point.values()]

    def paint(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], ":", color=figures.GREY, linewidth=1, label="chance")
        axes.plot(RATES, values["roc_expert"], color=figures.BLUE, label="this model")
        x, y = ([point[key] for point in readers] for key in ("specificity", "sensitivity"))
        if readers:
            axes.plot(1 - np.array(x), y, "x", color=figures.BLACK, ms=6, label="a reader")
        if values["nih_sensitivity"] is not None:
            place = [1 - values["nih_specificity"]], [values["nih_sensitivity"]]
            axes.plot(*place, "D", mfc="none", mec=figures.VERMILLION, ms=6, label="NIH's labels")
        labels = ("false positives / negatives (1 - specificity)", "sensitivity")
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        figures.legend_above(axes)

    title = f"{readable(finding)}: AUROC {auroc_cell(values['auroc_expert']) or '—'}"
    points = "; ".join(f"{point['sensitivity']:.2f} and {point['specificity']:.2f}" for point in readers) or "none"
    alt = f"ROC curve against the experts' labels. {title}. Sensitivity and specificity of the readers: {points}."
    return draw_figure(paint, title=title, alt=alt)
