"""Two trials of a search, wall clock: one after the other over both at once.

    python -m bench.search --data_dir data/nih128

Every search is search_hyperparams.py as a user runs it; a round is four processes of train.py with a small simple_cnn.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from cxr import storage

PARAMS = {"image_size": 64, "num_channels": 8, "num_blocks": 4, "num_epochs": 2}
SPACE = {"seed": [230, 231]}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, default="data/nih128", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    return parser.parse_args(argv)


def seconds(data_dir: pathlib.Path, jobs: int) -> float:
    """Seconds of a search of two trials, `jobs` at once, everything included."""
    with tempfile.TemporaryDirectory() as name:
        storage.write_json(pathlib.Path(name) / "params.json", PARAMS)
        storage.write_json(pathlib.Path(name) / "search.json", SPACE)
        command = [sys.executable, "search_hyperparams.py", "--parent_dir", name, "--data_dir", str(data_dir)]
        start = time.perf_counter()
        subprocess.run([*command, "--jobs", str(jobs)], check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    """Print the seconds of each round, in turn so that noise disturbs both alike, and the ratio of medians."""
    args = parse_args()
    seen = {1: [], 2: []}
    for _ in range(args.rounds):
        for jobs, found in seen.items():
            found.append(seconds(args.data_dir, jobs))
        print(f"  one after the other {seen[1][-1]:6.1f} s   both at once {seen[2][-1]:6.1f} s", flush=True)
    serial, parallel = (statistics.median(found) for found in seen.values())
    print(
        f"both at once take {parallel / serial:.3f} of the time of one after the other ({parallel:.1f}, {serial:.1f} s)"
    )


if __name__ == "__main__":
    main()
