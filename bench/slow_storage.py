"""What slow storage costs: images/s of input_fn from a `gs://` bucket that waits 50 ms before every request.

    python -m bench.slow_storage

Beside it the same shards read one after the other, as `interleave` and `flat_map` do without parallel calls. The bucket
is a process on this machine, but TensorFlow's own client talks to it. Needs requirements/dev.txt; about a minute.
"""

import argparse
import functools
import os
import pathlib
import tempfile

import numpy as np
from etils import epath

import input_fn
from bench.slow_server import BUCKET, slow_storage
from bench.timing import images_per_second
from cxr.findings import FINDINGS
from cxr.params import Params
from cxr.records import example, parsing
from cxr.records.dataset import Dataset
from cxr.release.entries import ImageRow

SIZE = 128  # pixels a side, raw: 16 KiB an image
IMAGES_EACH = 256  # 4 MiB a shard
PARAMS = Params(batch_size=32, image_size=SIZE)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=24, help="of 4 MiB; default: %(default)s")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds a request; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts; default: %(default)s")
    return parser.parse_args()


def write_dataset(folder: pathlib.Path, shards: int) -> Dataset:
    """Raw noise images, all of them train; the dataset is the one in the bucket."""
    generator, listed = np.random.default_rng(230), []
    for shard in range(shards):
        name = f"train-{shard:05d}-of-{shards:05d}.tfrecord"
        with (folder / name).open("wb") as file:
            for image in range(IMAGES_EACH):
                row = ImageRow(f"{shard:08d}_{image:03d}.png", shard, (0,) * len(FINDINGS), 50.0, 0, 0)
                pixels = generator.bytes(SIZE * SIZE)
                example.write_record(file, example.pack_image(row, pixels, encoding="raw", mean=0, stddev=0))
        listed.append({"file": name, "images": IMAGES_EACH, "bytes": (folder / name).stat().st_size})
    train = {"images": shards * IMAGES_EACH, "shards": listed}
    return Dataset(
        epath.Path(BUCKET), {"kind": "images", "encoding": "raw", "image_size": SIZE, "splits": {"train": train}}
    )


def one_after_the_other(dataset: Dataset, epoch: int | None):
    """The same batches from shards that wait for each other."""
    import tensorflow as tf

    def read(path):
        return tf.data.TFRecordDataset(path, buffer_size=input_fn.READ_AHEAD)

    paths = tf.data.Dataset.from_tensor_slices(dataset.paths("train"))
    turns = paths.flat_map(read) if epoch is None else paths.interleave(read, input_fn.OPEN_SHARDS, block_length=16)
    batches = turns.batch(PARAMS.batch_size).map(lambda batch: parsing.parse_batch(batch, dataset.info))
    return parsing.without_autotuner(batches.prefetch(input_fn.PREFETCHED))


def contestant(make, wait, delay: float):
    """A function that reads every batch of make() where the storage has that delay."""

    def run() -> int:
        wait.value = delay
        return sum(len(labels) for _, labels in make().as_numpy_iterator())

    return run


def main() -> None:
    """Print images/s with and without the delay, and their ratio, of training and of evaluation."""
    args = parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as name, slow_storage(pathlib.Path(name)) as (environment, wait):
        # A request for each MiB. As it comes TensorFlow asks for 64 at once; NFS and Lustre for one or less.
        os.environ.update(environment, GCS_READ_CACHE_BLOCK_SIZE_MB="1")
        dataset, contestants = write_dataset(pathlib.Path(name), args.shards), {}
        for reading, epoch in (("training", 0), ("evaluation", None)):
            for way, make in (("one after the other", one_after_the_other), ("input_fn", ours)):
                for delay in (0.0, args.delay):
                    batches = functools.partial(make, dataset, epoch)
                    contestants[reading, way, delay] = contestant(batches, wait, delay)
        rates = images_per_second(contestants, rounds=args.rounds)
    print(f"{args.shards} shards of {IMAGES_EACH} images; images/s without a delay, with {args.delay:g} s a request")
    for reading, way, _ in list(contestants)[::2]:
        fast, slow = rates[reading, way, 0.0], rates[reading, way, args.delay]
        print(f"  {reading:12}{way:22}{fast:8,.0f}{slow:8,.0f}   {slow / fast:.2f} of it")


def ours(dataset: Dataset, epoch: int | None):
    """The batches of input_fn."""
    return input_fn.input_fn("train", {"image": dataset}, PARAMS, epoch=epoch)


if __name__ == "__main__":
    main()
