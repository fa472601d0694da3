"""Input images/s at 224 px: input_fn, a plain tf.data map, and WebDataset with a PyTorch DataLoader.

    python -m bench.input --data_dir ../shared/nih-1024 --torch_python .venv-torch/bin/python

Builds png and raw records of the release in a temporary folder and reads each of them `--repeat` times a pass.
"""

import argparse
import copy
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from bench import images_per_second, print_ratios
from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import Dataset, open_dataset
from input_fn import input_fn

BATCH = 32


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, default="../shared/nih-1024", help="a release")
    parser.add_argument("--torch_python", help="interpreter with torch and webdataset; default: leave WebDataset out")
    parser.add_argument("--repeat", type=int, default=120, help="times the records are read in a pass")
    return parser.parse_args(argv)


def build(release: pathlib.Path, output: pathlib.Path, encoding: str, *, size: int = 224) -> None:
    """Build train records of a whole release."""
    command = [sys.executable, "build_dataset.py", "--data_dir", str(release), "--output_dir", str(output)]
    command += ["--encoding", encoding, "--split", "random", "--ratios", "1", "0", "0", "--allow_missing"]
    command += ["--image_size", str(size)]
    subprocess.run(command, check=True, capture_output=True)


def repeated(data: Dataset, times: int) -> Dataset:
    """The same dataset with its training shards listed several times over."""
    info = copy.deepcopy(data.info)
    info["splits"]["train"]["shards"] *= times
    info["splits"]["train"]["images"] *= times
    return Dataset(data.folder, info)


def consume(batches) -> int:
    """Read a pass; returns how many images it had."""
    return sum(int(labels.shape[0]) for _, labels in batches)


def ours(data: Dataset):
    """input_fn, in training order."""
    return lambda: consume(input_fn("train", {"image": data}, Params(batch_size=BATCH), epoch=0, inputs=["image"]))


def plain(data: Dataset):
    """The usual tf.data way: parse, decode and standardise one image at a time, in float32."""
    import tensorflow as tf

    info, size = data.info, data.info["image_size"]
    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.FixedLenFeature([14], tf.int64)}

    def parse(serialized):
        example = tf.io.parse_single_example(serialized, features)
        if info["encoding"] == "raw":
            image = tf.reshape(tf.io.decode_raw(example["image/encoded"], tf.uint8), [size, size, 1])
        else:
            image = tf.io.decode_png(example["image/encoded"], channels=1)
        return tf.image.per_image_standardization(tf.cast(image, tf.float32)), example["labels"]

    paths = data.paths("train")

    def run() -> int:
        batches = tf.data.TFRecordDataset(paths).shuffle(4096).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        return consume(batches.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE))

    return run


def webdataset(torch_python: str, data: Dataset, times: int, folder: pathlib.Path):
    """WebDataset tars of the same PNG bytes, read by a DataLoader with two workers in another interpreter."""
    serialized = [r for path in data.paths("train") for r in example.read_records(path)]
    for shard in range(2):  # one for each worker
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for index, record in enumerate(serialized * times):
                if index % 2 != shard:
                    continue
                feature = example.example_class().FromString(record).features.feature
                labels = bytes(feature["labels"].int64_list.value)
                for ending, data in (("png", feature["image/encoded"].bytes_list.value[0]), ("cls", labels)):
                    member = tarfile.TarInfo(f"{index:06d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    command = [torch_python, "-m", "bench.torch_peers", "webdataset", str(folder), str(BATCH)]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run() -> int:
        reader.stdin.write("pass\n")
        reader.stdin.flush()
        return json.loads(reader.stdout.readline())["images"]

    return run


def main() -> None:
    """Print images/s of every way, for png and raw records."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for encoding in ("png", "raw"):
            data_dir = folder / encoding
            build(args.data_dir, data_dir, encoding)
            data = repeated(open_dataset(data_dir), args.repeat)
            contestants = {"input_fn": ours(data), "tf.data map, float32 per image": plain(data)}
            if args.torch_python:
                tars = folder / f"tars_{encoding}"
                tars.mkdir()
                contestants["WebDataset (PNG), DataLoader, 2 workers"] = webdataset(
                    args.torch_python, open_dataset(folder / "png"), args.repeat, tars
                )
            info = data.info
            print(f"{encoding} records, {info['image_size']} px, {info['splits']['train']['images']:,} images a pass")
            print_ratios(images_per_second(contestants), ours="input_fn")


if __name__ == "__main__":
    main()
