"""How to write PNG records: size, encoding and TensorFlow's decoding time of each way, on 224 px images of a release.

python -m bench.png --data_dir ../shared/nih-1024
"""

import argparse
import io
import pathlib
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from cxr.data import images

HUFFMAN, UP = cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY, cv2.IMWRITE_PNG_FILTER_UP
ROUNDS = 9


def pillow(**options) -> Callable[[np.ndarray], bytes]:
    """Encode with Pillow."""

    def encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png", **options)
        return buffer.getvalue()

    return encode


def opencv(*options: int) -> Callable[[np.ndarray], bytes]:
    """Encode with OpenCV."""
    return lambda pixels: cv2.imencode(".png", pixels, options)[1].tobytes()


WAYS = {
    "Pillow, default": pillow(),
    "Pillow, level 1": pillow(compress_level=1),
    "Pillow, Huffman only": pillow(compress_level=1, compress_type=2),
    "OpenCV, default": opencv(),
    "OpenCV, Huffman only": opencv(cv2.IMWRITE_PNG_STRATEGY, HUFFMAN),
    "OpenCV, filter up, Huffman only (ours)": opencv(cv2.IMWRITE_PNG_FILTER, UP, cv2.IMWRITE_PNG_STRATEGY, HUFFMAN),
    "raw": lambda pixels: pixels.tobytes(),
}


def milliseconds(work: Callable[[], object], count: int) -> float:
    """Median time of `work` over `count` images, for each of them."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / count * 1e3


def main() -> None:
    """Print a line for each way."""
    import tensorflow as tf

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, default="../shared/nih-1024", help="a release")
    args = parser.parse_args()
    paths = sorted(args.data_dir.glob("images/*.png"))[:40]
    pixels = [images.resize_square(images.decode_grey(path.read_bytes()), 224) for path in paths]
    for name, encode in WAYS.items():
        encoded = [encode(image) for image in pixels]
        decode = tf.io.decode_png if name != "raw" else (lambda data: tf.io.decode_raw(data, tf.uint8))
        encoding = milliseconds(lambda encode=encode: [encode(image) for image in pixels], len(pixels))
        tensors = [tf.constant(data) for data in encoded]
        decoding = milliseconds(lambda decode=decode, tensors=tensors: [decode(t) for t in tensors], len(pixels))
        size = statistics.mean(map(len, encoded)) / 1024
        print(f"{name:40} {size:5.1f} KB   encode {encoding:6.2f} ms   decode {decoding:6.3f} ms")


if __name__ == "__main__":
    main()
