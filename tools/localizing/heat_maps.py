"""Heat maps of annotated findings, their scores and their pictures."""

import collections
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from cxr import storage
from cxr.evaluation import localization, metrics, overlays
from cxr.evaluation.boxes import Placement, iobb
from cxr.evaluation.localization import ScoredFinding
from cxr.findings import FINDINGS
from cxr.images.resize import resize_square
from cxr.networks.mean_heat_map import HeatMaps
from cxr.networks.trained import Trained
from cxr.release.bbox_list import Boxed

BATCH_SIZE = 16  # images


class FindingMap(NamedTuple):
    """The heat map of one annotated finding in one image."""

    image_id: str
    finding: str
    pixels: np.ndarray  # uint8 [height, width], of the file
    placement: Placement
    annotated_nih: np.ndarray  # [n, 4]
    heat: np.ndarray  # [rows, columns] over exactly the image
    probability: float  # predicted


def in_batches(images: Iterable[tuple[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Pixels by image id, at most BATCH_SIZE at once."""
    batch = {}
    for image_id, pixels in images:
        batch[image_id] = pixels
        if len(batch) == BATCH_SIZE:
            yield batch
            batch = {}
    if batch:
        yield batch


def finding_maps(
    network: Trained, mapper: HeatMaps, batch: dict[str, np.ndarray], boxed: dict[str, Boxed]
) -> Iterator[FindingMap]:
    """Heat maps of every annotated finding of some images, uint8 [height, width] by image id."""
    image_size = network.image_size
    squares = np.stack([resize_square(pixels, image_size) for pixels in batch.values()])[..., None]
    findings = [finding for finding in FINDINGS if any(finding in boxed[image_id].boxes_nih for image_id in batch)]
    columns = [FINDINGS.index(finding) for finding in findings]
    maps = mapper(squares, columns)  # [B, F, h, w]
    logits = network.logits({"image": squares}).astype(np.float64)  # by the network that evaluate.py scores
    probabilities = metrics.sigmoid(logits)[:, columns]
    for row, (image_id, pixels) in enumerate(batch.items()):
        placement = Placement(pixels.shape[1], pixels.shape[0], image_size)
        for finding, annotated_nih in boxed[image_id].boxes_nih.items():
            column = findings.index(finding)
            heat = placement.heat_on_image(maps[row, column], localization.SIDE, covers=mapper.covers)
            probability = float(probabilities[row, column])
            yield FindingMap(image_id, finding, pixels, placement, annotated_nih, heat, probability)


def write_picture(finding_map: FindingMap, method: str, output_dir: pathlib.Path) -> str:
    """Write the picture of one finding in one image; returns the name of the file."""
    detected_nih = localization.detections_of(finding_map.heat, finding_map.placement).boxes_nih
    best = iobb(detected_nih, finding_map.annotated_nih).max(initial=0)
    data = overlays.overlay(
        finding_map.pixels,
        finding_map.heat,
        annotated_nih=finding_map.annotated_nih,
        detected_nih=detected_nih,
        caption=[
            f"{finding_map.image_id}   {finding_map.finding}, predicted {finding_map.probability:.2f}   {method}",
            f"detected boxes: {len(detected_nih)}   best IoBB: {best:.2f}",
        ],
    )
    name = f"{finding_map.finding}_{pathlib.PurePath(finding_map.image_id).stem}.png"
    with storage.whole_file(output_dir / name) as file:
        file.write(data)
    return name


def score_images(
    network: Trained,
    mapper: HeatMaps,
    images: Iterable[tuple[str, np.ndarray]],
    boxed: dict[str, Boxed],
    *,
    output_dir: pathlib.Path,
    num_overlays: int,
) -> list[ScoredFinding]:
    """Score every annotated finding of every image, and write pictures of the first few of each finding.

    Args:
        images: (image id, uint8 [height, width]).
    """
    scored = []
    counts = collections.Counter()
    for batch in in_batches(images):
        for item in finding_maps(network, mapper, batch, boxed):
            name = f"{item.image_id} {item.finding}"
            scores = localization.score_with_controls(item.heat, item.placement, item.annotated_nih, name=name)
            counts[item.finding] += 1
            overlay = write_picture(item, mapper.method, output_dir) if counts[item.finding] <= num_overlays else None
            scored.append(ScoredFinding(item.image_id, boxed[item.image_id].patient_id, item.finding, scores, overlay))
    # The same order whatever container the images are in.
    return sorted(scored, key=lambda item: (item.image_id, FINDINGS.index(item.finding)))
