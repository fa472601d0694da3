"""How fast a dataset is verified, compared with reading and hashing the same files on as many processes.

    python -m bench.verify --data_dir data/records --release_dir data/nih

The files are read once before, so that every way finds them in memory where they fit.
"""

import argparse
import statistics
import time

from etils import epath

from cxr import storage
from cxr.engines import mapping
from cxr.engines.engine import Engine, default_workers
from cxr.records.dataset import open_dataset
from cxr.records.splits import SPLITS
from cxr.records.verify import verify


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=epath.Path, default="data/records", help="a dataset; default: %(default)s")
    parser.add_argument("--release_dir", type=epath.Path, help="the release it was built from, to compare with")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes; default: every core")
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many; default: %(default)s")
    return parser.parse_args(argv)


def main() -> None:
    """Print a line for checking and one for the limit."""
    args = parse_args()
    engine, opened = Engine(workers=args.workers), open_dataset(args.data_dir)
    paths = [path for split in SPLITS for path in opened.paths(split)]
    size = sum(epath.Path(path).stat().length for path in paths)
    ways = {
        "reading and sha256 alone (limit)": lambda: list(mapping.run(storage.sha256_of, paths, engine)),
        "verify, without a release": lambda: verify(args.data_dir, engine=engine),
    }
    if args.release_dir:
        ways["verify, against the release"] = lambda: verify(args.data_dir, args.release_dir, engine=engine)
    seconds = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    print(f"{len(paths)} shards, {size / 1e9:.2f} GB, {args.workers} processes, median of {args.rounds}")
    limit, *_ = (statistics.median(times) for times in seconds.values())
    for name, times in seconds.items():
        taken = statistics.median(times)
        print(f"  {name:36}{taken:7.2f} s{size / taken / 1e9:8.2f} GB/s{limit / taken:8.2f} of the limit")


if __name__ == "__main__":
    main()
