"""Ten epochs of feature_extractor, wall clock: cached features and the 2018 way, which runs the network every epoch.

    python -m bench.epochs --data_dir ../shared/nih-128 --patients 400

The images of some patients of a release, and a ResNet50V2 with random weights. Every way trains and validates alike.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import train
from cxr import storage
from cxr.params import parse_params
from cxr.records.dataset import open_dataset
from input_fn import input_fn
from model_fn import model_fn

SETTINGS = {
    "model": "feature_extractor",
    "extractors": [{"source": "keras", "name": "ResNet50V2", "weights": None}],
    "batch_size": 64,
    "num_epochs": 10,
    "early_stopping_patience": 10,
    "precision": "bfloat16",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, default="../shared/nih-128", help="a release")
    parser.add_argument("--patients", type=int, default=400, help="how many of its patients; default: %(default)s")
    return parser.parse_args(argv)


def cached(folder: pathlib.Path, records: pathlib.Path, seed: int) -> float:
    """Seconds of train.py on cached features, everything included; the first experiment fills the cache."""
    model_dir = folder / f"experiment_{seed}"
    model_dir.mkdir()
    storage.write_json(model_dir / "params.json", {**SETTINGS, "seed": seed})
    start = time.perf_counter()
    train.main(["--model_dir", str(model_dir), "--data_dir", str(records)])
    return time.perf_counter() - start


def recomputed(records: pathlib.Path) -> float:
    """Seconds of the same head over the network itself, run on every image in every epoch, in float32."""
    import keras

    start = time.perf_counter()
    params, images = parse_params({**SETTINGS, "precision": "float32"}, where="bench"), open_dataset(records)
    model = model_fn(params, images.info)
    model.compile("adamw", keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    for epoch in range(params.num_epochs):
        batches = input_fn("train", {"image": images}, params, epoch=epoch, inputs=["image"])
        model.fit(batches, verbose=0, shuffle=False)
        model.predict(input_fn("val", {"image": images}, params, inputs=["image"]), verbose=0)
    return time.perf_counter() - start


def main() -> None:
    """Print the seconds of each way and the ratios."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        records = folder / "records"
        command = [sys.executable, "build_dataset.py", "--data_dir", str(args.data_dir), "--output_dir", str(records)]
        flags = ["--image_size", "224", "--patients", str(args.patients), "--allow_missing"]
        subprocess.run([*command, *flags], check=True, capture_output=True)
        images = open_dataset(records)
        first, second = cached(folder, records, 230), cached(folder, records, 231)
        old = recomputed(records)
    print(f"{images.num_images('train'):,} train and {images.num_images('val'):,} val images, 10 epochs")
    print(f"  the network in every epoch   {old:8.1f} s")
    print(f"  features cached              {first:8.1f} s   {old / first:6.1f} x as fast")
    print(f"  a second experiment on them  {second:8.1f} s   {old / second:6.1f} x as fast")


if __name__ == "__main__":
    main()
