"""Figures of the splits of a dataset, side by side."""

from typing import TYPE_CHECKING

import numpy as np

from cxr.findings import FINDINGS
from cxr.records.example import Index
from tools.reporting import figures
from tools.reporting.figures import Drawing, draw, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {  # split: colour, marker, line
    "train": (figures.BLUE, "o", "-"),
    "val": (figures.VERMILLION, "s", "--"),
    "test": (figures.BLACK, "^", ":"),
}
VIEW_POSITIONS = {  # name: code in an index, colour, line
    "PA": (0, figures.BLUE, "-"),
    "AP": (1, figures.VERMILLION, "--"),
    "unknown": (-1, figures.GREY, ":"),
}
# Largest number of images of a patient in the group, name of the group.
GROUPS = ((1, "1"), (2, "2"), (3, "3"), (4, "4"), (9, "5-9"), (19, "10-19"), (np.inf, "20+"))


def dataset_figures(indexes: dict[str, Index]) -> list[Drawing]:
    """Findings, ages and images per patient of the splits; none without a split."""
    return [findings(indexes), ages(indexes), images_per_patient(indexes)] if indexes else []


def findings(indexes: dict[str, Index]) -> Drawing:
    """Share of images with each finding; logarithmic, because Hernia is a hundred times rarer than Infiltration."""
    places = np.arange(len(FINDINGS))[::-1]

    def paint(axes: "Axes") -> None:
        for split, index in indexes.items():
            shares = 100 * index.labels.mean(axis=0)
            color, mark, _ = LOOKS[split]
            shown = shares > 0
            axes.plot(shares[shown], places[shown], mark, color=color, mfc="none", ms=5, label=split)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_yticks(places, [readable(name) for name in FINDINGS])
        axes.set_xlabel("images with the finding, %")
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.legend(loc="lower center", bbox_to_anchor=(0.35, 1), ncols=3)

    return draw(
        paint,
        title="Findings in the splits",
        alt="Dot plot of the share of images with each finding, by split. The values are in the table.",
        height=4.2,
        left=figures.LEFT_OF_FINDINGS,
    )


def ages(indexes: dict[str, Index]) -> Drawing:
    """Age at each image, in bins of five years."""
    edges = np.arange(0, 101, 5)

    def paint(axes: "Axes") -> None:
        for split, index in indexes.items():
            known = index.ages[~np.isnan(index.ages)]
            shares = 100 * np.histogram(np.clip(known, 0, 99), edges)[0] / max(1, len(known))
            color, _, line = LOOKS[split]
            axes.stairs(shares, edges, color=color, linestyle=line, linewidth=1.5, label=split)
        axes.set(xlabel="age in years (last bin: 95 and over)", ylabel="images, % of the split", xlim=(0, 100))
        figures.legend_above(axes)

    return draw(paint, title="Ages in the splits", alt="Histogram of the patients' ages, one line for each split.")


def images_per_patient(indexes: dict[str, Index]) -> Drawing:
    """Share of patients with one image, two, and more."""

    def paint(axes: "Axes") -> None:
        for split, index in indexes.items():
            _, times = np.unique(index.patient_ids, return_counts=True)
            group = np.searchsorted([most for most, _ in GROUPS], times)
            shares = 100 * np.bincount(group, minlength=len(GROUPS)) / len(times)
            color, mark, line = LOOKS[split]
            axes.plot(shares, mark, linestyle=line, color=color, mfc="none", ms=5, label=split)
        axes.set_xticks(range(len(GROUPS)), [name for _, name in GROUPS])
        axes.set(xlabel="images per patient", ylabel="patients, % of the split", ylim=(0, None))
        figures.legend_above(axes)

    alt = "Line plot of the share of patients with one image, two and more, one line for each split."
    return draw(paint, title="Images per patient in the splits", alt=alt)


def grey_levels(index: Index) -> list[Drawing]:
    """Mean grey value and contrast of the images of a split by view position; none for features or an empty split."""
    if np.isnan(index.means).all():
        return []
    mean = by_view_position(index, index.means, title="Mean grey value", label="mean grey value of an image", most=256)
    deviation = "standard deviation of an image"
    return [mean, by_view_position(index, index.stddevs, title="Contrast", label=deviation, most=128)]


def by_view_position(index: Index, values: np.ndarray, *, title: str, label: str, most: int) -> Drawing:
    """Histogram of a value [n] of each image, a line for each view position, in 32 bins from 0 to `most`."""
    edges = np.linspace(0, most, 33)

    def paint(axes: "Axes") -> None:
        for name, (code, color, line) in VIEW_POSITIONS.items():
            shown = values[index.view_positions == code]
            if len(shown):
                shares = 100 * np.histogram(shown, edges)[0] / len(shown)
                label_of_line = f"{name} ({len(shown):,})"
                axes.stairs(shares, edges, color=color, linestyle=line, linewidth=1.5, label=label_of_line)
        axes.set(xlabel=label, ylabel="images, % of the view position", xlim=(0, most), ylim=(0, None))
        axes.set_xticks(np.linspace(0, most, 5))
        figures.legend_above(axes)

    alt = f"Histogram of the {label}, 0 to {most}, one line for each view position."
    return draw(paint, title=f"{title} by view position", alt=alt)
