"""AUROC of every finding over all images, within groups, and across view positions."""

import math
from typing import TYPE_CHECKING

import numpy as np

from cxr.evaluation import shortcuts
from tools.reporting import figures
from tools.reporting.figures import Drawing, draw_figure, number, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITHIN = {"view_position": ("s", figures.VERMILLION), "group": ("^", figures.BLACK)}  # marker and colour
ACROSS = dict(zip(shortcuts.CROSSES, (">", "<"), strict=True))
APART = 0.22  # between the lines of one finding, of 1 between findings


def groups(result: dict) -> Drawing | None:
    """One picture of pooled, within and across; None where no group is known."""
    inside = {key: report for key, report in result["within"].items() if report["mean_auroc"]["value"] is not None}
    if not inside:
        return None
    across = {key: report for key, report in result["cross"].items() if report["mean_auroc"]["value"] is not None}
    names = list(result["findings"])
    places = np.arange(len(names))[::-1]

    def paint(axes: "Axes") -> None:
        axes.axvline(0.5, color=figures.GREY, linestyle=":", linewidth=1)
        series = [("pooled", result["findings"], "o", figures.BLUE)]
        for key, report in inside.items():
            series.append((f"within {shortcuts.words(key)}", report["findings"], *WITHIN[key]))
        for line, (label, findings, mark, color) in enumerate(series):
            rows = [findings[name] for name in names]
            values, lows, highs = ([_or_nan(row[key]) for row in rows] for key in ("auroc", "low", "high"))
            heights = places - APART * line + APART * (len(series) - 1) / 2
            axes.hlines(heights, lows, highs, color=color, linewidth=1.2)
            axes.plot(values, heights, mark, color=color, ms=4, label=label, linestyle="none")
        for key, report in across.items():
            values = [_or_nan(report["findings"][name]["auroc"]) for name in names]
            label = key.replace(" positives, ", "+ against ").replace(" negatives", "-")
            axes.plot(values, places, ACROSS[key], mfc="none", mec=figures.GREY, ms=5, label=label)
        axes.set_yticks(places, [readable(name) for name in names])
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xlabel("AUROC (dotted: chance)")
        axes.set_xlim(right=1.01)
        axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1), ncols=2, columnspacing=1)

    means = "; ".join(f"{key} {number(report['mean_auroc']['value'])}" for key, report in _series(result).items())
    alt = f"Dot plot of AUROC by finding. Means: {means}. The values are in the table."
    title = "AUROC pooled, within groups and across view positions"
    return draw_figure(paint, title=title, alt=alt, height=6.2, left=figures.LEFT_OF_FINDINGS, top=0.85)


def group_rows(result: dict) -> tuple[list[str], list[list[dict | None]]]:
    """Heads and rows of the table beside the picture: finding by finding, then the mean."""
    series = _series(result)
    rows = [[name, *(report["findings"][name] for report in series.values())] for name in result["findings"]]
    means = [{"auroc": report["mean_auroc"]["value"], **report["mean_auroc"]} for report in series.values()]
    return list(series), [*rows, ["mean", *means]]


def _series(result: dict) -> dict[str, dict]:
    """Reports by name: pooled, within each grouping, across view positions both ways; those that are defined."""
    series = {
        "pooled": result,
        **{f"within {shortcuts.words(key)}": report for key, report in result["within"].items()},
    }
    series |= {key.replace(",", " against"): report for key, report in result["cross"].items()}
    return {name: report for name, report in series.items() if report["mean_auroc"]["value"] is not None}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
