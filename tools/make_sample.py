"""Write a made-up NIH ChestX-ray14 release: drawn chests with the 14 findings, in the file formats of the real one.

    python -m tools.make_sample --output_dir data/sample

Writes images/*.png, train_val_list.txt, test_list.txt, BBox_List_2017.csv and, last, Data_Entry_2017.csv. 1,200 images
take about 20 seconds on two cores. One seed gives the same bytes whatever --workers is. For trying and testing the
pipeline only: no picture is of a patient, and a score on them says nothing about X-rays.
"""

import argparse
import functools
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cxr import storage
from cxr.engines.engine import default_workers
from cxr.engines.local import run_local
from cxr.errors import one_line_errors
from cxr.findings import ALIASES, NIH_SIZE
from tools.sample.anatomy import RadiographSpec
from tools.sample.findings import Box
from tools.sample.patients import Record, plan_records
from tools.sample.radiograph import draw_radiograph

CSV_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
BOXED = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax")
BOX_NAMES = {finding: alias for alias, finding in ALIASES.items()}


class ImageJob(NamedTuple):
    """The picklable input of a worker that draws one image."""

    record: Record
    seed: int
    size: int  # pixels, square
    image_dir: Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing; an equal file of an interrupted run is kept.

    Raises:
        FileExistsError: a file of that name has other contents, so it is not from this command.
    """
    if path.exists():
        if path.read_bytes() != data:
            raise FileExistsError(f"{path} is not what these options write; delete it or give another --output_dir")
        return
    partial = path.with_name(path.name + storage.PARTIAL)
    partial.write_bytes(data)
    partial.replace(path)


def write_lines(path: Path, lines: list[str], *, end: str = "\n") -> None:
    write_whole(path, "".join(line + end for line in lines).encode())


@functools.cache  # once per process
def recycle_memory() -> None:
    """Allocate and free 30 MB: glibc then reuses arrays up to that size, and drawing takes two thirds of the time."""
    np.empty(30 << 20, np.uint8)


def write_image(job: ImageJob) -> tuple[str, dict[str, Box]]:
    """Draw and write one image; returns its id and the boxes of its findings, in pixels of the image."""
    from PIL import Image

    recycle_memory()
    record = job.record
    spec = RadiographSpec(
        job.seed, record.patient_id, record.follow_up, record.sex, record.view_position, record.findings
    )
    pixels, boxes = draw_radiograph(spec, job.size)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert("RGBA") if record.is_rgba else image).save(buffer, "PNG")
    write_whole(job.image_dir / record.image_id, buffer.getvalue())
    return record.image_id, boxes


def write_images(jobs: list[ImageJob], *, workers: int) -> dict[str, dict[str, Box]]:
    """Write every image, with a progress bar; returns the boxes by image id."""
    results = run_local(write_image, jobs, workers=workers)
    return dict(tqdm(results, total=len(jobs), unit="image", desc="drawing", mininterval=0.5))


def box_rows(record: Record, boxes: dict[str, Box], size: int) -> list[str]:
    """Rows of BBox_List_2017.csv: x, y, w, h in pixels of NIH's images; only for test images, as in the original."""
    rows = []
    for finding in BOXED:
        if record.is_test and finding in boxes:
            x0, y0, x1, y1 = (pixel * NIH_SIZE / size for pixel in boxes[finding])
            name = BOX_NAMES.get(finding, finding)
            rows.append(f"{record.image_id},{name},{x0:.3f},{y0:.3f},{x1 - x0:.3f},{y1 - y0:.3f}")
    return rows


def make_sample(output_dir: Path, *, num_images: int, size: int, seed: int, workers: int) -> str:
    """Write the release; returns a sentence that describes it."""
    records = plan_records(num_images, seed)
    test = [record.image_id for record in records if record.is_test]
    train_val = [record.image_id for record in records if not record.is_test]
    image_dir = output_dir / "images"
    image_dir.mkdir(parents=True, exist_ok=True)
    write_lines(output_dir / "train_val_list.txt", train_val)
    write_lines(output_dir / "test_list.txt", test)
    boxes = write_images([ImageJob(record, seed, size, image_dir) for record in records], workers=workers)
    rows = [row for record in records for row in box_rows(record, boxes[record.image_id], size)]
    write_lines(output_dir / "BBox_List_2017.csv", [BOX_HEADER, *rows])
    rows = [CSV_HEADER, *(record.csv_row() for record in records)]
    write_lines(output_dir / "Data_Entry_2017.csv", rows, end="\r\n")  # last: its presence means a complete release
    patients = records[-1].patient_id
    return f"{output_dir}: {num_images:,} images of {patients:,} patients, {len(test):,} images on the test list"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the release, e.g. data/sample")
    parser.add_argument("--images", type=int, default=1200, help="number of images (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels per side, 64 to 1024 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=230, help="random seed of the patients (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes (default: %(default)s)")
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Raise ValueError or FileExistsError, with what to type instead, for impossible values."""
    limits = {"images": (1, 200_000), "size": (64, NIH_SIZE), "seed": (0, 2**32 - 1), "workers": (1, 512)}
    for flag, (low, high) in limits.items():
        if not low <= getattr(args, flag) <= high:
            raise ValueError(f"--{flag} {getattr(args, flag)} is impossible; give a number from {low} to {high}")
    if (args.output_dir / "Data_Entry_2017.csv").exists():
        raise FileExistsError(
            f"{args.output_dir} already holds a release (Data_Entry_2017.csv); "
            "use it as it is, delete the folder, or give another --output_dir"
        )


def main(argv: list[str] | None = None) -> None:
    """Write a made-up release, or complete one that was interrupted."""
    args = parse_args(argv)
    with one_line_errors():
        check_args(args)
        sample = make_sample(
            args.output_dir, num_images=args.images, size=args.size, seed=args.seed, workers=args.workers
        )
    print(sample)


if __name__ == "__main__":
    main()
