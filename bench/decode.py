"""How to read and shrink the originals: milliseconds an image of each decoder and each resizer, and how pixels differ.

    python -m bench.decode --data_dir ../shared/nih-1024

Differences are in grey levels (of 255): decoders against Pillow, resizers against Pillow's bilinear, which averages
over triangles as wide as the shrinking asks for. imagecodecs is tried where it is installed.
"""

import argparse
import importlib.util
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

SIZE = 224
ROUNDS = 7
BILINEAR = Image.Resampling.BILINEAR


def decoders() -> dict[str, Callable[[bytes], np.ndarray]]:
    """Ways from PNG bytes to grey pixels."""
    ways = {
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE),
        "kornia_rs": lambda data: kornia_rs.io.decode_image_png_u8(data, _shape(data), "mono")[:, :, 0],
        "ours": decode_grey,
    }
    if importlib.util.find_spec("imagecodecs"):
        import imagecodecs

        ways["imagecodecs"] = imagecodecs.png_decode
    return ways


def _shape(data: bytes) -> tuple[int, int]:
    """(height, width) of a PNG."""
    return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])


def pillow(resampling: Image.Resampling, reducing_gap: float | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Shrink with Pillow."""
    return lambda grey: np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), resampling, reducing_gap=reducing_gap))


def opencv(interpolation: int) -> Callable[[np.ndarray], np.ndarray]:
    """Shrink with OpenCV."""
    return lambda grey: cv2.resize(grey, (SIZE, SIZE), interpolation=interpolation)


RESIZERS = {
    "Pillow bilinear": pillow(BILINEAR),
    "Pillow bilinear after blocks, gap 2": pillow(BILINEAR, 2.0),
    "Pillow box": pillow(Image.Resampling.BOX),
    "Pillow Lanczos": pillow(Image.Resampling.LANCZOS),
    "OpenCV area": opencv(cv2.INTER_AREA),
    "OpenCV linear (not antialiased)": opencv(cv2.INTER_LINEAR),
    "ours": lambda grey: resize_square(grey, SIZE),
}


def compare(ways: dict[str, Callable], inputs: list, expected: list[np.ndarray]) -> None:
    """Print time and difference of every way, all of them in turn in every round."""
    times = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            for value in inputs:
                way(value)
            times[name].append((time.perf_counter() - start) / len(inputs) * 1e3)
    for name, way in ways.items():
        apart = [np.abs(way(value).astype(int) - right) for value, right in zip(inputs, expected, strict=True)]
        largest, mean = max(d.max() for d in apart), np.mean([d.mean() for d in apart])
        print(f"  {name:38} {statistics.median(times[name]):6.2f} ms   differs {mean:5.3f}, at most {largest}")


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, default="../shared/nih-1024", help="a release")
    args = parser.parse_args()
    files = [path.read_bytes() for path in sorted(args.data_dir.glob("images/*.png"))]
    files = [data for data in files if data[24:26] == b"\x08\0"][:40]  # 8-bit grey: nearly all of the release
    greys = [np.asarray(Image.open(io.BytesIO(data))) for data in files]
    print(f"decoders, {len(files)} PNGs of {statistics.mean(map(len, files)) / 1024:.0f} KB")
    compare(decoders(), files, [grey.astype(int) for grey in greys])
    print(f"resizers to {SIZE} px")
    compare(RESIZERS, greys, [pillow(BILINEAR)(grey).astype(int) for grey in greys])


if __name__ == "__main__":
    main()
