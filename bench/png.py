"""How to write PNG records: size, encoding and decoding time of each way, on 224 px images of a release.

python -m bench.png --data_dir ../shared/nih-1024
"""

import argparse
import io
import pathlib
import statistics
import time
from collections.abc import Callable

import cv2
import kornia_rs.io
import numpy as np
from PIL import Image

from cxr.images.decode import decode_grey
from cxr.images.resize import resize_square

HUFFMAN, UP = cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY, cv2.IMWRITE_PNG_FILTER_UP
SIDE = 224  # pixels
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
}


def kornia(data: bytes) -> np.ndarray:
    """Decode four times as fast as TensorFlow, but in one thread at a time: it keeps Python's interpreter locked."""
    return kornia_rs.io.decode_image_png_u8(data, (SIDE, SIDE), "mono")


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
    pixels = [resize_square(decode_grey(path.read_bytes()), SIDE) for path in paths]
    for name, encode in WAYS.items():
        encoded = [encode(image) for image in pixels]
        tensors = [tf.constant(data) for data in encoded]
        spent = [
            milliseconds(lambda encode=encode: [encode(image) for image in pixels], len(pixels)),
            milliseconds(lambda tensors=tensors: [tf.io.decode_png(data) for data in tensors], len(pixels)),
            milliseconds(lambda encoded=encoded: [kornia(data) for data in encoded], len(pixels)),
        ]
        size = statistics.mean(map(len, encoded)) / 1024
        print(f"{name:40} {size:5.1f} KB   encode {spent[0]:5.2f}   decode {spent[1]:.3f}   kornia {spent[2]:.3f} ms")


if __name__ == "__main__":
    main()
