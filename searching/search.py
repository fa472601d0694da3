"""A search: the trials of one folder, and the loop that runs them.

Each trial has a number that is unique among all machines. GridSampler uses combination n in trial n, so none is used
twice. TPE is seeded by n, so processes draw different values, and a killed search resumes with the same values.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils import epath

from cxr import storage
from cxr.params import FILE as PARAMS_FILE
from cxr.params import load_params
from cxr.records.dataset import Dataset, open_dataset
from searching.journal import import_optuna, one_at_a_time, open_study
from searching.locks import Locks, TrialLock
from searching.process import TRAINER, TrainProcess, TrialFailed, is_within_groups, read_epochs
from searching.slots import Slot, make_slots
from searching.space import FILE as SPACE_FILE
from searching.space import Space, combinations, describe, is_grid, labels, merged, read_space, suggest

if TYPE_CHECKING:
    import optuna

TRIALS = 20  # default if a range is searched; a grid has one trial per combination
POLL = 0.5  # seconds between checks of the running trials
MEASURES = {False: "val mean AUROC", True: "val mean AUROC within groups"}  # of a trial, by `is_within_groups`
ERROR = "error"  # attribute of a failed trial with the reason
log = logging.getLogger("search")


@dataclasses.dataclass(frozen=True)
class Search:
    """A search space, its data, its study and its folder."""

    parent_dir: pathlib.Path
    base: dict  # the content of params.json
    space: Space
    images: Dataset
    study: "optuna.Study"
    seed: int
    limit: int  # trials in total; at most the combinations of a grid
    locks: Locks = dataclasses.field(default_factory=Locks)

    def folder(self, number: int) -> pathlib.Path:
        """The folder of a trial."""
        return self.parent_dir / f"trial_{number:04d}"

    def trials(self) -> list["optuna.trial.FrozenTrial"]:
        """Every trial so far, by number."""
        return self.study.get_trials(deepcopy=False)

    def running(self) -> list["optuna.trial.FrozenTrial"]:
        """Unfinished trials, on any machine."""
        return [trial for trial in self.trials() if not trial.state.is_finished()]

    def claim(self) -> tuple["optuna.Trial", dict, TrialLock] | None:
        """The next trial, its values and the lock on its folder: an abandoned trial, else a new one, else None."""
        with one_at_a_time(self.parent_dir):
            for unfinished in self.running():
                if lock := self.locks.take(self.folder(unfinished.number)):
                    self.study.sampler = self._sampler(unfinished.number)
                    trial = import_optuna().Trial(self.study, unfinished._trial_id)
                    return trial, suggest(self.space, trial), lock
            number = len(self.trials())
            if number >= self.limit:
                return None
            self.study.sampler = self._sampler(number)
            trial = self.study.ask()
            return trial, suggest(self.space, trial), self.locks.take(self.folder(trial.number))

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        """The sampler that chooses the values of trial `number`."""
        samplers = import_optuna().samplers
        if is_grid(self.space):
            return samplers.GridSampler({name: labels(values) for name, values in self.space.items()}, seed=self.seed)
        return samplers.TPESampler(seed=(self.seed + number) % 2**32)

    def report(self, trial: "optuna.Trial", epochs: dict[int, float]) -> bool:
        """Store the values of new epochs; returns whether to prune the trial because it is below the median."""
        new = epochs.keys() - self.trials()[trial.number].intermediate_values.keys()
        for epoch in sorted(new):
            trial.report(epochs[epoch], epoch)
        return bool(new) and trial.should_prune()

    def finish(self, trial: "optuna.Trial", state: str, value: float | None = None) -> None:
        """Store the end of a trial: COMPLETE with its value, PRUNED (its value is that of the last epoch), or FAIL."""
        state = import_optuna().trial.TrialState[state]
        with contextlib.suppress(RuntimeError):  # GridSampler tries to stop Study.optimize after its last trial
            self.study.tell(trial, value, state)


def open_search(parent_dir: pathlib.Path, data_dir: epath.Path, trials: int | None = None) -> Search:
    """Check the files of a search before its first trial, and open its study.

    Args:
        trials: number in total; default all combinations of a grid, else TRIALS.
    """
    params = load_params(parent_dir)
    base = storage.read_json(parent_dir / PARAMS_FILE)
    space = read_space(parent_dir, base)
    images = open_dataset(data_dir)
    identity = {PARAMS_FILE: digest(base), SPACE_FILE: digest(space), "--data_dir": images.info["fingerprint"]}
    limit = trials or combinations(space) or TRIALS
    study = open_study(parent_dir, identity)
    return Search(parent_dir, base, space, images, study, params.seed, min(limit, combinations(space) or limit))


def digest(value: dict) -> str:
    """Hexadecimal SHA-256 of an object, independent of white space and key order in its file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Job:
    """A trial of the study and its train.py process."""

    def __init__(
        self, search: Search, slot: Slot, claimed: tuple["optuna.Trial", dict, TrialLock], trainer: Sequence[str]
    ) -> None:
        self.search = search
        self.trial, values, self.lock = claimed
        self.folder = search.folder(self.trial.number)
        self.epochs = {}
        storage.write_json(self.folder / PARAMS_FILE, merged(search.base, values))
        log.info("%s   %s", self.folder, describe(values))
        data_dir = str(search.images.folder)
        self.process = TrainProcess(self.folder, self.lock, slot, data_dir=data_dir, trainer=trainer)

    def settle(self) -> bool:
        """Report new epochs; end the trial if its process has ended or it is pruned. Returns whether it has ended."""
        self.lock.beat()
        is_over = self.process.is_over()
        before, self.epochs = self.epochs, read_epochs(self.folder)
        is_pruned = self.epochs != before and self.search.report(self.trial, self.epochs)
        if is_over:
            self.conclude()
        elif is_pruned:
            self.process.stop()
            self.search.finish(self.trial, "PRUNED")
            log.info("%s   pruned after epoch %d", self.folder, max(self.epochs))
        else:
            return False
        self.process.close()
        return True

    def conclude(self) -> None:
        """Store the result of a process that has ended."""
        try:
            value = self.process.score()
        except TrialFailed as error:
            self.trial.set_user_attr(ERROR, str(error))
            self.search.finish(self.trial, "FAIL")
            log.info("%s   failed: %s", self.folder, error)
        else:
            self.search.finish(self.trial, "COMPLETE", value)
            log.info("%s   %s %.4f", self.folder, MEASURES[is_within_groups(self.folder)], value)


def run_trials(search: Search, jobs: int, trainer: Sequence[str] = TRAINER) -> None:
    """Run the remaining trials, `jobs` at once, and wait for those that other processes run."""
    slots = make_slots(jobs)
    running: list[Job | None] = [None] * jobs
    try:
        while True:
            for number, job in enumerate(running):
                if job is not None and job.settle():
                    running[number] = job = None
                if job is None and (claimed := search.claim()):
                    running[number] = Job(search, slots[number], claimed, trainer)
            if not any(running) and not search.running():
                return
            time.sleep(POLL)
    finally:
        for job in filter(None, running):
            job.process.close()
