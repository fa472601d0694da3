"""Measure how well the distances of an experiment separate other images from chest X-rays.

    python -m tools.measure_distances --model_dir experiments/simple_cnn --data_dir data/records --images logos photos

Compares val with folders of other images, and with val images that were changed. Prints for each: how many images, the
AUROC of their distance against that of val, and the share that is out of distribution by distance, by a check, or
either. For changes that leave an image usable an AUROC near 0.5 and few images beyond the threshold are right.
"""

import argparse
import pathlib
import sys
from typing import NamedTuple

import numpy as np
from etils import epath

from cxr import experiment
from cxr.errors import one_line_errors
from cxr.evaluation import metrics, out_of_distribution
from cxr.evaluation.tables import aligned
from cxr.images.appearance import appearance_of
from cxr.images.errors import ImageError
from cxr.patient import UNKNOWN_PATIENT
from cxr.records.appearances import read_pixels
from cxr.records.dataset import open_dataset
from inference.files import find_files
from inference.pictures import disqualifying, read_picture

GAMMAS = (0.7, 1.4)


class Group(NamedTuple):
    """Images of one kind."""

    name: str
    appearances: np.ndarray  # float64 [n, 73]
    fails_check: np.ndarray  # bool [n]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment with fitted distances")
    add("--data_dir", type=epath.Path, required=True, help="the dataset it was trained on")
    add("--images", type=pathlib.Path, nargs="*", default=[], metavar="DIR", help="folders of other images")
    add("--changed", type=int, default=500, metavar="N", help="val images to change; default: %(default)s")
    args = parser.parse_args(argv)
    if args.changed < 1:
        parser.error(f"--changed {args.changed}: expected at least 1")
    return args


def changes(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Changed copies of a grey image, uint8 [height, width]; the last four are harmless."""
    height, width = pixels.shape
    level = pixels / 255
    return {
        "val, inverted": 255 - pixels,
        **{f"val, turned by {90 * turns} degrees": np.rot90(pixels, turns) for turns in (1, 2, 3)},
        "val, cut to the upper left quarter": pixels[: height // 2, : width // 2],
        "val, cut to the centre half": pixels[height // 4 : -(height // 4), width // 4 : -(width // 4)],
        "val, mirrored": pixels[:, ::-1],
        **{f"val, gamma {gamma}": (255 * level**gamma).round().astype(np.uint8) for gamma in GAMMAS},
        "val, 5 % cut off each side": pixels[height // 20 : -(height // 20), width // 20 : -(width // 20)],
    }


def changed_groups(images: list[np.ndarray]) -> list[Group]:
    """All changes of these val images, by kind."""
    kinds = [changes(pixels) for pixels in images]
    groups = []
    for name in kinds[0]:
        copies = [np.ascontiguousarray(kind[name]) for kind in kinds]
        checks = [bool(disqualifying(pixels)) for pixels in copies]
        groups.append(Group(name, np.stack([appearance_of(pixels) for pixels in copies]), np.array(checks)))
    return groups


def read_group(folder: pathlib.Path, image_size: int) -> Group:
    """The readable images of a folder, resized as records are; the others are named on standard error.

    Raises:
        FileNotFoundError: it has no readable image.
    """
    pictures = []
    for path in find_files([folder]):
        try:
            pictures.append(read_picture(path.read_bytes(), image_size, UNKNOWN_PATIENT))
        except ImageError as error:
            print(f"left out: {path}: {error}", file=sys.stderr)
    if not pictures:
        raise FileNotFoundError(f"no readable image below {folder}")
    checks = np.array([picture.fails_check for picture in pictures])
    return Group(str(folder), np.stack([picture.appearance for picture in pictures]), checks)


def describe(group: Group, val: np.ndarray, distances: out_of_distribution.Distances) -> tuple[str, ...]:
    """The row of one kind of images; `val` are the distances of val."""
    found = distances.distance(group.appearances)
    labels = np.r_[np.ones(len(found), int), np.zeros(len(val), int)]
    value = metrics.auroc(labels, np.r_[found, val])
    beyond = found > distances.threshold
    shares = (beyond, group.fails_check, beyond | group.fails_check)
    return (group.name, f"{len(found):,}", f"{value:.3f}", *(f"{100 * share.mean():.1f} %" for share in shares))


def main(argv: list[str] | None = None) -> None:
    """Print the table of one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        trained_on = experiment.dataset_of(args.model_dir)
        distances = out_of_distribution.read(args.model_dir, "best")
        if distances is None:
            raise FileNotFoundError(f"{args.model_dir}: {out_of_distribution.advice(args.model_dir, 'best')}")
        images = open_dataset(args.data_dir)
        if images.info["fingerprint"] != trained_on["fingerprint"]:
            raise ValueError(f"{args.data_dir} is not the dataset that {args.model_dir} was trained on")
        pixels = list(read_pixels(images, "val"))
        val = distances.distance(np.stack([appearance_of(image) for image in pixels]))
        groups = [read_group(folder, images.info["image_size"]) for folder in args.images]
        groups += changed_groups(pixels[: args.changed])
        beyond = 100 * (val > distances.threshold).mean()
        print(f"{len(val):,} val images, threshold {distances.threshold:.1f}, {beyond:.2f} % of them beyond it")
        heads = ("images", "number", "AUROC", "beyond", "by a check", "either")
        print("\n".join(aligned([heads, *(describe(group, val, distances) for group in groups)])))


if __name__ == "__main__":
    main()
