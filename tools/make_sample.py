"""Write a made-up NIH ChestX-ray14 release: drawn chests with the 14 findings, in NIH's own files and quirks.

    python -m tools.make_sample --output_dir data/sample

Writes images/*.png, train_val_list.txt, test_list.txt, BBox_List_2017.csv and, last, Data_Entry_2017.csv. 1,200 images
take about 20 seconds on two cores. One seed gives the same bytes whatever --workers is. For trying and testing the
pipeline only: no picture is of a patient, and a score on them says nothing about X-rays.
"""

import argparse
import io
import os
import sys
from pathlib import Path

from cxr.findings import ALIASES
from tools.sample.patients import Record, plan_records

CSV_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
BOXED = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax")
BOX_NAMES = {finding: alias for alias, finding in ALIASES.items()}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing; what an interrupted run left is kept.

    Raises:
        FileExistsError: the file is there with other contents, so it belongs to something else.
    """
    if path.exists():
        if path.read_bytes() != data:
            raise FileExistsError(f"{path} is not what these options write; delete it or give another --output_dir")
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def write_lines(path: Path, lines: list[str], *, end: str = "\n") -> None:
    write_whole(path, "".join(line + end for line in lines).encode())


def recycle_memory() -> None:
    """Allocate and free 30 MB: from then on glibc recycles arrays of that size, and drawing takes two thirds."""
    import numpy as np

    np.empty(30 << 20, np.uint8)


def start_worker() -> None:
    """Make a spawned process ready to draw, and to end with its parent however that ends."""
    import multiprocessing
    import signal
    import threading

    recycle_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def write_image(job: tuple[Record, int, int, Path]) -> dict:
    """Draw and write one image, the pool's unit of work. Returns the boxes of its findings, in its own pixels."""
    from PIL import Image

    from tools.sample.findings import Study, draw_radiograph

    record, seed, size, image_dir = job
    study = Study(seed, record.patient_id, record.follow_up, record.sex, record.view_position, record.findings)
    pixels, boxes = draw_radiograph(study, size)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert("RGBA") if record.is_rgba else image).save(buffer, "PNG")
    write_whole(image_dir / record.image_id, buffer.getvalue())
    return boxes


def write_images(jobs: list[tuple], *, workers: int) -> list[dict]:
    """Boxes of every job, in order. One worker draws in this process; more are spawned."""
    import functools
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from tqdm import tqdm

    progress = functools.partial(tqdm, total=len(jobs), unit="image", desc="drawing", mininterval=0.5)
    if workers == 1:
        recycle_memory()
        return list(progress(map(write_image, jobs)))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=start_worker)
    try:
        return list(progress(pool.map(write_image, jobs, chunksize=8)))
    finally:
        pool.shutdown(cancel_futures=True)


def box_rows(record: Record, boxes: dict, size: int) -> list[str]:
    """Rows of BBox_List_2017.csv: x, y, w, h in the 1024 x 1024 frame; test images only, as in the original."""
    rows = []
    for finding in BOXED:
        if record.is_test and finding in boxes:
            x0, y0, x1, y1 = (pixel * 1024 / size for pixel in boxes[finding])
            name = BOX_NAMES.get(finding, finding)
            rows.append(f"{record.image_id},{name},{x0:.3f},{y0:.3f},{x1 - x0:.3f},{y1 - y0:.3f}")
    return rows


def make_sample(output_dir: Path, *, images: int, size: int, seed: int, workers: int) -> str:
    """Write the release; returns a sentence about it."""
    records = plan_records(images, seed)
    test = [record.image_id for record in records if record.is_test]
    train_val = [record.image_id for record in records if not record.is_test]
    image_dir = output_dir / "images"
    image_dir.mkdir(parents=True, exist_ok=True)
    write_lines(output_dir / "train_val_list.txt", train_val)
    write_lines(output_dir / "test_list.txt", test)
    boxes = write_images([(record, seed, size, image_dir) for record in records], workers=workers)
    rows = [row for record, found in zip(records, boxes, strict=True) for row in box_rows(record, found, size)]
    write_lines(output_dir / "BBox_List_2017.csv", [BOX_HEADER, *rows])
    rows = [CSV_HEADER, *(record.csv_row() for record in records)]
    write_lines(output_dir / "Data_Entry_2017.csv", rows, end="\r\n")  # last: it says that all the rest is there
    return (
        f"{output_dir}: {images:,} images of {records[-1].patient_id:,} patients, {len(test):,} images on the test list"
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the release, e.g. data/sample")
    parser.add_argument("--images", type=int, default=1200, help="how many (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side, 64 to 1024 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=230, help="another seed, other patients (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Raise ValueError or FileExistsError, saying what to type instead, for what cannot be done."""
    limits = {"images": (1, 200_000), "size": (64, 1024), "seed": (0, 2**32 - 1), "workers": (1, 512)}
    for flag, (low, high) in limits.items():
        if not low <= getattr(args, flag) <= high:
            raise ValueError(f"--{flag} {getattr(args, flag)} is impossible; give a number from {low} to {high}")
    if (args.output_dir / "Data_Entry_2017.csv").exists():
        raise FileExistsError(
            f"{args.output_dir} already holds a release (Data_Entry_2017.csv); "
            "use it as it is, delete the folder, or give another --output_dir"
        )


def main(argv: list[str] | None = None) -> None:
    from concurrent.futures.process import BrokenProcessPool

    args = parse_args(argv)
    try:
        check_args(args)
        print(make_sample(**vars(args)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except (BrokenProcessPool, KeyboardInterrupt):
        sys.exit("error: stopped before the end; run the same command again to complete the sample")


if __name__ == "__main__":
    main()
