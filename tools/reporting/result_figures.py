"""Figures of the results of an experiment over all findings, and of its training."""

import math
from typing import TYPE_CHECKING

import numpy as np

from cxr.evaluation.literature import Published
from tools.reporting import figures
from tools.reporting.figures import Drawing, draw_figure, readable, with_interval
from training.history import POOLED, WITHIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def aurocs(result: dict, published: Published | None) -> Drawing:
    """AUROC of every finding with its interval, beside chance, the metadata floor and a published row."""
    floor = result["floors"]["metadata"]

    def paint(axes: "Axes") -> None:
        names = list(result["findings"])
        places = np.arange(len(names))[::-1]
        axes.axvline(0.5, color=figures.GREY, linestyle=":", linewidth=1)
        if floor:
            values = [_or_nan(floor["findings"][name]["auroc"]) for name in names]
            axes.plot(values, places, "|", color=figures.GREY, ms=9, mew=1.6, label="age, sex, view position only")
        if published:
            values = [published.aurocs[name] for name in names]
            axes.plot(
                values, places, "D", mfc="none", mec=figures.VERMILLION, ms=5, label=published.source.split(" (")[0]
            )
        rows = [result["findings"][name] for name in names]
        values, lows, highs = (np.array([_or_nan(row[key]) for row in rows]) for key in ("auroc", "low", "high"))
        axes.hlines(places, lows, highs, color=figures.BLUE, linewidth=2)
        axes.plot(values, places, "o", color=figures.BLUE, ms=5, clip_on=False, label="this model, 95 % interval")
        axes.set_yticks(places, [readable(name) for name in names])
        axes.set_xlabel("AUROC (dotted: chance)")
        axes.set_xlim(right=1)
        axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1))

    mean = result["mean_auroc"]
    title = f"AUROC by finding; mean {with_interval(mean['value'], mean['low'], mean['high'])}"
    alt = f"Dot plot. {title}. The values are in the table."
    return draw_figure(paint, title=title, alt=alt, height=4.6, left=figures.LEFT_OF_FINDINGS, top=0.65)


def training(history: list[dict]) -> list[Drawing]:
    """Loss and val mean AUROC by epoch; within groups if the best epoch was chosen by that.

    Args:
        history: rows of history.csv; None where undefined.
    """
    epochs = [row["epoch"] for row in history]
    column = WITHIN if history[0].get(WITHIN) is not None else POOLED
    where = " within groups" if column == WITHIN else ""
    best = max(history, key=lambda row: _or(row[column], -math.inf))
    best_auroc = best[column]

    def paint_loss(axes: "Axes") -> None:
        axes.plot(epochs, [_or_nan(row["loss"]) for row in history], "o-", color=figures.BLUE, ms=3, label="training")
        values = [_or_nan(row["val_loss"]) for row in history]
        axes.plot(epochs, values, "s--", color=figures.VERMILLION, ms=3, label="validation")
        _finish_epochs(axes, "loss")
        figures.legend_above(axes)

    def paint_auroc(axes: "Axes") -> None:
        values = [_or_nan(row[column]) for row in history]
        axes.plot(epochs, values, "s--", color=figures.VERMILLION, ms=3)
        if best_auroc is not None:
            axes.plot([best["epoch"]], [best_auroc], "*", color=figures.BLACK, ms=10, label="best, kept")
            figures.legend_above(axes)
        _finish_epochs(axes, f"mean AUROC of val{where}")

    first, last = history[0]["loss"], history[-1]["loss"]
    loss = f"Loss over {len(history)} epochs: training {figures.number(first)} to {figures.number(last)}"
    reached = f"Val mean AUROC{where}: best {figures.number(best_auroc)} in epoch {best['epoch']}"
    return [
        draw_figure(paint_loss, title=loss, alt=f"Line plot. {loss}."),
        draw_figure(paint_auroc, title=reached, alt=f"Line plot. {reached}."),
    ]


def _finish_epochs(axes: "Axes", what: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=what)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)


def _or(value: float | None, instead: float) -> float:
    return instead if value is None else value


def _or_nan(value: float | None) -> float:
    return _or(value, math.nan)
