"""Draw what training would see: images with boxes as they are, and augmented copies whose boxes went with them.

    python -m tools.show_augmentation --model_dir experiments/augmented --data_dir data/sample

Writes augmentation.png into the experiment, which need not be trained: a row for each image. What counts of params.json
is augmentation, horizontal_flip, crop_size and seed; images mixed with one another are not drawn.
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

SIZE = 224  # pixels a side of the records of an experiment that has none yet
PANEL = 224  # pixels a side of each copy in the picture


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="an experiment: a folder with params.json")
    add("--data_dir", type=epath.Path, required=True, help="a release with BBox_List_2017.csv and original images")
    add("--output", type=pathlib.Path, metavar="PNG", help="default: augmentation.png in the experiment")
    add("--image_size", type=int, help=f"pixels a side of the records; default: as it was trained, else {SIZE}")
    add("--images", type=int, default=4, metavar="N", help="rows, an image each; default: %(default)s")
    add("--copies", type=int, default=5, metavar="N", help="of each image; default: %(default)s")
    args = parser.parse_args(argv)
    for name, low, high in (("image_size", 32, 4096), ("images", 1, 100), ("copies", 1, 20)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name} {value}: expected {low} to {high}")
    args.output = args.output or args.model_dir / "augmentation.png"
    if args.output.suffix != ".png":
        parser.error(f"--output {args.output}: expected a name that ends in .png")
    return args


def record_size(args: argparse.Namespace, params: Params) -> int:
    """Pixels a side of the records: as asked for, else those it was trained on, else SIZE.

    Raises:
        ValueError: nobody knows what the crops of an untrained experiment are cut from.
    """
    is_trained = (args.model_dir / "dataset.json").is_file()
    if args.image_size is None and params.crop_size and not is_trained:
        raise ValueError(
            f"{args.model_dir} has not been trained, so nothing says what its crop_size {params.crop_size} is cut "
            "from; give --image_size, that of its records"
        )
    return args.image_size or (experiment.dataset_of(args.model_dir)["image_size"] if is_trained else SIZE)


def copies(
    square: np.ndarray, boxes: np.ndarray, params: Params, *, count: int, seed: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """An image as it is and augmented copies, cropped as the model crops them, each with its boxes.

    Args:
        square: uint8 [S, S].
        boxes: [n, 4] (x0, y0, x1, y1) in its pixels.

    Returns:
        count + 1 pairs of uint8 [C, C] and boxes [n, 4] in its pixels; one that has left the image has no area.

    Raises:
        ValueError: crop_size is larger than the image.
    """
    size = len(square)
    batch = np.repeat(square[None, :, :, None], count, axis=0)
    changed, matrices = augment.augment_with_matrices(batch, params, np.random.default_rng(seed))
    moved = [boxes] * count if matrices is None else [move_boxes(boxes, matrix, size=size) for matrix in matrices]
    seen = centre_crop(np.concatenate([square[None, :, :, None], changed]), params.crop_size)[..., 0]
    side = params.crop_size or size
    return [
        (image, np.clip(own - crop_start(size, side), 0, side))
        for image, own in zip(seen, [boxes, *moved], strict=True)
    ]


def strip(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Images of `copies` side by side with their boxes: uint8 [PANEL, width]."""
    import cv2
    from PIL import Image, ImageDraw

    across = PANEL + overlays.GAP
    canvas = Image.new("RGB", (len(pairs) * across - overlays.GAP, PANEL))
    for place, (image, boxes) in enumerate(pairs):
        panel = Image.fromarray(cv2.resize(image, (PANEL, PANEL), interpolation=cv2.INTER_AREA)).convert("RGB")
        for box in boxes[areas(boxes) > 0] * (PANEL / len(image)):
            overlays.draw_box(ImageDraw.Draw(panel), box, overlays.WHITE, dash=None)
        canvas.paste(panel, (place * across, 0))
    return np.array(canvas.convert("L"))  # the boxes are white and black


def sheet(rows: list[tuple[str, np.ndarray]]) -> bytes:
    """A PNG of strips uint8 [PANEL, width] under one another, each below its caption."""
    from PIL import Image, ImageDraw, ImageFont

    down = overlays.LINE + PANEL + overlays.GAP
    canvas, font = Image.new("L", (rows[0][1].shape[1], len(rows) * down)), ImageFont.load_default(15)
    for place, (caption, pixels) in enumerate(rows):
        ImageDraw.Draw(canvas).text((4, place * down + 2), caption, fill=255, font=font)
        canvas.paste(Image.fromarray(pixels), (0, place * down + overlays.LINE))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def show(args: argparse.Namespace) -> tuple[int, int, dict[str, str]]:
    """Write the picture; returns its rows, pixels a side of the records, and why images were passed over, by id.

    Raises:
        FileNotFoundError, ValueError: as `bbox_list.read_boxed`, `record_size` and `copies`; no image is readable.
    """
    params = load_params(args.model_dir)
    size, boxed = record_size(args, params), bbox_list.read_boxed(args.data_dir)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    rows, broken = [], {}
    found = bbox_list.read_images(args.data_dir, sources.find_images(args.data_dir, boxed), boxed, broken)
    for number, (image_id, pixels) in enumerate(itertools.islice(found, args.images)):
        by_finding, placement = boxed[image_id].boxes_nih, Placement(pixels.shape[1], pixels.shape[0], size)
        boxes = placement.to_model(placement.from_nih(np.concatenate(list(by_finding.values()))))
        square, seed = resize_square(pixels, size), (params.seed, number)
        names = ", ".join(finding for finding in FINDINGS if finding in by_finding)
        rows.append((f"{image_id}   {names}", strip(copies(square, boxes, params, count=args.copies, seed=seed))))
    if not rows:
        why = "".join(f"; {image_id} is broken: {reason}" for image_id, reason in list(broken.items())[:1])
        raise ValueError(
            f"none of the {len(boxed):,} images with boxes is below {args.data_dir} and readable; download them{why}"
        )
    with storage.whole_file(args.output) as file:
        file.write(sheet(rows))
    return len(rows), size, broken


def main(argv: list[str] | None = None) -> None:
    """Draw the augmentation of one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        rows, size, broken = show(args)
        for image_id, reason in broken.items():
            print(f"unreadable: {image_id}: {reason}", file=sys.stderr)
        print(f"written: {args.output}, {rows} images of {size} pixels: as they are, then {args.copies} as in training")


if __name__ == "__main__":
    main()
