"""Training vectors/s of the two fully connected layers on cached features: from records, from memory, and the limit.

    python -m bench.head --vectors 40000

The limit is this machine's float32 matrix peak over the multiplications and additions of a step, as if the optimizer
cost nothing. Writes random features, 2,048 wide, in shards as a cache has them; prints memory at half and at full size.
"""

import argparse
import itertools
import pathlib
import tempfile

import numpy as np
import psutil
from etils import epath

from bench import images_per_second, print_ratios
from cxr import storage
from cxr.findings import FINDINGS
from cxr.params import Params
from cxr.records import example, parsing
from cxr.records.dataset import Dataset
from cxr.release.entries import ImageRow
from input_fn import input_fn
from model_fn import model_fn
from training import optimizers

WIDTH = 2048
SHARD = 1024
PEAK_SIDE = 2048  # of the square matrices whose product gives the peak


def write_features(folder: pathlib.Path, count: int) -> Dataset:
    """A feature dataset of `count` random vectors, all of them train."""
    generator = np.random.default_rng(230)
    shards = []
    for start in range(0, count, SHARD):
        path = folder / f"train-{start:06d}.tfrecord"
        with storage.whole_file(path) as file:
            for number in range(start, min(start + SHARD, count)):
                labels = tuple(int(label) for label in generator.random(len(FINDINGS)) < 0.1)
                row = ImageRow(f"{number:08d}_000.png", number, labels, 50.0, 0, 0)
                example.write_record(file, example.pack_features(row, generator.random(WIDTH).astype(np.float16)))
        shards.append({"file": path.name, "bytes": path.stat().st_size})
    positives = dict.fromkeys(FINDINGS, count // 10)
    train = {"images": count, "shards": shards, "positives": positives}
    info = {
        "kind": "features",
        "dimension": WIDTH,
        "image_size": 224,
        "findings": list(FINDINGS),
        "splits": {"train": train},
    }
    return Dataset(epath.Path(folder), info)


def operations(params: Params) -> int:
    """Floating point operations of a training step on one vector: each layer forward, by its weights, by its input."""
    widths = [WIDTH, *params.hidden_units, len(FINDINGS)]
    layers = [2 * wide * narrow for wide, narrow in itertools.pairwise(widths)]
    return 3 * sum(layers) - layers[0]  # the gradient of the features is not computed


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=40_000, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=1024, help="vectors per step; default: %(default)s")
    return parser.parse_args(argv)


def main() -> None:
    """Print the rates, and the memory at half and at full size."""
    args = parse_args()

    import keras
    import tensorflow as tf

    params = Params(model="feature_extractor", batch_size=args.batch)
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as name:
        sizes = {}
        for count in (args.vectors // 2, args.vectors):
            folder = pathlib.Path(name) / str(count)
            folder.mkdir()
            sizes[count] = write_features(folder, count)
        model = model_fn(params, sizes[args.vectors].info, {"network": WIDTH})
        optimizer = optimizers.make_optimizer(params, params.learning_rate)
        model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)

        def from_records(data: Dataset) -> int:
            batches = input_fn("train", {"network": data}, params, epoch=0, inputs=["network"])
            model.fit(batches, verbose=0, shuffle=False)
            return len(batches) * params.batch_size

        for count, data in sizes.items():
            from_records(data)
            print(f"{count:>9,} vectors: {process.memory_info().rss / 2**20:6.0f} MB resident")
        count, data = args.vectors, sizes[args.vectors]
        whole = next(iter(input_fn("train", {"network": data}, Params(batch_size=count), inputs=["network"])))
        tensors = tf.data.Dataset.from_tensor_slices(whole).batch(params.batch_size, drop_remainder=True)
        tensors = parsing.without_autotuner(tensors)

        def from_memory() -> int:
            model.fit(tensors, verbose=0, shuffle=False)
            return len(tensors) * params.batch_size

        square = tf.random.normal((PEAK_SIDE, PEAK_SIDE))

        def matrix_products() -> int:
            for _ in range(20):
                tf.linalg.matmul(square, square).numpy()
            return round(20 * 2 * PEAK_SIDE**3 / operations(params))

        contestants = {"records": lambda: from_records(data), "tensors in memory": from_memory}
        rates = images_per_second({**contestants, "the limit: matrix products alone": matrix_products})
    print_ratios(rates, ours="records")


if __name__ == "__main__":
    main()
