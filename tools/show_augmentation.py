"""Draw what training would see: images with boxes as they are, and augmented copies whose boxes went with them.

    python -m tools.show_augmentation --model_dir experiments/augmented --data_dir data/sample

Writes augmentation.png into the experiment, which need not be trained: a row for each image. What counts of params.json
is augmentation, horizontal_flip, crop_size and seed; images mixed with one another are not drawn.
"""

import argparse
import io
import pathlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from cxr import storage
from cxr.data import bbox_list, images, sources
from cxr.errors import one_line_errors
from cxr.evaluation import overlays
from cxr.evaluation.boxes import Placement, areas
from cxr.findings import FINDINGS
from cxr.networks import augment
from cxr.networks.geometry import centre_crop, crop_start, move_boxes
from cxr.params import Params, load_params

PANEL = 224  # pixels a side of each copy in the picture


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="an experiment: a folder with params.json")
    add("--data_dir", type=epath.Path, required=True, help="a release with BBox_List_2017.csv and original images")
    add("--output", type=pathlib.Path, metavar="PNG", help="default: augmentation.png in the experiment")
    add("--image_size", type=int, default=224, help="pixels a side of the records; default: %(default)s")
    add("--images", type=int, default=4, metavar="N", help="rows, an image each; default: %(default)s")
    add("--copies", type=int, default=5, metavar="N", help="of each image; default: %(default)s")
    args = parser.parse_args(argv)
    for name, low, high in (("image_size", 32, 4096), ("images", 1, 100), ("copies", 1, 20)):
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name} {getattr(args, name)}: expected {low} to {high}")
    args.output = args.output or args.model_dir / "augmentation.png"
    return args


def first_images(data_dir: epath.Path, count: int) -> list[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """The first readable images with boxes: id, uint8 [height, width], boxes [n, 4] in NIH's frame by finding.

    Raises:
        FileNotFoundError, ValueError: see `bbox_list.read_boxed`, and if there is no such image.
    """
    boxed = bbox_list.read_boxed(data_dir)
    found, broken, first = sources.find_images(data_dir, boxed), {}, []
    for image_id, pixels in bbox_list.read_images(data_dir, found, boxed, broken):
        first.append((image_id, pixels, boxed[image_id].boxes_nih))
        if len(first) == count:
            break
    if not first:
        raise ValueError(
            f"none of the {len(boxed):,} images with boxes is below {data_dir} and readable; download them"
        )
    return first


def copies(
    square: np.ndarray, boxes: np.ndarray, params: Params, *, count: int, seed: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """An image as it is and augmented copies, cropped as the model crops them, each with its boxes.

    Args:
        square: uint8 [S, S].
        boxes: [n, 4] (x0, y0, x1, y1) in its pixels.

    Returns:
        count + 1 pairs of uint8 [C, C] and boxes [n, 4] in its pixels; one that has left the image has no area.
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


def sheet(rows: list[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]) -> bytes:
    """A PNG: a caption for every row and the images of `copies` under it, side by side, their boxes drawn."""
    import cv2
    from PIL import Image, ImageDraw, ImageFont

    across, down = PANEL + overlays.GAP, PANEL + overlays.GAP + overlays.LINE
    canvas = Image.new("RGB", (len(rows[0][1]) * across - overlays.GAP, len(rows) * down))
    font = ImageFont.load_default(15)
    for top, (caption, pairs) in enumerate(rows):
        ImageDraw.Draw(canvas).text((4, top * down + 2), caption, fill=overlays.WHITE, font=font)
        for left, (image, boxes) in enumerate(pairs):
            scale = PANEL / len(image)
            panel = Image.fromarray(cv2.resize(image, (PANEL, PANEL), interpolation=cv2.INTER_AREA)).convert("RGB")
            for box in boxes[areas(boxes) > 0] * scale:
                overlays.draw_box(ImageDraw.Draw(panel), box, overlays.WHITE, dash=None)
            canvas.paste(panel, (left * across, top * down + overlays.LINE))
    buffer = io.BytesIO()
    canvas.convert("L").save(buffer, "PNG")  # there is no colour in it
    return buffer.getvalue()


def main(argv: list[str] | None = None) -> None:
    """Draw the augmentation of one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        params, rows = load_params(args.model_dir), []
        crop_start(args.image_size, params.crop_size or args.image_size)
        for number, (image_id, pixels, by_finding) in enumerate(first_images(args.data_dir, args.images)):
            placement = Placement(pixels.shape[1], pixels.shape[0], args.image_size)
            boxes = placement.to_model(placement.from_nih(np.concatenate(list(by_finding.values()))))
            square = images.resize_square(pixels, args.image_size)
            names = ", ".join(finding for finding in FINDINGS if finding in by_finding)
            caption = f"{image_id}   {names}   as it is, then {args.copies} copies"
            rows.append((caption, copies(square, boxes, params, count=args.copies, seed=(params.seed, number))))
        with storage.whole_file(args.output) as file:
            file.write(sheet(rows))
        print(f"written: {args.output}, {len(rows)} images of {args.image_size} pixels")


if __name__ == "__main__":
    main()
