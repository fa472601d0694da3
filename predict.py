"""Predict 14 findings for chest radiographs (PNG, JPEG, WebP, DICOM) with a trained experiment.

    python predict.py --model_dir experiments/simple_cnn xray.png folder_of_xrays --output predictions.csv

Prints a line for every image: the calibrated probabilities, and the findings at or above the operating points chosen
on val; none if out of distribution. --output writes all numbers as CSV or JSON. --heatmaps draws where
the model saw each of these findings. A file that cannot be read costs one line and exit code 1. Not for clinical use.
"""

import argparse
import collections
import concurrent.futures
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

from cxr import experiment, storage
from cxr.errors import one_line_errors
from cxr.evaluation import operating_points, out_of_distribution
from cxr.findings import FINDINGS
from cxr.images.errors import ImageError
from cxr.patient import OLDEST, Patient
from cxr.release.locations import Location, read_bytes
from inference import readings
from inference.files import find_files
from inference.pictures import Picture
from inference.predictor import Predictor
from inference.readings import Reading

BATCH = 32  # images a step
BATCH_WITH_HEATMAPS = 8  # the original pixels are kept until they are drawn, up to 64 MB an image


class Result(NamedTuple):
    """What came of one file: a reading and warnings, or an error."""

    file: pathlib.Path
    reading: Reading | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("files", type=pathlib.Path, nargs="+", metavar="FILE", help="images, or folders of images")
    add("--output", type=pathlib.Path, metavar="F.csv|F.json", help="file for all numbers; default: only the table")
    heatmaps_help = "folder for heat maps of every called finding; of the likeliest one if none is called"
    add("--heatmaps", type=pathlib.Path, metavar="DIR", help=heatmaps_help)
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    title = "patient inputs, the same for all files; default: the DICOM header's, else unknown"
    patient = parser.add_argument_group(title)
    patient.add_argument("--age", type=float, help="years")
    patient.add_argument("--sex", choices=("F", "M"))
    patient.add_argument("--view_position", choices=("PA", "AP"))
    args = parser.parse_args(argv)
    if args.output and args.output.suffix not in (".csv", ".json"):
        parser.error(f"--output {args.output}: expected a name that ends in .csv or .json")
    if args.age is not None and not 0 <= args.age <= OLDEST:
        parser.error(f"--age {args.age:g}: expected 0 to {OLDEST} years")
    return args


def read_ahead(
    predictor: Predictor, files: list[pathlib.Path], patient: Patient, *, keep_pixels: bool
) -> Iterator[tuple[pathlib.Path, Picture | Exception]]:
    """Read files in order, on threads while the network runs; yields the error where a file cannot be read.

    Args:
        keep_pixels: keep the original pixels; else they are replaced by the small square, which saves memory.
    """

    def read(file: pathlib.Path) -> Picture | Exception:
        try:
            picture = predictor.read(read_bytes(Location(str(file))), patient)
        except (ImageError, ImportError, OSError) as error:
            return error
        return picture if keep_pixels else picture._replace(pixels=picture.square)

    limit = BATCH_WITH_HEATMAPS if keep_pixels else BATCH
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for file in files:
            waiting.append((file, pool.submit(read, file)))
            if len(waiting) > limit:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def print_warnings(file: pathlib.Path, picture: Picture | Exception) -> None:
    """Print one line on stderr if the file cannot be read or the image is unlike those of training."""
    if isinstance(picture, Exception):
        print(f"unreadable: {file}: {picture}", file=sys.stderr)
    elif picture.warnings:
        print(f"warning: {file}: {'; '.join(picture.warnings)}", file=sys.stderr)


def heatmap_targets(files: list[pathlib.Path], folder: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
    """Path for the heat maps of each file inside `folder`, without ending; folders below the common one are kept."""
    absolute = {file: pathlib.Path(os.path.abspath(file)) for file in files}  # noqa: PTH100 -- removes "..", keeps links
    top = os.path.commonpath([path.parent for path in absolute.values()])
    return {file: folder / path.relative_to(top) for file, path in absolute.items()}


def write_heatmaps(predictor: Predictor, picture: Picture, reading: Reading, target: pathlib.Path) -> None:
    """Write target.<Finding>.png for every called finding, or for the likeliest one if none is called."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for finding in reading.called or [FINDINGS[int(reading.calibrated.argmax())]]:
        with storage.whole_file(target.with_name(f"{target.name}.{finding}.png")) as file:
            file.write(predictor.overlay(picture, finding))


def predict_files(
    predictor: Predictor, files: list[pathlib.Path], *, patient: Patient, heatmaps: pathlib.Path | None = None
) -> list[Result]:
    """Print a line for every image, and draw heat maps into `heatmaps` if given."""
    targets = heatmap_targets(files, heatmaps) if heatmaps else {}
    size = min(BATCH_WITH_HEATMAPS if heatmaps else BATCH, len(files))
    width = readings.name_width(map(str, files))
    results = []
    pictures = read_ahead(predictor, files, patient, keep_pixels=heatmaps is not None)
    print(readings.table_header(width))
    while chunk := list(itertools.islice(pictures, size)):
        for file, picture in chunk:
            print_warnings(file, picture)
        readable = [picture for _, picture in chunk if not isinstance(picture, Exception)]
        found = iter(predictor.predict(readable, rows=size) if readable else [])
        for file, picture in chunk:
            if isinstance(picture, Exception):
                results.append(Result(file, error=str(picture)))
                continue
            reading = next(found)
            print(readings.table_row(str(file), reading, width), flush=True)
            if heatmaps:
                write_heatmaps(predictor, picture, reading, targets[file])
            results.append(Result(file, reading, picture.warnings))
    return results


def write_csv(path: pathlib.Path, results: list[Result]) -> None:
    """Write the readings as CSV; see `readings.to_csv`."""
    storage.write_text(path, readings.to_csv((str(r.file), r.reading) for r in results if r.reading))


def write_json(
    path: pathlib.Path, results: list[Result], predictor: Predictor, *, model_dir: pathlib.Path, checkpoint: str
) -> None:
    """Write {"model_dir", "checkpoint", "distance_threshold", "images": [...], "unreadable": [...]}."""
    images = [
        {
            "file": str(r.file),
            "warnings": r.warnings,
            **readings.judgement_json(r.reading),
            "findings": readings.as_json(r.reading, predictor.points),
        }
        for r in results
        if r.reading
    ]
    unreadable = [{"file": str(r.file), "error": r.error} for r in results if r.error is not None]
    value = {"model_dir": str(model_dir), "checkpoint": checkpoint, "distance_threshold": predictor.distance_threshold}
    storage.write_json(path, {**value, "images": images, "unreadable": unreadable})


def main(argv: list[str] | None = None) -> None:
    """Predict the findings of files and folders."""
    args = parse_args(argv)
    model_dir, checkpoint, output = args.model_dir, args.checkpoint, args.output
    with one_line_errors():
        files = find_files(args.files)
        for folder in (output and output.parent, args.heatmaps):
            if folder:  # a folder that cannot be made is an error now, not after the last image
                folder.mkdir(parents=True, exist_ok=True)
        predictor = Predictor(model_dir, checkpoint)
        if predictor.points.is_empty:
            advice = operating_points.advice(model_dir, checkpoint)
            print(f"no operating points: nothing is called or calibrated. Run: {advice}", file=sys.stderr)
        if predictor.distances is None:
            print(out_of_distribution.advice(model_dir, checkpoint), file=sys.stderr)
        patient = Patient(args.age, args.sex, args.view_position)
        results = predict_files(predictor, files, patient=patient, heatmaps=args.heatmaps)
        if output and output.suffix == ".csv":
            write_csv(output, results)
        elif output:
            write_json(output, results, predictor, model_dir=model_dir, checkpoint=checkpoint)
        if output:
            print(f"written: {output}")
        unreadable = sum(result.error is not None for result in results)
        if unreadable:
            raise ValueError(f"{unreadable} of {len(files)} files could not be read")


if __name__ == "__main__":
    main()
