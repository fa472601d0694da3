"""How well heat maps find what a radiologist boxed: Wang et al.'s rule, the pointing game, and controls beside both.

Of every annotated finding the heat map is cut into boxes (`boxes.detect`). An annotated box is hit at T when some
detected box overlaps it by more than T. Accuracy is the share of annotated boxes hit; false positives are the detected
boxes that overlap no annotated one by more than T, per image that has the finding annotated. Every map passes both of
its own cuts somewhere, so it gives two boxes unless they coincide: one of them is often a false positive.

IoBB favours many small boxes. So two controls go the same way: smooth random maps, and "shifted", the very maps moved
by a random way and wrapped, which keeps the size and number of boxes and takes away only the place.
"""

import zlib
from typing import NamedTuple

import numpy as np

from cxr.evaluation import boxes as geometry
from cxr.evaluation.metrics import SEED, draw_patients
from cxr.findings import FINDINGS

THRESHOLDS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
OVERLAPS = {"iobb": geometry.iobb, "iou": geometry.iou}
SIDE = 256  # pixels of the longer side at which maps are cut: 4 pixels of the 1024 x 1024 image
DRAWS = 5  # of each control, averaged
CONTROL_NAMES = {"random": "random maps", "shifted": "shifted maps"}
ALL = "all"  # the row over every finding
SOURCES = ("heat_map", *CONTROL_NAMES)
AT_A_THRESHOLD = (
    *("accuracy", "low", "high"),
    *("false_positives", "false_positives_low", "false_positives_high"),
)
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
            patient, draws = draw_patients(np.array([one.patient_id for one in group]))
            draws = np.vstack([np.ones_like(draws[0]), *draws]).astype(float)  # first of all everyone
            result[finding] = {
                "boxes": sum(one.scores["heat_map"].boxes for one in group),
                "images": len({one.image_id for one in group}),
                "patients": draws.shape[1],
                **{
                    source: summarize_source([one.scores[source] for one in group], patient, draws)
                    for source in SOURCES
                },
                "published": published(finding),
            }
    return result


def summarize_source(scores: list[Score], patient: np.ndarray, draws: np.ndarray) -> dict:
    """Accuracy, false positives per image and the pointing game, of one finding or of all, with 95 % intervals.

    Boxes of one patient are alike, so the intervals are over resamples of the patients, as those of AUROC are. Of one
    patient they are None: there is nobody else to draw.

    Args:
        scores: one for each image and finding.
        patient: which of the patients each score is of, int [n] from 0.
        draws: how often each patient counts, float [1 + resamples, patients]: first all of them once, then as drawn.

    Returns:
        {"iobb" and "iou": {"0.1": {"accuracy", "low", "high", "false_positives", "false_positives_low",
        "false_positives_high"}, ...}, "pointing": {"value", "low", "high"}}.
    """
    values = shares(scores, patient, draws)
    intervals = {name: np.percentile(samples[1:], [2.5, 97.5], axis=0) for name, samples in values.items()}

    def numbers(name: str, *place: int) -> tuple[float | None, ...]:
        """Value, low and high."""
        ends = intervals[name][:, *place].tolist() if draws.shape[1] > 1 else (None, None)
        return float(values[name][0, *place]), *ends

    result = {}
    for row, overlap in enumerate(OVERLAPS):
        result[overlap] = {}
        for column, limit in enumerate(THRESHOLDS):
            six = *numbers("accuracy", row, column), *numbers("false_positives", row, column)
            result[overlap][str(limit)] = dict(zip(AT_A_THRESHOLD, six, strict=True))
    return {**result, "pointing": dict(zip(("value", "low", "high"), numbers("pointing"), strict=True))}


def shares(scores: list[Score], patient: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Each measure where the patients count as often as drawn; the arguments are those of `summarize_source`.

    Returns:
        "accuracy" and "false_positives" [draws, 2, T] by OVERLAPS and THRESHOLDS, "pointing" [draws].
    """
    columns = [[s.boxes, 1, s.pointing, *s.hits.ravel(), *s.false_positives.ravel()] for s in scores]
    by_patient = np.zeros((draws.shape[1], len(columns[0])))
    np.add.at(by_patient, patient, columns)
    sums = draws @ by_patient  # [draws, columns]
    boxes, images, pointing = sums[:, :3].T
    hits, false_positives = sums[:, 3:].reshape(-1, 2, len(OVERLAPS), len(THRESHOLDS)).swapaxes(0, 1)
    return {
        "accuracy": hits / boxes[:, None, None],
        "false_positives": false_positives / images[:, None, None],
        "pointing": pointing / images,
    }


def published(finding: str) -> dict | None:
    """Wang et al. on a finding: {"iobb": {"0.1": {"accuracy", "false_positives"}, ...}}; None where they have none."""
    if finding not in PUBLISHED_FINDINGS:
        return None
    place = PUBLISHED_FINDINGS.index(finding)
    rows = {str(limit): [float(row.split()[place]) for row in both] for limit, both in PUBLISHED.items()}
    return {"iobb": {limit: {"accuracy": a, "false_positives": f} for limit, (a, f) in rows.items()}}
