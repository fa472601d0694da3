"""ResNet50V2 at 224 px, images/s from png records to features: ours, Keras, PyTorch and this machine's limits.

    python -m bench.extract --torch_python .venv-torch/bin/python

Ours is what train.py does, reading and writing included. The limits are OpenVINO's own benchmark_app on the same
networks, which are fed nothing new, and the machine's matrix-multiply peak, measured in the same run, over the
network's multiplications and additions. The weights are random, which cost the same time as any.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from cxr.networks import features, runtime
from cxr.networks.conversion import frozen_graph
from cxr.networks.extraction import FeatureJob, write_features
from cxr.params import Params
from cxr.records import parsing
from cxr.records.dataset import Dataset, open_dataset

SPEC = {"name": "ResNet50V2", "source": "keras", "weights": None}
ROUNDS = 3
SECONDS = 5  # of a round of benchmark_app
IMAGE_SIZE = 224


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch_python", help="interpreter with torch; without it PyTorch is left out")
    parser.add_argument("--batch", type=int, default=64, help="images per batch of the others; default: %(default)s")
    parser.add_argument("--data_dir", type=pathlib.Path, default="../shared/nih-128", help="a release")
    parser.add_argument("--patients", type=int, default=120, help="how many of its patients; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    return parser.parse_args(argv)


def operations(network) -> float:
    """Multiplications and additions of the convolutions for one image."""
    import keras

    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            height, width, channels = layer.output.shape[1:]
            total += 2 * height * width * channels * np.prod(layer.kernel.shape[:3])
    return float(total)


def matrix_peak(dtype) -> Callable[[], float]:
    """A function that measures the floating-point operations per second of a large matrix product."""
    import tensorflow as tf

    size = 4096
    a, b = (tf.cast(tf.random.stateless_normal([size, size], [seed, 0]), dtype) for seed in (1, 2))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, b)))
    product()

    def run() -> float:
        start = time.perf_counter()
        product()
        return 2 * size**3 / (time.perf_counter() - start)

    return run


def rate(work: Callable[[], int]) -> Callable[[], float]:
    """A function that measures the images/s of `work`, which returns how many images it processed."""

    def run() -> float:
        start = time.perf_counter()
        images = work()
        return images / (time.perf_counter() - start)

    return run


def torch_rates(torch_python: str, batch: int) -> dict[str, Callable[[], float]]:
    """PyTorch's ways, all measured in one process of the other interpreter."""
    command = [torch_python, "-m", "bench.torch_peers", "resnet", str(batch)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(way: str) -> float:
        process.stdin.write(way + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        return answer["images"] / answer["seconds"]

    return {f"PyTorch ResNet-50, {way}, bfloat16": lambda way=way: ask(way) for way in ("eager", "frozen")}


def small_dataset(folder: pathlib.Path, data_dir: pathlib.Path, patients: int) -> Dataset:
    """Records of some patients of a release."""
    command = [sys.executable, "build_dataset.py", "--data_dir", str(data_dir), "--output_dir", str(folder)]
    flags = ["--image_size", str(IMAGE_SIZE), "--patients", str(patients), "--allow_missing", "--shard_size", "1000000"]
    subprocess.run([*command, *flags], check=True, capture_output=True)
    return open_dataset(folder)


def ours(images: Dataset, precision: str) -> tuple[Callable[[], int], str]:
    """The extraction of the training images as train.py does it, and the path of its OpenVINO network, if any."""
    params = Params(precision=precision, extractors=(SPEC,))
    settings = features.settings_for(images, SPEC, params, runtime.runtime_of(params))
    extractor = settings.load()
    network = features.network_for(extractor, images, settings)
    settings = dataclasses.replace(settings, network=network)
    target = str(images.folder / f"{precision}.tfrecord")
    where = images.paths("train")[0], target, "train", images.info
    job = FeatureJob(*where, settings, extractor.sha256, extractor.fed)

    def run() -> int:
        return write_features(job).images

    features.prepared.keep(settings, extractor.sha256, network.read() if network else extractor.model)
    prepared = features.prepared.entry

    def alone() -> int:
        features.prepared.entry = prepared  # the contestants take turns
        return run()

    return alone, f"{network.path}.xml" if network else ""


def batches_of(images: Dataset, batch: int):
    """The training images, read as train.py reads them."""
    import tensorflow as tf

    serialized = tf.data.TFRecordDataset(images.paths("train")).batch(batch)
    return serialized.map(lambda records: parsing.parse_batch(records, images.info)[0]["image"]).prefetch(2)


def onednn(images: Dataset, batch: int) -> Callable[[], int]:
    """The way of bfloat16 before OpenVINO: a frozen graph that TensorFlow rewrites for oneDNN."""
    import tensorflow as tf

    frozen = frozen_graph(features.settings_for(images, SPEC, Params(), "keras").load().model)

    def run() -> int:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
        try:
            return len(np.concatenate([np.asarray(frozen(part)[0]) for part in batches_of(images, batch)]))
        finally:
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": False})

    return run


def benchmark_app(path: str, precision: str) -> Callable[[], float]:
    """A function that measures images/s by OpenVINO's own benchmark of a network, at its defaults for throughput."""
    program = str(pathlib.Path(sys.executable).with_name("benchmark_app"))
    command = [program, "-m", path, "-d", "CPU", "-t", str(SECONDS)]
    command += ["-hint", "throughput", "-shape", f"[1,{IMAGE_SIZE},{IMAGE_SIZE},1]", "-infer_precision", precision]

    def run() -> float:
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(re.search(r"Throughput: +([\d.]+)", report).group(1))

    return run


def contestants(images: Dataset, batch: int) -> tuple[dict[str, Callable[[], float]], float]:
    """The ways by name, and the operations of the network for one image."""
    ways = {}
    for precision in ("float32", "bfloat16", "int8"):
        work, path = ours(images, precision)
        ways[f"ours, {precision}"] = rate(work)
        if path:
            ways[f"benchmark_app, {precision}"] = benchmark_app(path, runtime.PRECISIONS[precision])
    ways["TensorFlow with oneDNN, bfloat16"] = rate(onednn(images, batch))
    model = features.settings_for(images, SPEC, Params(), "keras").load().model
    pixels = np.concatenate([part.numpy() for part in batches_of(images, batch)])
    ways["Keras predict, float32"] = rate(lambda: len(model.predict({"image": pixels}, batch_size=batch, verbose=0)))
    network = next(layer for layer in model.layers if hasattr(layer, "layers"))
    return ways, operations(network)


def measure(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median of every way over the rounds; a first round is for warming up."""
    seen = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, run in ways.items():
            value = run()
            if round_:
                seen[name].append(value)
    return {name: statistics.median(values) for name, values in seen.items()}


def main() -> None:
    """Print every rate, and ours in bfloat16 and int8 over it."""
    args = parse_args()
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        images = small_dataset(pathlib.Path(folder) / "records", args.data_dir, args.patients)
        ways, work = contestants(images, args.batch)
        if args.torch_python:
            ways |= torch_rates(args.torch_python, args.batch)
        ways |= {f"matrix peak, {dtype.name}": matrix_peak(dtype) for dtype in (tf.float32, tf.bfloat16)}
        found = measure(ways, args.rounds)
    count = images.num_images("train")
    print(f"ResNet50V2, {IMAGE_SIZE} px, {count} images a round, {work / 1e9:.2f} GFLOP an image")
    print(f"  {'':36}{'images/s':>10}{'ours bfloat16':>16}{'ours int8':>12}")
    for name, value in found.items():
        images_per_second = value / work if name.startswith("matrix") else value
        ratios = [found[f"ours, {precision}"] / images_per_second for precision in ("bfloat16", "int8")]
        print(f"  {name:36}{images_per_second:10.1f}{ratios[0]:14.2f} x{ratios[1]:10.2f} x")


if __name__ == "__main__":
    main()
