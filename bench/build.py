"""build_dataset.py compared with peers and its limit; the encodings compared; the whole release at 224 px.

    python -m bench.build --data_dir ../shared/nih-1024 --whole ../shared/nih-128

First: originals to 224 px records, images/s; ours counts everything from the start of the command, the others only
their loops. Then png, jpeg and raw records. Then as many 224 px images as the CSV of `--whole` has rows, from one tar:
minutes, memory, and the seconds that the tables take. Needs 10 GB in the temporary folder and about 15 minutes.
"""

import argparse
import contextlib
import io
import itertools
import multiprocessing
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np
import psutil
from etils import epath
from PIL import Image

from bench import images_per_second, print_ratios
from bench.input import ours, repeated
from cxr.engines.engine import default_workers
from cxr.findings import FINDINGS
from cxr.images.decode import decode_grey
from cxr.images.encode import ENCODINGS
from cxr.images.resize import resize_square
from cxr.records import splits
from cxr.records.dataset import open_dataset
from cxr.release import release
from cxr.release.locations import Location, read_bytes

SIZE = 224
SHARDS = ["--shard_size", "128"]  # many shards, as a whole release has, so that no core waits at the end
SERIAL = 8  # the serial loops take every eighth image: their rate does not depend on how many


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, default="../shared/nih-1024", help="a release of originals")
    parser.add_argument("--whole", type=pathlib.Path, default="../shared/nih-128", help="a release with all tables")
    parser.add_argument("--images", type=int, default=4_200, help="originals in a build; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the first comparison; default: %(default)s")
    return parser.parse_args(argv)


def write_release(folder: pathlib.Path, tables: pathlib.Path, files: list[bytes], count: int | None) -> list[Location]:
    """A release of the first `count` ids of a CSV (None: all), its images `files` over and over, in one tar."""
    source = pathlib.Path(release.find_entry_csv(epath.Path(tables)))
    lines = source.read_text().splitlines(keepends=True)[: count and count + 1]
    needed = (len(lines) - 1) * (sum(map(len, files)) // len(files) + 1024)
    if shutil.disk_usage(folder.parent).free < 2.5 * needed:
        raise SystemExit(f"{folder.parent} has no room for {2.5 * needed / 1e9:.1f} GB; set TMPDIR")
    folder.mkdir()
    (folder / source.name).write_text("".join(lines))
    path, locations = folder / "images.tar", []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for line, data in zip(lines[1:], itertools.cycle(files), strict=False):
            member = tarfile.TarInfo(f"images/{line.split(',')[0]}")
            member.size = len(data)
            locations.append(Location(str(path), archive.offset + tarfile.BLOCKSIZE, len(data)))
            archive.addfile(member, io.BytesIO(data))
    return locations


def build_command(folder: pathlib.Path, output: pathlib.Path, *flags: str) -> list[str]:
    """The command that builds a release into an empty folder."""
    shutil.rmtree(output, ignore_errors=True)
    return [sys.executable, "build_dataset.py", "--data_dir", str(folder), "--output_dir", str(output), *flags]


def peak_memory(command: list[str]) -> tuple[float, float]:
    """Run a command; (peak resident MB summed over it and its children, seconds)."""
    start, peak = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended after it was listed
                total += member.memory_info().rss
        peak = max(peak, total)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return peak / 2**20, time.perf_counter() - start


def pillow_loop(locations: list[Location], output: pathlib.Path) -> int:
    """One process, Pillow throughout, PNGs one after another into one file."""
    with output.open("wb") as file:
        for location in locations:
            image = Image.open(io.BytesIO(read_bytes(location))).convert("L")
            image.resize((SIZE, SIZE), Image.Resampling.BILINEAR).save(file, "png")
    return len(locations)


def webdataset_loop(locations: list[Location], folder: pathlib.Path) -> int:
    """One process, OpenCV, into WebDataset tars of 1,000, as published subsets of this release were made."""
    import webdataset

    folder.mkdir(exist_ok=True)
    labels = np.zeros(len(FINDINGS), np.float32)
    with webdataset.ShardWriter(str(folder / "train_%03d.tar"), maxcount=1000, verbose=0) as writer:
        for number, location in enumerate(locations):
            grey = cv2.imdecode(np.frombuffer(read_bytes(location), np.uint8), cv2.IMREAD_GRAYSCALE)
            small = cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            encoded = cv2.imencode(".png", small)[1].tobytes()
            writer.write({"__key__": f"{number:08d}", "png": encoded, "pyd": labels})
    return len(locations)


def shrink(location: Location) -> int:
    """Read, decode and resize one image, and nothing else."""
    return len(resize_square(decode_grey(read_bytes(location)), SIZE))


def compare_builds(args: argparse.Namespace, folder: pathlib.Path) -> None:
    """Images/s of ours, of the serial ways, and of a pool that only decodes and resizes."""
    files = [path.read_bytes() for path in sorted(args.data_dir.glob("images/*.png"))]
    locations = write_release(folder / "originals", args.data_dir, files, args.images)
    flags = ["--split", "random", "--image_size", str(SIZE), *SHARDS]

    def build() -> int:
        peak_memory(build_command(folder / "originals", folder / "records", *flags))
        return args.images

    cores = default_workers()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        few = locations[::SERIAL]
        contestants: dict[str, Callable[[], int]] = {
            "ours": build,
            "(a) serial Pillow loop": lambda: pillow_loop(few, folder / "pillow"),
            "(b) serial OpenCV and ShardWriter": lambda: webdataset_loop(few, folder / "webdataset"),
            f"(c) limit: {cores} processes decode, resize": lambda: len(pool.map(shrink, locations, chunksize=64)),
        }
        rates = images_per_second(contestants, rounds=args.rounds)
    print(f"{len(locations):,} originals of {sum(map(len, files)) / len(files) / 1024:.0f} KB to {SIZE} px records")
    print_ratios(rates, ours="ours")


def build_whole(args: argparse.Namespace, folder: pathlib.Path) -> None:
    """Minutes and memory of a build with as many images as the release has; seconds of its tables."""
    originals = [decode_grey(path.read_bytes()) for path in sorted(args.data_dir.glob("images/*.png"))]
    files = []
    for grey in originals:
        small = resize_square(grey, SIZE)
        for turned in (small, small[::-1], small[:, ::-1], small[::-1, ::-1]):
            buffer = io.BytesIO()
            Image.fromarray(turned).save(buffer, "png")
            files.append(buffer.getvalue())
    count = len(write_release(folder / "whole", args.whole, files, None))
    for path in args.whole.glob("*_list*.txt"):
        shutil.copy(path, folder / "whole")
    start = time.perf_counter()
    tables = release.read_release(epath.Path(folder / "whole"), "auto")
    splits.split_rows(tables.rows, tables.assigned, ratios=(0.7, 0.1, 0.2), seed=230)
    seconds = time.perf_counter() - start
    peak, took = peak_memory(build_command(folder / "whole", folder / "records"))
    print(f"{count:,} images of {sum(map(len, files)) / len(files) / 1024:.0f} KB at {SIZE} px in one tar")
    print(f"  {took / 60:.1f} minutes ({count / took:,.0f} images/s), {peak:,.0f} MB resident in all processes")
    print(f"  CSV and lists read, parsed and split ({tables.split}): {seconds:.2f} s")


def compare_encodings(args: argparse.Namespace, folder: pathlib.Path) -> None:
    """Size, build speed and read speed of each encoding."""
    print(f"encodings, {args.images:,} originals to {SIZE} px")
    contestants, lines = {}, {}
    for encoding in ENCODINGS:
        output = folder / f"records_{encoding}"
        flags = ["--split", "random", "--ratios", "1", "0", "0", "--encoding", encoding, *SHARDS]
        _, took = peak_memory(build_command(folder / "originals", output, *flags))
        data = open_dataset(output)
        size = sum(shard["bytes"] for shard in data.info["splits"]["train"]["shards"]) / args.images / 1024
        lines[encoding] = f"  {encoding:6} {size:6.1f} KB a record   build {args.images / took:7,.0f} images/s"
        contestants[encoding] = ours(repeated(data, 4))
    rates = images_per_second(contestants, rounds=args.rounds)
    for encoding, line in lines.items():
        print(f"{line}   read {rates[encoding]:7,.0f} images/s")


def main() -> None:
    """Print the three parts."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        compare_builds(args, folder)
        compare_encodings(args, folder)
        shutil.rmtree(folder / "originals")
        build_whole(args, folder)


if __name__ == "__main__":
    main()
