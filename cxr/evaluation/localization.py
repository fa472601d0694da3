"""Heat maps against the boxes that radiologists drew: Wang et al.'s rule, the pointing game, and two controls.

For every annotated finding the heat map is cut into detected boxes (`boxes.detect`). An annotated box is hit at T when
a detected box overlaps it by more than T. Accuracy is the share of annotated boxes hit. False positives are detected
boxes that overlap no annotated one by more than T, per image that has the finding annotated. Every map exceeds both of
its cuts somewhere and so gives two boxes unless they coincide; one of them is often a false positive.

IoBB favours many small boxes. So two controls are scored in the same way: smooth random maps, and "shifted", the same
heat maps moved by a random offset and wrapped at the edges. Shifted maps keep the size and number of boxes, but not
their position.
"""

import zlib
from typing import NamedTuple

import numpy as np

from cxr.evaluation import boxes as geometry
from cxr.evaluation.literature import published_localization
from cxr.evaluation.metrics import SEED, draw_patients
from cxr.findings import FINDINGS

THRESHOLDS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
OVERLAPS = {"iobb": geometry.iobb, "iou": geometry.iou}
SIDE = 256  # pixels on the longer side of a map when it is cut; one is 4 pixels of the 1024 x 1024 image
DRAWS = 5  # random maps and random shifts for each heat map; their scores are averaged
CONTROL_NAMES = {"random": "random maps", "shifted": "shifted maps"}
ALL = "all"  # the row over all findings
SOURCES = ("heat_map", *CONTROL_NAMES)
AT_A_THRESHOLD = (
    *("accuracy", "low", "high"),
    *("false_positives", "false_positives_low", "false_positives_high"),
)
BLUR = 0.1  # standard deviation of the Gaussian that smooths random maps, as a share of the longer side


class Detections(NamedTuple):
    """The boxes and the maximum of a heat map, in the frame of BBox_List_2017.csv."""

    boxes_nih: np.ndarray  # [n, 4]
    peak_nih: tuple[float, float] | None  # x, y of its maximum; None where the map is flat


class BoxScore(NamedTuple):
    """One image and one finding, or the mean over the draws of a control."""

    num_boxes: int  # annotated
    hits: np.ndarray  # [2, T] annotated boxes hit, by OVERLAPS and THRESHOLDS
    false_positives: np.ndarray  # [2, T] detected boxes that hit no annotated one
    pointing: float  # 1 where the maximum is in an annotated box


class ScoredFinding(NamedTuple):
    """One annotated finding in one image."""

    image_id: str
    patient_id: int
    finding: str
    scores: dict[str, BoxScore]  # by SOURCES
    overlay: str | None = None  # file name of its picture


def detections_of(heat: np.ndarray, placement: geometry.Placement) -> Detections:
    """Boxes and maximum of a heat map [rows, columns] that covers exactly the image."""
    per_pixel = np.divide((placement.width, placement.height), heat.shape[::-1])
    peak = None
    if heat.max() > heat.min():
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        peak = tuple(placement.to_nih(np.array([column + 0.5, row + 0.5]) * per_pixel).tolist())
    return Detections(placement.to_nih(geometry.detect(heat) * np.tile(per_pixel, 2)), peak)


def score_boxes(annotated_nih: np.ndarray, maps: list[Detections]) -> BoxScore:
    """Compare annotated boxes [m, 4] of a finding in an image with the detections of maps; the mean over the maps."""
    limits = np.array(THRESHOLDS)
    hits = []
    false_positives = []
    pointing = []
    for boxes_nih, peak in maps:
        overlaps = [overlap(boxes_nih, annotated_nih) for overlap in OVERLAPS.values()]  # [n, m] each
        hits.append([(o.max(axis=0, initial=0)[:, None] > limits).sum(axis=0) for o in overlaps])
        false_positives.append([(o.max(axis=1, initial=0)[:, None] <= limits).sum(axis=0) for o in overlaps])
        inside = (annotated_nih[:, :2] <= peak) & (peak < annotated_nih[:, 2:]) if peak else np.zeros((1, 2), bool)
        pointing.append(inside.all(axis=1).any())
    means = np.mean(hits, axis=0), np.mean(false_positives, axis=0), float(np.mean(pointing))
    return BoxScore(len(annotated_nih), *means)


def score_with_controls(
    heat: np.ndarray, placement: geometry.Placement, annotated_nih: np.ndarray, *, name: str
) -> dict[str, BoxScore]:
    """Score a heat map that covers exactly the image, and the controls.

    Args:
        name: of image and finding; it seeds the controls, so that they do not depend on the other images.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    controls = {
        "random": [random_map(heat.shape, rng) for _ in range(DRAWS)],
        "shifted": [np.roll(heat, rng.integers(heat.shape), axis=(0, 1)) for _ in range(DRAWS)],
    }
    return {
        source: score_boxes(annotated_nih, [detections_of(heat, placement) for heat in heats])
        for source, heats in {"heat_map": [heat], **controls}.items()
    }


def random_map(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth random heat map [rows, columns]: blurred white noise that gives four or five boxes."""
    from scipy import ndimage

    noise = np.fft.rfft2(rng.standard_normal(shape))  # a blur this wide is ten times faster on frequencies
    return np.fft.irfft2(ndimage.fourier_gaussian(noise, BLUR * max(shape), n=shape[1]), s=shape)


def summarize(scored: list[ScoredFinding]) -> dict[str, dict]:
    """Results by finding, in the order of FINDINGS, and of all findings under ALL.

    Returns:
        {finding: {"boxes", "images", "patients", each of SOURCES: see `summarize_source`, "published": see
        `published_localization`}}; findings without an annotation are absent.
    """
    groups = {finding: [item for item in scored if item.finding == finding] for finding in FINDINGS}
    return {name: summarize_finding(name, group) for name, group in [*groups.items(), (ALL, scored)] if group}


def summarize_finding(name: str, scored: list[ScoredFinding]) -> dict:
    """The results of one finding, or of all under the name ALL; see `summarize`."""
    patient, draws = draw_patients(np.array([item.patient_id for item in scored]))
    draws = np.vstack([np.ones_like(draws[:1]), draws]).astype(float)  # the first row: every patient once
    sources = {source: summarize_source([item.scores[source] for item in scored], patient, draws) for source in SOURCES}
    return {
        "boxes": sum(item.scores["heat_map"].num_boxes for item in scored),
        "images": len({item.image_id for item in scored}),
        "patients": draws.shape[1],
        **sources,
        "published": published_localization(name),
    }


def summarize_source(scores: list[BoxScore], patient: np.ndarray, draws: np.ndarray) -> dict:
    """Accuracy, false positives per image and the pointing game, with 95 % intervals.

    Boxes of one patient are alike, so the intervals are over resamples of the patients, as those of AUROC are. With
    one patient they are None: all resamples are equal.

    Args:
        scores: one for each image and finding.
        patient: index of the patient of each score, int [n] from 0.
        draws: how often each patient counts, float [1 + resamples, patients]; in the first row every patient once.

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


def shares(scores: list[BoxScore], patient: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Each measure with patients counted as often as drawn; arguments as in `summarize_source`.

    Returns:
        "accuracy" and "false_positives" [draws, 2, T] by OVERLAPS and THRESHOLDS, "pointing" [draws].
    """
    columns = [[s.num_boxes, 1, s.pointing, *s.hits.ravel(), *s.false_positives.ravel()] for s in scores]
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
