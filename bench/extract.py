"""ResNet50V2 at 224 px, images/s of the frozen network: ours, Keras, PyTorch and this machine's limit.

    python -m bench.extract --torch_python .venv-torch/bin/python

The limit is the machine's own matrix-multiply peak in bfloat16, measured in the same run, over the network's
multiplications and additions.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable

import numpy as np

from cxr.networks import runtime
from cxr.networks.extraction import Settings
from cxr.params import Params

SPEC = '{"name": "ResNet50V2", "source": "keras", "weights": null}'
ROUNDS = 3


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch_python", help="interpreter with torch; without it PyTorch is left out")
    parser.add_argument("--batch", type=int, default=64, help="images per batch; default: %(default)s")
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


def contestants(batch: int) -> tuple[dict[str, Callable[[], float]], float]:
    """TensorFlow's ways by name, and the operations of the network for one image."""
    import tensorflow as tf

    pixels = np.random.default_rng(230).integers(0, 256, (2 * batch, 224, 224, 1), np.uint8)
    batches = [tf.constant(pixels[start : start + batch]) for start in range(0, len(pixels), batch)]
    ways = {}
    for precision in ("float32", "bfloat16"):
        name = runtime.runtime_of(precision)
        extractor = Settings(SPEC, Params(precision=precision), 224, name, runtime.device_kind()).load()
        run = runtime.prepare(extractor.model, name, precision)
        ways[f"ours, {precision}"] = rate(lambda run=run: sum(len(np.asarray(run(part))) for part in batches))
    model = Settings(SPEC, Params(), 224, "keras", runtime.device_kind()).load().model
    for name, xla in (("tf.function, float32", False), ("tf.function with XLA, float32", True)):
        call = tf.function(lambda images: model({"image": images}, training=False), jit_compile=xla)
        ways[name] = rate(lambda call=call: sum(len(np.asarray(call(part))) for part in batches))
    ways["Keras predict, float32"] = rate(lambda: len(model.predict({"image": pixels}, batch_size=batch, verbose=0)))
    network = next(layer for layer in model.layers if hasattr(layer, "layers"))
    return ways, operations(network)


def main() -> None:
    """Print every rate, its ratio to ours, and ours over the limit."""
    args = parse_args()
    import tensorflow as tf

    ways, work = contestants(args.batch)
    if args.torch_python:
        ways |= torch_rates(args.torch_python, args.batch)
    ways |= {f"matrix peak, {dtype.name}": matrix_peak(dtype) for dtype in (tf.float32, tf.bfloat16)}
    seen = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, run in ways.items():
            value = run()
            if round_:  # the first is for warming up
                seen[name].append(value)
    medians = {name: statistics.median(values) for name, values in seen.items()}
    ours = medians["ours, bfloat16"]
    print(f"ResNet50V2, 224 px, batches of {args.batch}, {work / 1e9:.2f} GFLOP an image")
    for name, value in medians.items():
        if name.startswith("matrix"):
            limit = f"{value / work:8.1f} images/s   ours is {ours * work / value:5.2f} x"
            print(f"  {name:36} {limit} ({value / 1e9:.0f} GFLOP/s)")
        else:
            print(f"  {name:36} {value:8.1f} images/s   ours is {ours / value:5.2f} x")


if __name__ == "__main__":
    main()
