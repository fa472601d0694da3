"""Write the results of an experiment, or the contents of a dataset, as one HTML page that opens offline.

    python -m tools.report --model_dir experiments/simple_cnn --split test --data_dir data/records

Writes report_test.html beside the metrics of evaluate.py; --data_dir adds the images with the worst wrong calls.
With --data_dir alone it writes report.html into the dataset: its splits side by side, what was left out, examples.
"""

import argparse
import pathlib
import shlex
import sys

from etils import epath

from cxr import storage
from cxr.errors import one_line_errors
from cxr.records.dataset import open_dataset
from tools.reporting.dataset_page import dataset_page
from tools.reporting.evaluated import read_evaluated
from tools.reporting.experiment_page import experiment_page, report_path

SPLITS = ("test", "val")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, help="an evaluated experiment")
    add("--split", choices=SPLITS, help="of the experiment; default: test")
    add("--data_dir", type=epath.Path, help="the built dataset evaluated on; alone: the dataset to report")
    args = parser.parse_args(argv)
    if args.model_dir is None and args.data_dir is None:
        parser.error("give --model_dir for an experiment, --data_dir for a dataset, or both")
    if args.model_dir is None and args.split:
        parser.error("--split goes with --model_dir")
    args.split = args.split or SPLITS[0]
    return args


def report_experiment(model_dir: pathlib.Path, split: str, data_dir: epath.Path | None, command: str) -> pathlib.Path:
    """Write the page of an experiment; returns its path."""
    evaluated = read_evaluated(model_dir, split, data_dir)
    path = report_path(evaluated)
    storage.write_text(path, experiment_page(evaluated, command))
    return path


def report_dataset(data_dir: epath.Path, command: str) -> epath.Path:
    """Write the page of a dataset; returns its path."""
    path = data_dir / "report.html"
    storage.write_text(path, dataset_page(open_dataset(data_dir), command))
    return path


def main(argv: list[str] | None = None) -> None:
    """Write one page."""
    args = parse_args(argv)
    command = shlex.join(["python", "-m", "tools.report", *(sys.argv[1:] if argv is None else argv)])
    with one_line_errors():
        if args.model_dir:
            path = report_experiment(args.model_dir, args.split, args.data_dir, command)
        else:
            path = report_dataset(args.data_dir, command)
        print(f"written: {path}")


if __name__ == "__main__":
    main()
