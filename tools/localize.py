"""Measure where a model sees findings: heat maps against the boxes of BBox_List_2017.csv, by Wang et al.'s rule.

    python -m tools.localize --model_dir experiments/simple_cnn --data_dir data/nih

Writes localization.json and pictures of heat maps and boxes into the experiment's localization/ and prints, for every
annotated finding, accuracy and false positives per image beside random maps, shifted maps and the published table. It
needs the images that have boxes, 880 in the whole release, in folders or archives, as they were before resizing.
"""

import argparse
import collections
import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils import epath
from scipy.special import expit
from tqdm import tqdm

from cxr import experiment, identity, storage
from cxr.errors import one_line_errors
from cxr.evaluation import localization, overlays, provenance
from cxr.evaluation.boxes import Placement, iobb
from cxr.evaluation.localization import Judged
from cxr.evaluation.localization_table import results_table
from cxr.findings import FINDINGS
from cxr.images.resize import resize_square
from cxr.networks import cam
from cxr.release import bbox_list, sources
from cxr.release.bbox_list import Boxed

if TYPE_CHECKING:
    from cxr.networks.trained import TrainedExperiment

BATCH = 16  # images a step
FILE = "localization.json"


class Localized(NamedTuple):
    """One finding in one image, as the model sees it."""

    image_id: str
    finding: str
    pixels: np.ndarray  # uint8 [height, width], of the file
    placement: Placement
    annotated_nih: np.ndarray  # [n, 4]
    heat: np.ndarray  # [rows, columns] over exactly the image
    probability: float  # predicted


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("--data_dir", type=epath.Path, required=True, help="a release with BBox_List_2017.csv and original images")
    add("--output_dir", type=pathlib.Path, help="default: localization/ in the experiment")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    add("--method", choices=cam.METHODS, default="auto", help="default: %(default)s, what fits the model")
    add("--overlays", type=int, default=3, metavar="N", help="pictures of each finding; default: %(default)s")
    add("--allow_leak", action="store_true", help="judge on patients that the weights have seen, and mark the result")
    args = parser.parse_args(argv)
    if args.overlays < 0:
        parser.error(f"--overlays {args.overlays}: expected 0 or more")
    args.output_dir = args.output_dir or args.model_dir / "localization"
    return args


def in_batches(pictures: Iterable[tuple[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Images by id, BATCH at once."""
    batch = {}
    for image_id, pixels in pictures:
        batch[image_id] = pixels
        if len(batch) == BATCH:
            yield batch
            batch = {}
    if batch:
        yield batch


def localized(
    network: "TrainedExperiment", mapper: cam.HeatMapper, batch: dict[str, np.ndarray], boxed: dict[str, Boxed]
) -> Iterator[Localized]:
    """Heat maps of every annotated finding of some images, uint8 [height, width] by image id."""
    image_size = network.image_size
    squares = np.stack([resize_square(pixels, image_size) for pixels in batch.values()])[..., None]
    findings = [finding for finding in FINDINGS if any(finding in boxed[image_id].boxes_nih for image_id in batch)]
    columns = [FINDINGS.index(finding) for finding in findings]
    maps = mapper(squares, columns)  # [B, F, h, w]
    logits = network.logits({"image": squares}).astype(np.float64)  # as evaluate.py scores it, whatever draws the maps
    probabilities = expit(logits)[:, columns]
    for row, (image_id, pixels) in enumerate(batch.items()):
        placement = Placement(pixels.shape[1], pixels.shape[0], image_size)
        for finding, annotated_nih in boxed[image_id].boxes_nih.items():
            column = findings.index(finding)
            heat = placement.heat_on_image(maps[row, column], localization.SIDE, covers=mapper.covers)
            yield Localized(
                image_id, finding, pixels, placement, annotated_nih, heat, float(probabilities[row, column])
            )


def draw(one: Localized, method: str, output_dir: pathlib.Path) -> str:
    """Write the picture of one finding in one image; returns the file's name."""
    detected_nih = localization.find(one.heat, one.placement).boxes_nih
    best = iobb(detected_nih, one.annotated_nih).max(initial=0)
    data = overlays.overlay(
        one.pixels,
        one.heat,
        annotated_nih=one.annotated_nih,
        detected_nih=detected_nih,
        caption=[
            f"{one.image_id}   {one.finding}, predicted {one.probability:.2f}   {method}",
            f"detected boxes: {len(detected_nih)}   best IoBB: {best:.2f}",
        ],
    )
    name = f"{one.finding}_{pathlib.PurePath(one.image_id).stem}.png"
    with storage.whole_file(output_dir / name) as file:
        file.write(data)
    return name


def judge(
    network: "TrainedExperiment",
    mapper: cam.HeatMapper,
    pictures: Iterable[tuple[str, np.ndarray]],
    boxed: dict[str, Boxed],
    *,
    output_dir: pathlib.Path,
    num_overlays: int,
) -> list[Judged]:
    """Score every annotated finding of every image, and draw the first few of each finding.

    Args:
        pictures: (image id, uint8 [height, width]).
    """
    judged, drawn = [], collections.Counter()
    for batch in in_batches(pictures):
        for one in localized(network, mapper, batch, boxed):
            name = f"{one.image_id} {one.finding}"
            scores = localization.score_with_controls(one.heat, one.placement, one.annotated_nih, name=name)
            wanted = drawn[one.finding] < num_overlays
            overlay = draw(one, mapper.method, output_dir) if wanted else None
            drawn[one.finding] += 1
            judged.append(Judged(one.image_id, boxed[one.image_id].patient_id, one.finding, scores, overlay))
    return sorted(
        judged, key=lambda judgement: (judgement.image_id, FINDINGS.index(judgement.finding))
    )  # not by container


def find_leak(args: argparse.Namespace, patient_ids: list[int]) -> dict:
    """How many of these patients the weights have seen; ValueError when any and nobody asked for that."""
    # A release is no built dataset, so there is no fingerprint by which its splits would be known as the model's own.
    leak = provenance.find_leak(args.model_dir, {"fingerprint": None}, "test", np.array(patient_ids))
    if not args.allow_leak:
        provenance.require_no_leak(leak, "the images with boxes", len(set(patient_ids)))
    return leak


def remove_pictures(output_dir: pathlib.Path) -> None:
    """Delete what an earlier run drew, by its own list."""
    path = output_dir / FILE
    for name in storage.read_json(path)["overlays"] if path.is_file() else ():
        (output_dir / pathlib.PurePath(name).name).unlink(missing_ok=True)


def localize(args: argparse.Namespace) -> dict:
    """Judge an experiment; writes the pictures and localization.json, and returns what that says.

    Raises:
        FileNotFoundError: the experiment is not trained, or there are no boxes.
        ValueError: boxes that do not fit the release, none of their images, or patients that the weights have seen.
    """
    from cxr.networks.trained import TrainedExperiment

    params = identity.trained_params(args.model_dir)
    broken = {}
    boxed = bbox_list.read_boxed(args.data_dir)
    found = sources.find_images(args.data_dir, boxed)
    present = boxed if found.streams else found.locations  # what a stream holds is known when it has been read
    leak = find_leak(args, [boxed[image_id].patient_id for image_id in present])
    network = TrainedExperiment(args.model_dir, args.checkpoint)
    mapper = cam.HeatMapper(network.keras_model(), args.method, crop_size=params.crop_size)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    remove_pictures(args.output_dir)
    pictures = bbox_list.read_images(args.data_dir, found, boxed, broken)
    pictures = tqdm(pictures, total=len(present), unit="image", desc="localizing", mininterval=0.5)
    to = {"output_dir": args.output_dir, "num_overlays": args.overlays}
    judged = judge(network, mapper, pictures, boxed, **to)
    if not judged:
        raise ValueError(
            f"none of the {len(boxed):,} images with boxes is below {args.data_dir} and readable; download them: they "
            "are all on the test list"
        )
    result = {
        "model_dir": str(args.model_dir),
        "checkpoint": args.checkpoint,
        "method": mapper.method,
        "heat_map_precision": params.precision if network.is_exact_in_keras else "float32",
        "data_dir": str(args.data_dir),
        "boxed_images": len(boxed),
        "absent": len(boxed) - len({one.image_id for one in judged}) - len(broken),
        "broken": broken,
        "leak": leak,
        "findings": localization.summarize(judged),
        "published_source": localization.PUBLISHED_SOURCE,
        "overlays": [one.overlay for one in judged if one.overlay],
        "git_sha": experiment.git_sha(),
        "library_versions": experiment.library_versions(),
    }
    storage.write_json(args.output_dir / FILE, result)
    return result


def main(argv: list[str] | None = None) -> None:
    """Localize the findings of one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        result = localize(args)
        print(results_table(result))
        print(f"written: {args.output_dir / FILE} and {len(result['overlays'])} pictures")


if __name__ == "__main__":
    main()
