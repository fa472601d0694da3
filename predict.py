"""Read chest radiographs, PNG, JPEG, WebP and DICOM, with a trained experiment: 14 probabilities and what they mean.

    python predict.py --model_dir experiments/simple_cnn xray.png folder_of_xrays --output predictions.csv

Prints a line for every image: calibrated probabilities, and the findings at or above the operating point that val
chose. --output keeps all numbers, as CSV or JSON; --heatmaps draws where the model saw what it called. A file that is
no usable image costs one line and the exit code, not the others. Not for clinical use.
"""

import argparse
import collections
import concurrent.futures
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Iterator

from cxr import experiment, storage
from cxr.errors import one_line_errors
from cxr.evaluation import operating_points
from cxr.findings import FINDINGS
from cxr.images.errors import ImageError
from cxr.patient import OLDEST, Patient
from cxr.release import sources
from cxr.release.locations import Location, read_bytes
from inference import readings
from inference.pictures import Picture
from inference.predictor import Predictor
from inference.readings import Reading

BATCH = 32  # images a step
BATCH_WITH_HEATMAPS = 8  # then the originals are kept meanwhile, up to 64 MB each
ENDINGS = (*sources.IMAGE_ENDINGS, "")  # taken from a folder; DICOM often has none
UID = re.compile(r"[0-9]+(\.[0-9]+)+")  # what PACS and viewers name a DICOM file by


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("files", type=pathlib.Path, nargs="+", metavar="FILE", help="images, or folders of them")
    add("--output", type=pathlib.Path, metavar="F.csv|F.json", help="where the numbers go; default: only the table")
    add("--heatmaps", type=pathlib.Path, metavar="DIR", help="draw every call there, else the likeliest finding")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    known = parser.add_argument_group("patient, for all files, before what a DICOM header says; default: unknown")
    known.add_argument("--age", type=float, help="years")
    known.add_argument("--sex", choices=("F", "M"))
    known.add_argument("--view_position", choices=("PA", "AP"))
    args = parser.parse_args(argv)
    if args.output and args.output.suffix not in (".csv", ".json"):
        parser.error(f"--output {args.output}: expected a name that ends in .csv or .json")
    if args.age is not None and not 0 <= args.age <= OLDEST:
        parser.error(f"--age {args.age:g}: expected 0 to {OLDEST} years")
    return args


def files_of(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Files as given, and what looks like an image by its name below the folders, each once and in a fixed order.

    Raises:
        FileNotFoundError: a path leads nowhere, or a folder has nothing that looks like an image.
    """
    files = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        if not path.is_dir():
            files.append(path)
            continue
        below = sorted(p for p in path.rglob("*") if looks_like_image(p.name) and p.is_file())
        if not below:
            raise FileNotFoundError(f"no PNG, JPEG, WebP or DICOM file below {path}")
        files += below
    return list(dict.fromkeys(files))


def looks_like_image(name: str) -> bool:
    """Whether a file in a folder is worth trying: by its ending, or named by a DICOM UID, whose dots begin none."""
    ending = "" if UID.fullmatch(name) else pathlib.PurePath(name).suffix.lower()
    return ending in ENDINGS and not name.startswith(".")


def read_ahead(
    predictor: Predictor, files: list[pathlib.Path], patient: Patient, *, whole: bool
) -> Iterator[tuple[pathlib.Path, Picture | Exception]]:
    """Files in their order, read on threads beside the network; for what cannot be read, why.

    Args:
        whole: keep the original pixels; else the square stands in for them.
    """

    def read(file: pathlib.Path) -> Picture | Exception:
        try:
            picture = predictor.read(read_bytes(Location(str(file))), patient)
        except (ImageError, ImportError, OSError) as error:
            return error
        return picture if whole else picture._replace(pixels=picture.square)

    ahead, waiting = BATCH_WITH_HEATMAPS if whole else BATCH, collections.deque()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for file in files:
            waiting.append((file, pool.submit(read, file)))
            if len(waiting) > ahead:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def print_oddities(file: pathlib.Path, picture: Picture | Exception) -> None:
    """One line on stderr for what cannot be read, or looks unlike what the network was trained on."""
    if isinstance(picture, Exception):
        print(f"unreadable: {file}: {picture}", file=sys.stderr)
    elif picture.warnings:
        print(f"warning: {file}: {'; '.join(picture.warnings)}", file=sys.stderr)


def draw(predictor: Predictor, picture: Picture, reading: Reading, target: pathlib.Path) -> None:
    """Write an overlay of every call, or, without calls, of the likeliest finding: target.<Finding>.png."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for finding in reading.called or [FINDINGS[int(reading.calibrated.argmax())]]:
        with storage.whole_file(target.with_name(f"{target.name}.{finding}.png")) as file:
            file.write(predictor.overlay(picture, finding))


def predict_files(predictor: Predictor, files: list[pathlib.Path], args: argparse.Namespace) -> list[dict]:
    """Print a line for every image and draw its heat maps.

    Returns:
        For every file {"file", "warnings", "reading"}, or {"file", "error"} where it could not be read.
    """
    patient, drawn, results = Patient(args.age, args.sex, args.view_position), args.heatmaps is not None, []
    size, width = min(BATCH_WITH_HEATMAPS if drawn else BATCH, len(files)), readings.name_width(map(str, files))
    whole = {file: pathlib.Path(os.path.abspath(file)) for file in files}  # noqa: PTH100 -- ".." must go, links must stay
    top = os.path.commonpath([path.parent for path in whole.values()])
    pictures = read_ahead(predictor, files, patient, whole=drawn)
    print(readings.table_header(width))
    while chunk := list(itertools.islice(pictures, size)):
        for file, picture in chunk:
            print_oddities(file, picture)
        good = [(file, picture) for file, picture in chunk if not isinstance(picture, Exception)]
        found = iter(predictor.predict([picture for _, picture in good], rows=size) if good else [])
        for file, picture in chunk:
            if isinstance(picture, Exception):
                results.append({"file": str(file), "error": str(picture)})
                continue
            reading = next(found)
            print(readings.table_row(str(file), reading, width), flush=True)
            if drawn:
                draw(predictor, picture, reading, args.heatmaps / whole[file].relative_to(top))
            results.append({"file": str(file), "warnings": picture.warnings, "reading": reading})
    return results


def write(results: list[dict], predictor: Predictor, args: argparse.Namespace) -> None:
    """Write what was read as CSV or JSON, by the ending of --output."""
    read = [result for result in results if "reading" in result]
    if args.output.suffix == ".csv":
        storage.write_text(args.output, readings.to_csv((result["file"], result["reading"]) for result in read))
        return
    points = predictor.points
    images = [
        {"file": r["file"], "warnings": r["warnings"], "findings": readings.as_json(r["reading"], points)} for r in read
    ]
    unreadable = [result for result in results if "error" in result]
    found = {"model_dir": str(args.model_dir), "checkpoint": args.checkpoint, "images": images}
    storage.write_json(args.output, found | {"unreadable": unreadable})


def main(argv: list[str] | None = None) -> None:
    """Read images and say what is seen."""
    args = parse_args(argv)
    with one_line_errors():
        files = files_of(args.files)
        for folder in (args.output and args.output.parent, args.heatmaps):
            if folder:  # now, not when everything has been computed
                folder.mkdir(parents=True, exist_ok=True)
        predictor = Predictor(args.model_dir, args.checkpoint)
        if predictor.points.is_empty:
            advice = operating_points.advice(args.model_dir, args.checkpoint)
            print(f"no operating points: nothing is called, nothing calibrated. Run: {advice}", file=sys.stderr)
        results = predict_files(predictor, files, args)
        if args.output:
            write(results, predictor, args)
            print(f"written: {args.output}")
        broken = sum("error" in result for result in results)
        if broken:
            raise ValueError(f"{broken} of {len(files)} files could not be read")


if __name__ == "__main__":
    main()
