"""The study of a search: trials in a database of Optuna's, which several processes and machines may share.

Trial n of a grid takes its n-th combination, and otherwise a sampler seeded by n: as numbers are given once, no two
processes ever try the same, and a search that was killed goes on as it would have.
"""

import os
import pathlib
from typing import TYPE_CHECKING

from cxr import search_space, trial
from cxr.database import import_optuna, open_tables

if TYPE_CHECKING:
    import optuna

DATABASE = "study.db"
ERROR = "error"  # the attribute of a failed trial that says why


class Study:
    """The trials of one search, named for its folder.

    Args:
        url: of a database for several machines, as SQLAlchemy writes it; None is study.db in parent_dir.
        identity: by name what all trials must share; kept in the study when it begins.
        limit: how many trials there are to be, at most as many as a grid has combinations.

    Raises:
        ValueError: the study began with another identity, or its database is gone while its trials are here.
    """

    def __init__(
        self,
        parent_dir: pathlib.Path,
        space: search_space.Space,
        *,
        url: str | None,
        identity: dict[str, str],
        seed: int,
        limit: int,
    ) -> None:
        self.parent_dir, self.space, self.seed, self.is_shared = parent_dir, space, seed, url is not None
        grid = search_space.is_grid(space)
        self.combinations = search_space.combinations(space) if grid else None
        self.limit = min(limit, len(self.combinations)) if grid else limit
        with trial.one_at_a_time(parent_dir):  # two at once would both make the tables
            self._study = _open(parent_dir, url)
            self._require_unchanged(identity)

    def _require_unchanged(self, identity: dict[str, str]) -> None:
        """Note the identity of a study that begins; compare it with that of one that goes on."""
        if not self.trials() and any(self.parent_dir.glob("trial_*")):
            raise ValueError(
                f"{self.parent_dir} holds trials of a study whose database is gone. Bring {DATABASE} back, "
                "or move the trial_* folders away to begin anew"
            )
        for name, value in identity.items():
            if self._study.user_attrs.get(name, value) != value:
                raise ValueError(
                    f"{name} is not what the study in {self.parent_dir} began with, so its trials would not compare. "
                    "Undo that, or search in another folder"
                )
            self._study.set_user_attr(name, value)

    def trials(self) -> list["optuna.trial.FrozenTrial"]:
        """Every trial so far, by number."""
        return self._study.get_trials(deepcopy=False)

    def claim(self) -> tuple["optuna.Trial", int] | None:
        """A trial to run and the lock on its folder: one that a killed search left, else a new one, else None."""
        with trial.one_at_a_time(self.parent_dir):
            return self._abandoned() or self._new()

    def _abandoned(self) -> tuple["optuna.Trial", int] | None:
        import optuna

        for found in self.running_here():
            lock = trial.hold_trial(trial.folder_of(self.parent_dir, found.number))
            if lock is None:
                continue
            if found.number in [other.number for other in self.running_here()]:
                return optuna.Trial(self._study, found._trial_id), lock
            os.close(lock)  # whoever held it had just finished it
        return None

    def _new(self) -> tuple["optuna.Trial", int] | None:
        if len(self.trials()) >= self.limit:
            return None
        asked = self._study.ask()
        if asked.number >= self.limit:  # another machine took the last one at the same moment
            self.fail(asked, "one more than were to be tried")
            return None
        return asked, trial.hold_trial(trial.folder_of(self.parent_dir, asked.number))

    def running_here(self) -> list["optuna.trial.FrozenTrial"]:
        """Trials that are not over, but for those whose folder is on another machine."""
        unfinished = [found for found in self.trials() if not found.state.is_finished()]
        if not self.is_shared:
            return unfinished
        return [found for found in unfinished if trial.folder_of(self.parent_dir, found.number).is_dir()]

    def values(self, asked: "optuna.Trial") -> dict:
        """What a trial tries, by parameter; the same however often it is asked."""
        self._study.sampler = _sampler(asked.number, self.seed, self.combinations)
        values = {}
        for name, domain in self.space.items():
            if isinstance(domain, search_space.Choices):
                label = asked.suggest_categorical(name, domain.labels)
                values[name] = domain.values[domain.labels.index(label)]
            elif domain.integer:
                values[name] = asked.suggest_int(name, domain.low, domain.high, log=domain.log)
            else:
                values[name] = asked.suggest_float(name, domain.low, domain.high, log=domain.log)
        return values

    def report(self, asked: "optuna.Trial", epochs: dict[int, float]) -> bool:
        """Note val mean AUROC by epoch; whether the trial should end as it is below the median of the others."""
        known = self.trials()[asked.number].intermediate_values
        for epoch in epochs.keys() - known.keys():
            asked.report(epochs[epoch], epoch)
        return bool(epochs.keys() - known.keys()) and asked.should_prune()

    def finish(self, asked: "optuna.Trial", value: float) -> None:
        """Note the value of a trial that went through."""
        self._study.tell(asked, value)

    def prune(self, asked: "optuna.Trial") -> None:
        """Note that a trial was ended early; its last reported value counts."""
        self._study.tell(asked, state=import_optuna().trial.TrialState.PRUNED)

    def fail(self, asked: "optuna.Trial", reason: str) -> None:
        """Note that a trial has no value, and why."""
        asked.set_user_attr(ERROR, reason)
        self._study.tell(asked, state=import_optuna().trial.TrialState.FAIL)


def _open(parent_dir: pathlib.Path, url: str | None) -> "optuna.Study":
    """The study of a folder, begun where there is none."""
    optuna = import_optuna()
    return optuna.create_study(
        storage=open_tables(url or f"sqlite:///{parent_dir.resolve() / DATABASE}"),
        study_name=parent_dir.resolve().name,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),  # from the second epoch on
        load_if_exists=True,
    )


def _sampler(number: int, seed: int, combinations: list[dict] | None) -> "optuna.samplers.BaseSampler":
    """What chooses the values of trial `number`."""
    optuna = import_optuna()
    if combinations is None:
        return optuna.samplers.TPESampler(seed=(seed + number) % 2**32)

    class Combination(optuna.samplers.BaseSampler):
        """The values of one combination, whatever the other trials gave."""

        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, search_space):
            return {}

        def sample_independent(self, study, trial, name, distribution):
            return search_space.label(combinations[number][name])

    return Combination()
