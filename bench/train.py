"""Training images/s in both precisions, of ours and PyTorch: simple_cnn, and MobileNet 0.25 that is fine-tuned.

simple_cnn is trained from records and from memory, and there is a bare TensorFlow loop of it.

    python -m bench.train --data_dir ../shared/nih-1024 --torch_python .venv-torch/bin/python
    python -m bench.train --torch_python .venv-torch/bin/python --processor_time      while others use the machine

Builds png and raw records of the release in a temporary folder. The difference from tensors in memory is the cost of
reading; that from images without augmentation is the cost of augmentation.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import psutil

from bench import images_per_second, print_ratios, tf_cnn
from bench.input import build, repeated
from cxr.networks import assembly
from cxr.params import Params, parse_params
from cxr.records import parsing
from cxr.records.dataset import Dataset, open_dataset
from input_fn import input_fn
from model_fn import model_fn
from training.epochs import callbacks
from training.run import Run

if TYPE_CHECKING:
    import tensorflow as tf

TORCH = "PyTorch, eager, channels last"
MEMORY = "tensors in memory"
PRECISIONS = ("float32", "bfloat16")
TUNED_SIZE = 224  # the input of MobileNet
TUNED = {
    "model": "feature_extractor",
    "extractors": [{"source": "keras", "name": "MobileNet", "alpha": 0.25, "weights": None}],
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_dir", type=pathlib.Path, default="../shared/nih-1024", help="a release")
    add("--torch_python", help="interpreter with torch; default: leave PyTorch out")
    add("--sizes", type=int, nargs="*", default=[128, 224], help="of simple_cnn, pixels; default: %(default)s")
    add("--batch", type=int, default=Params().batch_size, help="images per step; default: %(default)s")
    add("--repeat", type=int, default=12, help="times the records are read in a pass; default: %(default)s")
    add("--rounds", type=int, default=5, help="passes of each contestant; default: %(default)s")
    add("--processor_time", action="store_true", help="one thread each, images per second of processor time")
    return parser.parse_args(argv)


@contextlib.contextmanager
def torch_peer(
    torch_python: str, batch: int, *threads: str
) -> Iterator[tuple[Callable[[str, int, str, int], int], psutil.Process]]:
    """A function of network, size, precision and steps that trains in PyTorch and returns its number of images; its
    process."""
    command = [torch_python, "-m", "bench.torch_training", str(batch), *threads]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def train(network: str, size: int, precision: str, steps: int) -> int:
            process.stdin.write(f"{network} {size} {precision} {steps}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield train, psutil.Process(process.pid)
        process.stdin.close()


def in_memory(batches: "tf.data.Dataset", params: Params) -> "tf.data.Dataset":
    """The images of some batches, as batches of tensors in memory."""
    import tensorflow as tf

    columns = next(iter(batches.unbatch().batch(10_000)))
    tensors = tf.data.Dataset.from_tensor_slices(columns).batch(params.batch_size, drop_remainder=True)
    return parsing.without_autotuner(tensors)


def fit_batches(run: Run, batches: "tf.data.Dataset") -> int:
    """Train on batches as train.py does; returns the number of images."""
    run.model.fit(batches, verbose=0, shuffle=False, callbacks=callbacks(run, 0, []))
    return len(batches) * run.params.batch_size


def fine_tuning(precision: str, batch: int, images: Dataset, folder: pathlib.Path) -> Callable[[], int]:
    """Fine-tuning of MobileNet 0.25 as train.py does it, from tensors in memory."""
    tuned = TUNED | {"fine_tune": {"batch_norm": "trained", "batch_size": batch}}
    params = parse_params(tuned | {"precision": precision}, where="bench")
    model = model_fn(params, images.info, extractors=assembly.load_extractors(params, images.info))
    run = Run(params.last_phase(), model, {"image": images}, folder)
    batches = in_memory(input_fn("train", run.datasets, run.params, epoch=0, inputs=["image"]), run.params)
    return functools.partial(fit_batches, run, batches)


def our_contestants(params: Params, datasets: dict[str, Dataset], folder: pathlib.Path) -> dict[str, Callable]:
    """Training as train.py does it, from tensors in memory and from records, and a bare TensorFlow loop."""
    augmented = dataclasses.replace(params, augmentation="strong", mixup=0.2)

    def from_records(encoding: str, params: Params):
        return input_fn("train", {"image": datasets[encoding]}, params, epoch=0, inputs=["image"])

    tensors = in_memory(from_records("raw", params), params)
    run = Run(params, model_fn(params, datasets["raw"].info), {"image": datasets["raw"]}, folder)
    fit = functools.partial(fit_batches, run)
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


def processor_clock(*others: psutil.Process) -> Callable[[], float]:
    """A clock of the processor time of this process and others."""

    def seconds() -> float:
        used = [other.cpu_times() for other in others]
        return time.process_time() + sum(times.user + times.system for times in used)

    return seconds


def main() -> None:
    """Print images/s of every way to train, for each precision: simple_cnn of each size, and MobileNet 0.25."""
    args = parse_args()
    threads = ["1"] if args.processor_time else []
    if threads:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        peers = [stack.enter_context(torch_peer(args.torch_python, args.batch, *threads))] if args.torch_python else []
        clock = processor_clock(*(process for _, process in peers)) if threads else time.perf_counter
        datasets = {}
        for size in sorted({*args.sizes, TUNED_SIZE}):
            for encoding in ("png", "raw"):
                data_dir = folder / f"{encoding}_{size}"
                build(args.data_dir, data_dir, encoding, size=size)
                datasets.setdefault(size, {})[encoding] = repeated(open_dataset(data_dir), args.repeat)
        steps = datasets[TUNED_SIZE]["raw"].num_images("train") // args.batch

        def measure(network: str, size: int, precision: str, ours: dict[str, Callable]) -> dict[str, float]:
            theirs = [(TORCH, functools.partial(peer, network, size, precision, steps)) for peer, _ in peers]
            print(f"{network}, {size} px, {precision}, batches of {args.batch}")
            rates = images_per_second(ours | dict(theirs), rounds=args.rounds, clock=clock)
            print_ratios(rates, ours=MEMORY)
            return rates

        for size, precision in itertools.product(args.sizes, PRECISIONS):
            params = Params(image_size=size, precision=precision, batch_size=args.batch)
            show_reading(measure("simple_cnn", size, precision, our_contestants(params, datasets[size], folder)))
        for precision in PRECISIONS:
            ours = fine_tuning(precision, args.batch, datasets[TUNED_SIZE]["raw"], folder)
            measure("mobilenet_025", TUNED_SIZE, precision, {MEMORY: ours})


def show_reading(rates: dict[str, float]) -> None:
    """Print what reading records and augmentation cost."""
    print(f"  png records over tensors in memory: {rates['png records'] / rates[MEMORY]:.3f}")
    ratio = rates["augmented raw records"] / rates["raw records"]
    print(f"  augmented over not augmented raw records: {ratio:.3f}   limit 0.9", flush=True)


if __name__ == "__main__":
    main()
