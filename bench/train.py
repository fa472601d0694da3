"""simple_cnn training images/s in both precisions: ours, a bare TensorFlow loop and PyTorch; from records and memory.

    python -m bench.train --data_dir ../shared/nih-1024 --torch_python .venv-torch/bin/python

Builds png and raw records of the release in a temporary folder. The difference from tensors in memory is the cost of
reading; that from images without augmentation is the cost of augmentation.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from bench import images_per_second, print_ratios, tf_cnn
from bench.input import build, repeated
from cxr.params import Params
from cxr.records import parsing
from cxr.records.dataset import Dataset, open_dataset
from input_fn import input_fn
from model_fn import model_fn
from training.epochs import callbacks
from training.run import Run

TORCH = "PyTorch, eager, channels last"
MEMORY = "tensors in memory"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_dir", type=pathlib.Path, default="../shared/nih-1024", help="a release")
    add("--torch_python", help="interpreter with torch; default: leave PyTorch out")
    add("--sizes", type=int, nargs="+", default=[128, 224], help="pixels per side; default: %(default)s")
    add("--repeat", type=int, default=12, help="times the records are read in a pass; default: %(default)s")
    add("--rounds", type=int, default=5, help="passes of each contestant; default: %(default)s")
    return parser.parse_args(argv)


@contextlib.contextmanager
def torch_peer(torch_python: str, batch: int) -> Iterator[Callable[[int, str, int], int]]:
    """A function of size, precision and steps that trains in PyTorch and returns how many images it trained on."""
    command = [torch_python, "-m", "bench.torch_cnn", str(batch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def train(size: int, precision: str, steps: int) -> int:
            process.stdin.write(f"{size} {precision} {steps}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield train
        process.stdin.close()


def our_contestants(params: Params, datasets: dict[str, Dataset], folder: pathlib.Path) -> dict[str, Callable]:
    """Training as train.py does it, from tensors in memory and from records, and a bare TensorFlow loop."""
    import tensorflow as tf

    augmented = dataclasses.replace(params, augmentation="strong", mixup=0.2)

    def from_records(encoding: str, params: Params):
        return input_fn("train", {"image": datasets[encoding]}, params, epoch=0, inputs=["image"])

    inputs, labels = next(iter(from_records("raw", params).unbatch().batch(10_000)))
    tensors = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(params.batch_size, drop_remainder=True)
    tensors = parsing.without_autotuner(tensors)
    run = Run(params, model_fn(params, datasets["raw"].info), {"image": datasets["raw"]}, folder)

    def fit(batches) -> int:
        run.model.fit(batches, verbose=0, shuffle=False, callbacks=callbacks(run, 0, []))
        return len(batches) * params.batch_size

    bare = tf_cnn.trainer([(one["image"], label) for one, label in tensors], params)

    def bare_pass() -> int:
        bare(run.steps)
        return run.steps * params.batch_size

    return {
        MEMORY: lambda: fit(tensors),
        "png records": lambda: fit(from_records("png", params)),
        "raw records": lambda: fit(from_records("raw", params)),
        "augmented raw records": lambda: fit(from_records("raw", augmented)),
        "bare TensorFlow loop": bare_pass,
    }


def main() -> None:
    """Print images/s of every way to train, for each size and precision."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        peer = stack.enter_context(torch_peer(args.torch_python, Params().batch_size)) if args.torch_python else None
        for size in args.sizes:
            datasets = {}
            for encoding in ("png", "raw"):
                data_dir = folder / f"{encoding}_{size}"
                build(args.data_dir, data_dir, encoding, size=size)
                datasets[encoding] = repeated(open_dataset(data_dir), args.repeat)
            for precision in ("float32", "bfloat16"):
                params = Params(image_size=size, precision=precision)
                contestants = our_contestants(params, datasets, folder)
                if peer:
                    steps = datasets["raw"].num_images("train") // params.batch_size
                    contestants[TORCH] = lambda size=size, dtype=precision, steps=steps: peer(size, dtype, steps)
                rates = images_per_second(contestants, rounds=args.rounds)
                print(f"{size} px, {precision}, batches of {params.batch_size}")
                print_ratios(rates, ours=MEMORY)
                ratio = rates["augmented raw records"] / rates["raw records"]
                print(f"  augmented over not augmented raw records: {ratio:.3f}   limit 0.9", flush=True)


if __name__ == "__main__":
    main()
