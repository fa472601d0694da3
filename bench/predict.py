"""How long predict.py takes to its first answer, and its images/s compared with those of the model alone.

    python -m bench.predict --model_dir experiments/simple_cnn

The limit is the model on squares in memory. Files are decoded on the same cores at the same time, so a small network
waits for the decoder; the rate of decoding alone is printed too. Without --files, images of that size are drawn.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import predict
from bench import images_per_second, print_ratios
from cxr.images.encode import encode
from cxr.patient import UNKNOWN_PATIENT
from inference.files import find_files
from inference.predictor import Predictor

IMAGES = 128
SIDE = 1024  # pixels, as in the release
STARTS = 3


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    parser.add_argument("--files", type=pathlib.Path, help="a folder of images; default: drawn ones")
    return parser.parse_args(argv)


def draw(folder: pathlib.Path) -> None:
    """Write grey PNGs of the size and about the weight of the release's, 450 KB."""
    random = np.random.default_rng(230)
    waves = 128 + 80 * np.sin(np.arange(SIDE)[:, None] / 90) * np.cos(np.arange(SIDE) / 70)
    for number in range(IMAGES):
        pixels = np.clip(np.roll(waves, number) + random.normal(0, 2, waves.shape), 0, 255).astype(np.uint8)
        (folder / f"{number:03d}.png").write_bytes(encode(pixels, "png"))


def seconds_to_first(model_dir: pathlib.Path, file: pathlib.Path) -> float:
    """Median over STARTS of a whole `predict.py` run for one file."""
    command, seen = [sys.executable, "predict.py", "--model_dir", str(model_dir), str(file)], []
    for _ in range(STARTS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seen.append(time.perf_counter() - start)
    return statistics.median(seen)


def main() -> None:
    """Print the seconds, then the rates."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as drawn:
        if args.files is None:
            draw(pathlib.Path(drawn))
        measure(args.model_dir, args.files or pathlib.Path(drawn))


def measure(model_dir: pathlib.Path, folder: pathlib.Path) -> None:
    """Time predict.py on a folder of images."""
    files = find_files([folder])[:IMAGES]
    print(f"first answer: {seconds_to_first(model_dir, files[0]):.1f} s, process start included (median of {STARTS})")
    predictor = Predictor(model_dir)
    pictures = [predictor.read(files[number % len(files)].read_bytes()) for number in range(IMAGES)]
    batches = [pictures[start : start + predict.BATCH] for start in range(0, IMAGES, predict.BATCH)]

    def whole() -> int:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            return len(predict.predict_files(predictor, files, patient=UNKNOWN_PATIENT))

    def network() -> int:
        return sum(len(predictor.predict(batch, rows=predict.BATCH)) for batch in batches)

    def decoder() -> int:
        return len(list(predict.read_ahead(predictor, files, UNKNOWN_PATIENT, keep_pixels=False)))

    ours = "predict.py, files to table"
    rates = images_per_second({ours: whole, "the model alone": network, "decoding alone": decoder})
    print_ratios(rates, ours=ours)
    both = 1 / (1 / rates["the model alone"] + 1 / rates["decoding alone"])
    print(f"  {'both in turn on the same cores':44}{both:>10,.0f} images/s   ours is {rates[ours] / both:5.2f} x")


if __name__ == "__main__":
    main()
