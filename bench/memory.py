"""Resident memory of build_dataset.py, all processes together, as images and shards grow.

    python -m bench.memory --images 10000

Draws that many noise images of 128 px into a tar with a CSV of its own, and builds it whole and in part.
"""

import argparse
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
import psutil

from cxr.images.encode import encode

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"


def write_release(folder: pathlib.Path, count: int) -> None:
    """A release of `count` images in one tar."""
    generator = np.random.default_rng(230)
    folder.mkdir()
    rows = []
    with tarfile.open(folder / "images.tar", "w") as archive:
        for index in range(count):
            data = encode(generator.integers(0, 256, (128, 128), np.uint8), "png")
            member = tarfile.TarInfo(f"images/{index:08d}_000.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            rows.append(f"{index:08d}_000.png,No Finding,0,{index},50,F,PA\n")
    (folder / "Data_Entry_2017.csv").write_text(HEADER + "".join(rows))


def peak_memory(command: list[str]) -> tuple[float, float]:
    """Run a command; (peak resident MB summed over it and its children, seconds)."""
    start, peak = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it ended between the listing and the look
        peak = max(peak, total)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return peak / 2**20, time.perf_counter() - start


def main() -> None:
    """Print one line for each build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="of the largest build; default: %(default)s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for count, shard_size in ((args.images // 4, 1024), (args.images, 1024), (args.images, 64)):
            release = folder / str(count)
            if not release.exists():
                write_release(release, count)
            output = folder / f"records_{count}_{shard_size}"
            command = [sys.executable, "build_dataset.py", "--data_dir", str(release), "--output_dir", str(output)]
            peak, seconds = peak_memory([*command, "--image_size", "128", "--shard_size", str(shard_size)])
            print(f"{count:>8,} images, shards of {shard_size:>5,}: {peak:6.0f} MB at most   {seconds:5.1f} s")


if __name__ == "__main__":
    main()
