"""Train one experiment with different values of its parameters and print the results, best first.

    python search_hyperparams.py --parent_dir experiments/learning_rate --data_dir data/records

Reads params.json and search.json there. Every trial is a train.py process in its own folder (trial_0000 ...);
search.journal records them. After a kill the same command resumes the search. Several such commands, on one machine or
on several that share the folder, share the trials. Job k uses GPU k modulo the number of GPUs.
"""

import argparse
import logging
import pathlib
import sys
from collections.abc import Sequence

from etils import epath

from cxr.errors import one_line_errors
from cxr.evaluation.tables import aligned
from searching.process import TRAINER, is_within_groups
from searching.search import ERROR, MEASURES, TRIALS, Search, log, open_search, run_trials
from searching.space import shown


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parent_dir", type=pathlib.Path, required=True, help="folder with params.json and search.json")
    add("--data_dir", type=epath.Path, default="data/records", help="default: %(default)s")
    add(
        "--trials",
        type=int,
        metavar="N",
        help=f"number of trials in total; default: all combinations of a grid, else {TRIALS}",
    )
    add("--jobs", type=int, default=1, metavar="N", help="train.py processes that run at once; default: %(default)s")
    args = parser.parse_args(argv)
    for name in ("trials", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: expected at least 1")
    return args


def print_results(search: Search) -> None:
    """Print all trials, best first, and the command that evaluates the best one; ValueError if none has a score."""
    trials = sorted(search.trials(), key=lambda trial: (not is_complete(trial), -(trial.value or 0)))
    names = list(search.space)
    measure = MEASURES[is_within_groups(search.folder(trials[0].number))]  # equal in all trials: the val images are
    rows = [("trial", "state", measure, *names)]
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        values = [shown(trial.params[name]) if name in trial.params else "" for name in names]
        rows.append((search.folder(trial.number).name, trial.state.name.lower(), value, *values))
    print("\n".join(["", *aligned(rows), ""]))
    for trial in trials:
        if ERROR in trial.user_attrs:
            print(f"{search.folder(trial.number).name} failed: {trial.user_attrs[ERROR]}")
    if not is_complete(trials[0]):
        raise ValueError(f"none of {len(trials)} trials has a score; see stderr.log and train.log in their folders")
    best = search.folder(trials[0].number)
    split = "test" if search.images.num_images("test") else "val"
    print(f"best: {best}, {measure} {trials[0].value:.4f}")
    print(f"next: python evaluate.py --model_dir {best} --data_dir {search.images.folder} --split {split}")


def is_complete(trial) -> bool:
    """Whether a trial finished training."""
    return trial.state.name == "COMPLETE"


def main(argv: list[str] | None = None, trainer: Sequence[str] = TRAINER) -> None:
    """Run a search; `trainer` is the command that trains one experiment."""
    args = parse_args(argv)
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(sys.stdout)]
    with one_line_errors():
        search = open_search(args.parent_dir, args.data_dir, args.trials)
        run_trials(search, args.jobs, trainer)
        print_results(search)


if __name__ == "__main__":
    main()
