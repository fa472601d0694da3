"""The Optuna study of a search, in one journal file that several processes and machines share.

Its lock is Optuna's JournalFileOpenLock: creating a file that must not exist is atomic on NFS 3 and later, where flock
may not reach other machines. Optuna's JournalFileSymlinkLock would never expire for a relative path.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.journal"
CLAIM = "search.claim"  # with ".lock" appended: held while a process chooses its next trial
GRACE = 30  # seconds after which the lock of a process that was killed while it wrote the journal is removed


def import_optuna():
    """Import Optuna and log only its warnings; ImportError names the command that installs it."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError("searching needs Optuna. Run: pip install -r requirements/search.txt") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextlib.contextmanager
def one_at_a_time(parent_dir: pathlib.Path) -> Iterator[None]:
    """Only one process of all machines at a time is in this block for the same folder; others wait.

    The lock of a process that was killed in the block is removed after three times GRACE: a process in the block may
    wait GRACE for the journal, and its lock must not be removed meanwhile.
    """
    lock = import_optuna().storages.journal.JournalFileOpenLock(str(parent_dir / CLAIM), grace_period=3 * GRACE)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def open_study(parent_dir: pathlib.Path, identity: dict[str, str]) -> "optuna.Study":
    """Open the study of a folder, or create it.

    Args:
        identity: hashes of what all trials share, by name; stored when the study is created.

    Raises:
        ValueError: the study has another identity, or its journal is damaged, or missing beside existing trials.
    """
    optuna = import_optuna()
    with one_at_a_time(parent_dir):
        study = optuna.create_study(
            storage=_open_journal(parent_dir / JOURNAL),
            study_name="search",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),  # from the second epoch on
            load_if_exists=True,
        )
        if not study.get_trials(deepcopy=False) and any(parent_dir.glob("trial_*")):
            raise ValueError(
                f"{parent_dir} holds trials of a search but no {JOURNAL}. Restore it, "
                "or move the trial_* folders away to start from scratch"
            )
        _require_unchanged(study, identity, parent_dir)
    return study


def _require_unchanged(study: "optuna.Study", identity: dict[str, str], parent_dir: pathlib.Path) -> None:
    """Store the identity of a new study; for an old one compare it, and raise ValueError if it differs."""
    for name, value in identity.items():
        if study.user_attrs.get(name, value) != value:
            raise ValueError(
                f"{name} has changed since the search in {parent_dir} began, so its trials cannot be compared. "
                "Undo that, or search in another folder"
            )
    for name in identity.keys() - study.user_attrs.keys():
        study.set_user_attr(name, identity[name])


def _open_journal(path: pathlib.Path) -> "optuna.storages.JournalStorage":
    """Open a journal, or create it. An incomplete last line, as a full disk leaves it, is removed."""
    optuna = import_optuna()
    lock = optuna.storages.journal.JournalFileOpenLock(str(path), grace_period=GRACE)
    lock.acquire()
    try:
        written = path.read_bytes() if path.exists() else b""
        complete = written.rfind(b"\n") + 1
        if complete < len(written):
            os.truncate(path, complete)
    finally:
        lock.release()
    try:
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Restore it from a backup, or move it and the trial_* folders away to start "
            "from scratch"
        ) from error
