"""Make one HTML page of an experiment's results, or of a dataset: figures, tables and images that open offline.

    python -m tools.report --model_dir experiments/simple_cnn --split test --data_dir data/records

Writes report_test.html beside the metrics that evaluate.py wrote; --data_dir adds the images that were called wrongly.
With --data_dir alone it writes report.html into the dataset: what is in it, its splits side by side, examples.
"""

import argparse
import pathlib
import shlex
import sys

from etils import epath

from cxr import storage
from cxr.errors import one_line_errors

SPLITS = ("test", "val")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, help="an evaluated experiment")
    add("--split", choices=SPLITS, help="of the experiment; default: test")
    add("--data_dir", type=epath.Path, help="the built dataset evaluated on; alone: the dataset to show")
    args = parser.parse_args(argv)
    if args.model_dir is None and args.data_dir is None:
        parser.error("give --model_dir for an experiment, --data_dir for a dataset, or both")
    if args.model_dir is None and args.split:
        parser.error("--split goes with --model_dir")
    args.split = args.split or SPLITS[0]
    return args


def report_experiment(args: argparse.Namespace, command: str) -> pathlib.Path:
    """Write the page of an experiment; returns where."""
    from tools.reporting.evaluated import read_evaluated
    from tools.reporting.experiment_page import experiment_page, report_path

    evaluated = read_evaluated(args.model_dir, args.split, args.data_dir)
    path = report_path(evaluated)
    storage.write_text(path, experiment_page(evaluated, command))
    return path


def report_dataset(data_dir: epath.Path, command: str) -> epath.Path:
    """Write the page of a dataset; returns where."""
    from cxr.records.dataset import open_dataset
    from tools.reporting.dataset_page import dataset_page

    text = dataset_page(open_dataset(data_dir), command)
    storage.write_text(data_dir / "report.html", text)
    return data_dir / "report.html"


def main(argv: list[str] | None = None) -> None:
    """Write one page."""
    args = parse_args(argv)
    command = shlex.join(["python", "-m", "tools.report", *(sys.argv[1:] if argv is None else argv)])
    with one_line_errors():
        path = report_experiment(args, command) if args.model_dir else report_dataset(args.data_dir, command)
        print(f"written: {path}")


if __name__ == "__main__":
    main()
