"""Four figures of one finding: ROC, precision-recall, reliability, scores."""

from typing import TYPE_CHECKING

import numpy as np

from cxr.evaluation import metrics
from tools.reporting import curves, figures
from tools.reporting.figures import Drawing, draw, number, readable, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = {  # operating point: name in the legend, marker
    "youden": ("Youden", "o"),
    "sensitivity_90": ("sensitivity 0.9", "s"),
    "best_f1": ("best F1", "^"),
}
TICKS = (1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)  # probabilities, on a log-odds scale


def finding_figures(name: str, values: dict, labels: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> list:
    """The figures of a finding that has both classes.

    Args:
        values: the finding in the metrics file.
        labels: [n] of 0 and 1. scores: [n] probabilities. patients: [n] ids.
    """
    hits, called = metrics.called_at_thresholds(labels, scores)
    bands = curves.bands(labels, scores, patients)
    return [
        roc(name, values, hits, called, bands),
        precision_recall(name, values, hits, called, bands),
        reliability(name, values),
        histogram(name, values, labels, scores),
    ]


def roc(name: str, values: dict, hits: np.ndarray, called: np.ndarray, bands: curves.Bands | None) -> Drawing:
    """Sensitivity over false-positive rate."""

    def paint(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], ":", color=figures.GREY, linewidth=1, label="chance")
        if bands:
            low, high = bands.sensitivity_low, bands.sensitivity_high
            axes.fill_between(curves.FALSE_POSITIVE_RATES, low, high, color=figures.SKY, alpha=0.4, linewidth=0)
        axes.plot(*curves.roc_curve(hits, called), color=figures.BLUE)
        _mark_points(axes, values, lambda point: (1 - point["specificity"], point["sensitivity"]))
        _finish_square(axes, "false positives / negatives (1 - specificity)", "sensitivity")
        figures.legend_above(axes)

    title = f"ROC: AUROC {with_interval(values['auroc'], values['low'], values['high'])}"
    return draw(paint, title=title, alt=f"{readable(name)}, ROC curve. {title}.")


def precision_recall(
    name: str, values: dict, hits: np.ndarray, called: np.ndarray, bands: curves.Bands | None
) -> Drawing:
    """Precision over recall, which shows how hard rare findings are."""
    prevalence = hits[-1] / called[-1]

    def paint(axes: "Axes") -> None:
        axes.axhline(prevalence, linestyle=":", color=figures.GREY, linewidth=1, label=f"chance: {prevalence:.3f}")
        if bands:
            low, high = bands.precision_low, bands.precision_high
            axes.fill_between(curves.RECALLS, low, high, color=figures.SKY, alpha=0.4, linewidth=0, step="pre")
        found = hits > 0
        recalls, precisions = (hits / hits[-1])[found], (hits / called)[found]
        axes.step(np.append(0, recalls), np.append(precisions[0], precisions), color=figures.BLUE, where="pre")
        _mark_points(axes, values, lambda point: (point["sensitivity"], point["precision"]))
        _finish_square(axes, "recall (sensitivity)", "precision")
        figures.legend_above(axes)

    title = f"Precision-recall: AP {number(values['average_precision'])}"
    return draw(paint, title=title, alt=f"{readable(name)}, precision-recall curve. {title}.")


def reliability(name: str, values: dict) -> Drawing:
    """Share of positives over predicted probability, before and after the calibration fitted on val."""
    after = values["calibrated"]
    series = [(values["reliability"], "o-", figures.BLUE, "as predicted")]
    if after:
        series.append((after["reliability"], "s--", figures.VERMILLION, "calibrated on val"))

    def paint(axes: "Axes") -> None:
        end = max(max(bin_["probability"], bin_["observed"]) for bins, *_ in series for bin_ in bins)
        axes.plot([0, end], [0, end], ":", color=figures.GREY, linewidth=1, label="perfect")
        for bins, style, color, label in series:
            x, y = ([bin_[key] for bin_ in bins] for key in ("probability", "observed"))
            axes.plot(x, y, style, color=color, ms=4, linewidth=1.2, label=label)
        axes.set(xlabel="predicted probability", ylabel="share of positives")
        figures.legend_above(axes)

    calibrated = f", calibrated {number(after['expected_calibration_error'])}" if after else ""
    title = f"ECE {number(values['expected_calibration_error'])}{calibrated}"
    return draw(paint, title=title, alt=f"{readable(name)}, reliability in bins of equal numbers of images. {title}.")


def histogram(name: str, values: dict, labels: np.ndarray, scores: np.ndarray) -> Drawing:
    """Scores of the two classes on a log-odds scale: most findings are rare, so most scores are near 0."""
    kept = np.clip(scores, TICKS[0], 1 - TICKS[0])
    logits = np.log(kept) - np.log1p(-kept)
    edges = np.linspace(logits.min() - 0.01, logits.max() + 0.01, 25)

    def paint(axes: "Axes") -> None:
        for positive, style, label in (
            (0, {"color": figures.SKY, "alpha": 0.6}, "without"),
            (1, {"edgecolor": figures.VERMILLION, "facecolor": "none", "hatch": "////", "histtype": "step"}, "with"),
        ):
            chosen = logits[labels == positive]
            share = np.full(len(chosen), 100 / len(chosen))
            axes.hist(chosen, bins=edges, weights=share, label=f"{label} ({len(chosen):,})", **style)
        if values["threshold"] is not None:
            threshold = np.clip(values["threshold"], TICKS[0], 1 - TICKS[0])
            place = np.log(threshold) - np.log1p(-threshold)
            axes.axvline(place, color=figures.BLACK, linestyle="--", linewidth=1, label="Youden threshold")
        ticks = ticks_between(edges[0], edges[-1])
        axes.set_xticks(list(ticks.values()), [f"{tick:g}" for tick in ticks])
        axes.set(xlabel="predicted probability (log-odds scale)", ylabel="images, % of their class")
        figures.legend_above(axes)

    alt = f"{readable(name)}, histogram of the scores of images with and without it."
    return draw(paint, title="Scores with and without it", alt=alt)


def ticks_between(low: float, high: float) -> dict[float, float]:
    """Round probabilities and their log-odds, which are from `low` to `high` and far enough apart for their labels."""
    kept = {}
    last = -np.inf
    for tick in TICKS:
        place = np.log(tick / (1 - tick))
        if low <= place <= high and place - last > 0.19 * (high - low):
            kept[tick] = last = place
    return kept


def _mark_points(axes: "Axes", values: dict, place) -> None:
    for key, (label, mark) in POINTS.items():
        point = values["operating_points"][key]
        needed = (point["sensitivity"], point["specificity"], point["precision"])
        if None not in needed:
            marks = {"markerfacecolor": "white", "markeredgecolor": figures.BLACK, "ms": 6, "linestyle": "none"}
            axes.plot(*([value] for value in place(point)), mark, label=label, zorder=3, **marks)


def _finish_square(axes: "Axes", x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
