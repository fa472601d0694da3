"""Draw images with their boxes, and augmented copies as in training, with the boxes moved along.

    python -m tools.show_augmentation --model_dir experiments/augmented --data_dir data/sample

Writes augmentation.png into the experiment, which need not be trained: one row per image. Follows augmentation,
horizontal_flip, crop_size and seed of params.json; does not mix images (mixup).
"""

import argparse
import io
import itertools
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from etils import epath

from cxr import experiment, storage
from cxr.errors import one_line_errors
from cxr.evaluation import overlays
from cxr.evaluation.boxes import Placement, areas
from cxr.findings import FINDINGS
from cxr.images.resize import resize_square
from cxr.networks import augment
from cxr.networks.geometry import move_boxes
from cxr.networks.pixels import centre_crop, crop_start
from cxr.params import Params, load_params
from cxr.release import bbox_list, sources

SIZE = 224  # pixels per side of the records of an untrained experiment
PANEL = 224  # pixels per side of each copy in the picture


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="an experiment: a folder with params.json")
    add("--data_dir", type=epath.Path, required=True, help="a release with BBox_List_2017.csv and original images")
    add("--output", type=pathlib.Path, metavar="PNG", help="default: augmentation.png in the experiment")
    add("--image_size", type=int, help=f"pixels per side of the records; default: as in training, or {SIZE}")
    add("--images", type=int, default=4, metavar="N", help="images, one per row; default: %(default)s")
    add("--copies", type=int, default=5, metavar="N", help="augmented copies per image; default: %(default)s")
    args = parser.parse_args(argv)
    for name, low, high in (("image_size", 32, 4096), ("images", 1, 100), ("copies", 1, 20)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name} {value}: expected {low} to {high}")
    args.output = args.output or args.model_dir / "augmentation.png"
    if args.output.suffix != ".png":
        parser.error(f"--output {args.output}: expected a name that ends in .png")
    return args


def record_size(model_dir: pathlib.Path, params: Params, image_size: int | None) -> int:
    """Pixels per side of the records: `image_size` if given, else that of training, else SIZE.

    Raises:
        ValueError: an untrained experiment has a crop_size, and the size of the records is unknown.
    """
    if image_size is not None:
        return image_size
    if (model_dir / "dataset.json").is_file():
        return experiment.dataset_of(model_dir)["image_size"]
    if params.crop_size:
        raise ValueError(
            f"{model_dir} has not been trained, so the size of the records is unknown, from which its crop_size "
            f"{params.crop_size} is cut; give --image_size"
        )
    return SIZE


def augmented_copies(
    square: np.ndarray, boxes: np.ndarray, params: Params, *, count: int, seed: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """An image and augmented copies, cropped as by the model, each with its boxes.

    Args:
        square: uint8 [S, S].
        boxes: [n, 4] (x0, y0, x1, y1) in its pixels.

    Returns:
        count + 1 pairs of uint8 [C, C] and boxes [n, 4] in its pixels; a box outside the image has no area.

    Raises:
        ValueError: crop_size is larger than the image.
    """
    size = len(square)
    batch = np.repeat(square[None, :, :, None], count, axis=0)
    changed, matrices = augment.augment_with_matrices(batch, params, np.random.default_rng(seed))
    moved = [boxes] * count if matrices is None else [move_boxes(boxes, matrix, size=size) for matrix in matrices]
    cropped = centre_crop(np.concatenate([square[None, :, :, None], changed]), params.crop_size)[..., 0]
    side = params.crop_size or size
    return [
        (image, np.clip(own - crop_start(size, side), 0, side))
        for image, own in zip(cropped, [boxes, *moved], strict=True)
    ]


def draw_row(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The images of `augmented_copies` side by side with their boxes: uint8 [PANEL, width]."""
    import cv2
    from PIL import Image, ImageDraw

    step = PANEL + overlays.GAP
    canvas = Image.new("RGB", (len(pairs) * step - overlays.GAP, PANEL))
    for place, (image, boxes) in enumerate(pairs):
        panel = Image.fromarray(cv2.resize(image, (PANEL, PANEL), interpolation=cv2.INTER_AREA)).convert("RGB")
        for box in boxes[areas(boxes) > 0] * (PANEL / len(image)):
            overlays.draw_box(ImageDraw.Draw(panel), box, overlays.WHITE, dash=None)
        canvas.paste(panel, (place * step, 0))
    return np.array(canvas.convert("L"))  # the boxes are black and white


def draw_rows(rows: list[tuple[str, np.ndarray]]) -> bytes:
    """A PNG of rows uint8 [PANEL, width], each below its caption."""
    from PIL import Image, ImageDraw, ImageFont

    step = overlays.LINE + PANEL + overlays.GAP
    canvas = Image.new("L", (rows[0][1].shape[1], len(rows) * step))
    font = ImageFont.load_default(15)
    for place, (caption, pixels) in enumerate(rows):
        ImageDraw.Draw(canvas).text((4, place * step + 2), caption, fill=255, font=font)
        canvas.paste(Image.fromarray(pixels), (0, place * step + overlays.LINE))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def read_rows(
    data_dir: epath.Path, params: Params, *, size: int, num_images: int, num_copies: int
) -> tuple[list[tuple[str, np.ndarray]], dict[str, str]]:
    """Captions and drawn rows of the first images with boxes, and the reasons of unreadable images, by id.

    Raises:
        FileNotFoundError, ValueError: as `bbox_list.read_boxed` and `augmented_copies`; no image is readable.
    """
    boxed = bbox_list.read_boxed(data_dir)
    rows = []
    broken = {}
    images = bbox_list.read_images(data_dir, sources.find_images(data_dir, boxed), boxed, broken)
    for number, (image_id, pixels) in enumerate(itertools.islice(images, num_images)):
        by_finding = boxed[image_id].boxes_nih
        placement = Placement(pixels.shape[1], pixels.shape[0], size)
        boxes = placement.to_model(placement.from_nih(np.concatenate(list(by_finding.values()))))
        square = resize_square(pixels, size)
        pairs = augmented_copies(square, boxes, params, count=num_copies, seed=(params.seed, number))
        names = ", ".join(finding for finding in FINDINGS if finding in by_finding)
        rows.append((f"{image_id}   {names}", draw_row(pairs)))
    if not rows:
        reason = "".join(f"; {image_id} is broken: {reason}" for image_id, reason in list(broken.items())[:1])
        raise ValueError(
            f"none of the {len(boxed):,} images with boxes is below {data_dir} and readable; download them{reason}"
        )
    return rows, broken


def main(argv: list[str] | None = None) -> None:
    """Draw the augmentation of one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        params = load_params(args.model_dir)
        size = record_size(args.model_dir, params, args.image_size)
        counts = {"num_images": args.images, "num_copies": args.copies}
        rows, broken = read_rows(args.data_dir, params, size=size, **counts)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with storage.whole_file(args.output) as file:
            file.write(draw_rows(rows))
        for image_id, reason in broken.items():
            print(f"unreadable: {image_id}: {reason}", file=sys.stderr)
        print(f"written: {args.output}, {len(rows)} images of {size} pixels, each with {args.copies} augmented copies")


if __name__ == "__main__":
    main()
