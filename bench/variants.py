"""What batch size, threads and channel order do to a frozen ResNet50V2 in bfloat16: processor time per image.

    python -m bench.variants

Processor time, the least of several rounds, hardly depends on what else the machine does. Each number of threads needs
a process of its own: TensorFlow takes it once.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

SIZE = 224
ROUNDS = 4
IMAGES = 128  # a round
BATCHES = (16, 32, 64, 128)
THREADS = (1, 2)


def frozen(data_format: str) -> Callable:
    """ResNet50V2 with random weights as a frozen graph, float32 [B, ...] -> [B, 2048], computed in bfloat16."""
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    keras.config.set_image_data_format(data_format)
    shape = (SIZE, SIZE, 3) if data_format == "channels_last" else (3, SIZE, SIZE)
    model = keras.applications.ResNet50V2(include_top=False, weights=None, pooling="avg", input_shape=shape)
    traced = tf.function(lambda image: model(image, training=False))
    graph = convert_variables_to_constants_v2(traced.get_concrete_function(tf.TensorSpec([None, *shape])))
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    return lambda batch: graph(tf.zeros([batch, *shape]))[0].numpy()


def milliseconds(run: Callable, batch: int) -> float:
    """Processor time of all threads per image."""
    run(batch)
    seen = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(IMAGES // batch):
            run(batch)
        seen.append((time.process_time() - start) / IMAGES * 1e3)
    return min(seen)


def report(threads: int, order: str, batch: int, spent: float) -> None:
    """Print one line."""
    print(f"  {threads} threads   {order:14}   batch {batch:4}   {spent:6.1f} ms", flush=True)


def measure(threads: int) -> None:
    """Print the lines of one process."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    run = frozen("channels_last")
    for batch in BATCHES:
        print(
            f"  {threads} threads   channels last    batch {batch:4}   {milliseconds(run, batch):6.1f} ms", flush=True
        )
    run = frozen("channels_first")
    report(threads, "channels first", 32, milliseconds(run, 32))


def main() -> None:
    """Print a line for every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="measure this number alone, in this process")
    args = parser.parse_args()
    if args.threads:
        measure(args.threads)
        return
    for threads in THREADS:
        subprocess.run([sys.executable, "-m", "bench.variants", "--threads", str(threads)], check=True)


if __name__ == "__main__":
    main()
