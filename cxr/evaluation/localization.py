"""How well heat maps find what a radiologist boxed: Wang et al.'s rule, the pointing game, and controls beside both.

Of every annotated finding the heat map is cut into boxes (`boxes.detect`). An annotated box is hit at T when some
detected box overlaps it by more than T. Accuracy is the share of annotated boxes hit; false positives are the detected
boxes that overlap no annotated one by more than T, per image that has the finding annotated. Every map passes both of
its own cuts somewhere, so it gives two boxes unless they coincide: one of them is often a false positive.

IoBB favours many small boxes. So two controls go the same way: smooth random maps, and "shifted", the very maps moved
by a random way and wrapped, which keeps the size and number of boxes and takes away only the place.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np

from cxr.evaluation import boxes as geometry
from cxr.evaluation.metrics import SEED
from cxr.findings import FINDINGS

THRESHOLDS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
OVERLAPS = {"iobb": geometry.iobb, "iou": geometry.iou}
SIDE = 256  # pixels of the longer side at which maps are cut: 4 pixels of the 1024 x 1024 image
DRAWS = 5  # of each control, averaged
CONTROL_NAMES = {"random": "random maps", "shifted": "shifted maps"}
ALL = "all"  # the row over every finding
SOURCES = ("heat_map", *CONTROL_NAMES)
BLUR = 0.1  # of the longer side: standard deviation of the Gaussian that smooths random maps

PUBLISHED_SOURCE = "Wang et al. 2017 (CVPR, Table 4; all 984 boxes of the official test set)"
PUBLISHED_BOXES = 984
PUBLISHED_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration"),
    *("Mass", "Nodule", "Pneumonia", "Pneumothorax"),
)
PUBLISHED = {  # T(IoBB): accuracy and false positives per image, in the order of PUBLISHED_FINDINGS
    0.1: (".7277 .9931 .7124 .7886 .4352 .1645 .7500 .4591", ".8323 .3506 .7998 .5589 .6423 .6047 .9055 .4776"),
    0.25: (".5500 .9794 .5424 .5772 .2823 .0506 .5583 .3469", ".9167 .4553 .8598 .6077 .6707 .6158 .9614 .5000"),
    0.5: (".2833 .8767 .3333 .4227 .1411 .0126 .3833 .1836", "1.0203 .5630 .9268 .6585 .6941 .6189 1.0132 .5285"),
    0.75: (".1666 .7260 .2418 .3252 .1176 .0126 .2583 .1020", "1.0619 .6616 .9603 .6921 .7043 .6199 1.0569 .5396"),
    0.9: (".1333 .6849 .2091 .2520 .0588 .0126 .2416 .0816", "1.0752 .7226 .9797 .7124 .7144 .6199 1.0732 .5437"),
}


class Found(NamedTuple):
    """What a heat map points at, in the frame of BBox_List_2017.csv."""

    boxes_nih: np.ndarray  # [n, 4]
    peak_nih: tuple[float, float] | None  # x, y of its maximum; None where the map is flat


class Score(NamedTuple):
    """One image and one finding, or the mean over the draws of a control."""

    boxes: int  # annotated
    hits: np.ndarray  # [2, T] annotated boxes hit, by OVERLAPS and THRESHOLDS
    false_positives: np.ndarray  # [2, T] detected boxes that hit none
    pointing: float  # 1 where the maximum lies in an annotated box


class Judged(NamedTuple):
    """One finding in one image."""

    image_id: str
    patient_id: int
    finding: str
    scores: dict[str, Score]  # by SOURCES
    overlay: str | None = None  # file name of its picture


def find(heat: np.ndarray, placement: geometry.Placement) -> Found:
    """Boxes and peak of a heat map [rows, columns] that covers exactly the image."""
    per_pixel = np.divide((placement.width, placement.height), heat.shape[::-1])
    peak = None
    if heat.max() > heat.min():
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        peak = tuple(placement.to_nih(np.array([column + 0.5, row + 0.5]) * per_pixel).tolist())
    return Found(placement.to_nih(geometry.detect(heat) * np.tile(per_pixel, 2)), peak)


def score(annotated_nih: np.ndarray, found: list[Found]) -> Score:
    """Compare annotated boxes [m, 4] of a finding in an image with what maps point at; the mean over the maps."""
    limits, hits, false_positives, pointing = np.array(THRESHOLDS), [], [], []
    for boxes_nih, peak in found:
        overlaps = [overlap(boxes_nih, annotated_nih) for overlap in OVERLAPS.values()]  # [n, m] each
        hits.append([(o.max(axis=0, initial=0)[:, None] > limits).sum(axis=0) for o in overlaps])
        false_positives.append([(o.max(axis=1, initial=0)[:, None] <= limits).sum(axis=0) for o in overlaps])
        inside = (annotated_nih[:, :2] <= peak) & (peak < annotated_nih[:, 2:]) if peak else np.zeros((1, 2), bool)
        pointing.append(inside.all(axis=1).any())
    return Score(len(annotated_nih), np.mean(hits, axis=0), np.mean(false_positives, axis=0), float(np.mean(pointing)))


def score_with_controls(
    heat: np.ndarray, placement: geometry.Placement, annotated_nih: np.ndarray, *, name: str
) -> dict[str, Score]:
    """Score a heat map that covers exactly the image, and controls in its place.

    Args:
        name: of image and finding; it seeds the controls, so that they do not depend on the other images.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    controls = {
        "random": [random_map(heat.shape, rng) for _ in range(DRAWS)],
        "shifted": [np.roll(heat, rng.integers(heat.shape), axis=(0, 1)) for _ in range(DRAWS)],
    }
    return {
        source: score(annotated_nih, [find(heat, placement) for heat in heats])
        for source, heats in {"heat_map": [heat], **controls}.items()
    }


def random_map(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth random heat map [rows, columns]: blurred white noise, four or five boxes by Wang et al.'s rule."""
    from scipy import ndimage

    noise = np.fft.rfft2(rng.standard_normal(shape))  # a blur this wide is ten times as fast in frequencies
    return np.fft.irfft2(ndimage.fourier_gaussian(noise, BLUR * max(shape), n=shape[1]), s=shape)


def summarize(judged: list[Judged]) -> dict[str, dict]:
    """Results by finding, in the order of FINDINGS, and of all of them under ALL.

    Returns:
        {finding: {"boxes", "images", "patients", each of SOURCES: see `summarize_source`, "published": see
        `published`}}; findings that nobody annotated are absent.
    """
    groups = {finding: [one for one in judged if one.finding == finding] for finding in FINDINGS}
    result = {}
    for finding, group in [*groups.items(), (ALL, judged)]:
        if group:
            patients = len({one.patient_id for one in group})
            result[finding] = {
                "boxes": sum(one.scores["heat_map"].boxes for one in group),
                "images": len({one.image_id for one in group}),
                "patients": patients,
                **{source: summarize_source([one.scores[source] for one in group], patients) for source in SOURCES},
                "published": published(finding),
            }
    return result


def summarize_source(scores: list[Score], patients: int) -> dict:
    """Accuracy, false positives per image and the pointing game, of one finding or of all.

    Args:
        scores: one for each image and finding.

    Returns:
        {"iobb" and "iou": {"0.1": {"accuracy", "low", "high", "false_positives"}, ...}, "pointing": {"value", "low",
        "high"}}; low and high are the 95 % interval, as wide as `patients` trials make it: boxes of one patient are
        alike.
    """
    boxes = sum(score.boxes for score in scores)
    accuracy = np.sum([score.hits for score in scores], axis=0) / boxes  # [2, T]
    false_positives = np.mean([score.false_positives for score in scores], axis=0)
    result = {}
    for row, overlap in enumerate(OVERLAPS):
        result[overlap] = {}
        for column, limit in enumerate(THRESHOLDS):
            share = float(accuracy[row, column])
            result[overlap][str(limit)] = {
                "accuracy": share,
                **wilson(share, patients),
                "false_positives": float(false_positives[row, column]),
            }
    pointing = float(np.mean([score.pointing for score in scores]))
    return {**result, "pointing": {"value": pointing, **wilson(pointing, patients)}}


def wilson(share: float, trials: int) -> dict[str, float]:
    """The 95 % interval of a share, {"low", "high"} (Wilson 1927): of use also at 0 and 1, and for few trials."""
    z = 1.959964  # 97.5 % of a standard normal distribution lie below
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return {"low": max(0.0, middle - reach), "high": min(1.0, middle + reach)}


def published(finding: str) -> dict | None:
    """Wang et al. on a finding: {"iobb": {"0.1": {"accuracy", "false_positives"}, ...}}; None where they have none."""
    if finding not in PUBLISHED_FINDINGS:
        return None
    place = PUBLISHED_FINDINGS.index(finding)
    rows = {str(limit): [float(row.split()[place]) for row in both] for limit, both in PUBLISHED.items()}
    return {"iobb": {limit: {"accuracy": a, "false_positives": f} for limit, (a, f) in rows.items()}}
