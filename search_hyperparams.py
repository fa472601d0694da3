"""Train one experiment with many values of its parameters and say which are best.

    python search_hyperparams.py --parent_dir experiments/learning_rate --data_dir data/records

Reads params.json and search.json there. Every trial is a train.py process in a folder of its own, trial_0000 and on;
the study is study.db. Killed at any moment, the same command goes on. Several of them share a study: on one machine as
they are, on several machines by --storage.
"""

import argparse
import dataclasses
import hashlib
import json
import logging
import pathlib
import signal
import sys
import time

from etils import epath

from cxr import search_space, storage, trial
from cxr.data.dataset import Dataset, open_dataset
from cxr.database import database_errors, import_optuna
from cxr.errors import one_line_errors
from cxr.evaluation.tables import aligned
from cxr.params import FILE as PARAMS_FILE
from cxr.params import load_params
from cxr.study import ERROR, Study

TRIALS = 20  # of ranges; a grid has as many as combinations
POLL = 0.5  # seconds between looks at the trials that run
log = logging.getLogger("search")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parent_dir", type=pathlib.Path, required=True, help="folder with params.json and search.json")
    add("--data_dir", type=epath.Path, default="data/records", help="default: %(default)s")
    add("--trials", type=int, metavar="N", help=f"in the whole study; default: a grid's combinations, else {TRIALS}")
    add("--jobs", type=int, default=1, metavar="N", help="train.py processes at once; default: %(default)s")
    add("--storage", metavar="URL", help="database of several machines: postgresql+psycopg://...; default: study.db")
    args = parser.parse_args(argv)
    for name in ("trials", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: expected at least 1")
    return args


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched, and where."""

    parent_dir: pathlib.Path
    base: dict  # params.json as it stands
    images: Dataset
    study: Study


def open_search(args: argparse.Namespace) -> Search:
    """Check everything that can be checked before the first trial, and open the study."""
    parent_dir = args.parent_dir
    params, base = load_params(parent_dir), storage.read_json(parent_dir / PARAMS_FILE)
    space, images = search_space.read_space(parent_dir, base), open_dataset(args.data_dir)
    wanted = storage.read_json(parent_dir / search_space.FILE)
    identity = {
        PARAMS_FILE: digest(base),
        search_space.FILE: digest(wanted, in_order=True),
        "--data_dir": images.info["fingerprint"],
    }
    trials = args.trials or (sys.maxsize if search_space.is_grid(space) else TRIALS)
    import_optuna()
    with database_errors():
        study = Study(parent_dir, space, url=args.storage, identity=identity, seed=params.seed, limit=trials)
    return Search(parent_dir, base, images, study)


def digest(value: dict, *, in_order: bool = False) -> str:
    """Hexadecimal SHA-256 of an object, whatever the spaces of its file; the order of its keys counts if it matters."""
    return hashlib.sha256(json.dumps(value, sort_keys=not in_order).encode()).hexdigest()


class Job:
    """A trial of the study and its train.py process."""

    def __init__(self, search: Search, asked, lock: int, cores: set[int] | None) -> None:
        self.search, self.asked = search, asked
        folder, values = trial.folder_of(search.parent_dir, asked.number), search.study.values(asked)
        storage.write_json(folder / PARAMS_FILE, search_space.merged(search.base, values))
        log.info("%s   %s", folder, search_space.describe(values))
        self.run = trial.TrialRun(folder, lock, data_dir=str(search.images.folder), cores=cores)

    def settle(self) -> bool:
        """Report what is new; end the trial where it is over or hopeless. Returns whether it is done with."""
        study, run = self.search.study, self.run
        is_over = run.is_over()
        is_hopeless = run.new_epochs() and study.report(self.asked, run.epochs)
        if is_hopeless and not is_over:
            run.stop()
            study.prune(self.asked)
            log.info("%s   pruned after epoch %d", run.folder, max(run.epochs))
        elif is_over:
            self.conclude()
        if is_over or is_hopeless:
            run.close()
        return is_over or is_hopeless

    def conclude(self) -> None:
        """Note what a train.py that has ended came to."""
        study, run = self.search.study, self.run
        reason = run.failure()
        value = None if reason else trial.best_value(run.folder)
        if value is None:
            reason = reason or "val mean AUROC is undefined: no finding has both classes in val"
            study.fail(self.asked, reason)
            log.info("%s   failed: %s", run.folder, reason)
        else:
            study.finish(self.asked, value)
            log.info("%s   val mean AUROC %.4f", run.folder, value)


def run_trials(search: Search, jobs: int) -> None:
    """Run what is left of the study, so many trials at once, and wait for those that others run in this folder."""
    slots: list[Job | None] = [None] * jobs
    try:
        while True:
            for slot, job in enumerate(slots):
                if job is not None and job.settle():
                    slots[slot] = job = None
                if job is None and (claimed := search.study.claim()):
                    slots[slot] = Job(search, *claimed, trial.share_of_cores(slot, jobs))
            if not any(slots) and not search.study.running_here():
                return
            time.sleep(POLL)
    finally:
        for job in filter(None, slots):
            job.run.close()


def print_results(search: Search) -> None:
    """Print every trial, the best first, and how to evaluate that one; ValueError if all failed."""
    trials = sorted(search.study.trials(), key=lambda found: (not is_complete(found), -(found.value or 0)))
    names = list(search.study.space)
    rows = [("trial", "state", "val mean AUROC", *names)]
    for found in trials:
        value = "" if found.value is None else f"{found.value:.4f}"
        values = [search_space.shown(found.params[name]) if name in found.params else "" for name in names]
        rows.append((f"trial_{found.number:04d}", found.state.name.lower(), value, *values))
    print("\n".join(["", *aligned(rows), ""]))
    failed = [(found.number, found.user_attrs[ERROR]) for found in trials if ERROR in found.user_attrs]
    for number, reason in failed:
        print(f"trial_{number:04d} failed: {reason}")
    if not is_complete(trials[0]):
        raise ValueError(f"none of {len(trials)} trials came to a value; see stderr.log and train.log in their folders")
    best = trial.folder_of(search.parent_dir, trials[0].number)
    split = "test" if search.images.images("test") else "val"
    print(f"best: {best}, val mean AUROC {trials[0].value:.4f}")
    if not best.is_dir():
        print("its folder is on another machine of this study; run the next line there")
    print(f"next: python evaluate.py --model_dir {best} --data_dir {search.images.folder} --split {split}")


def is_complete(found) -> bool:
    """Whether a trial went through all its epochs."""
    return found.state.name == "COMPLETE"


def main(argv: list[str] | None = None) -> None:
    """Search."""
    args = parse_args(argv)
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(sys.stdout)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the trials end with the search
    with one_line_errors():
        search = open_search(args)
        with database_errors():
            run_trials(search, args.jobs)
        print_results(search)


if __name__ == "__main__":
    main()
