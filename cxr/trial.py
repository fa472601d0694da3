"""One trial of a search: a train.py process in a folder of its own, and what can be read there while it runs.

A file lock, which the process inherits, says whether anybody works in the folder. It is free when both the search and
its train.py have ended, however they ended.
"""

import contextlib
import csv
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from cxr import experiment, storage

STDERR = "stderr.log"
BUSY = "another process is extracting features into"  # train.py's error when trials want the same features at once
BUSY_WAIT = 30.0  # seconds until it is asked again
GRACE = 30.0  # seconds to end after being asked to


def folder_of(parent_dir: pathlib.Path, number: int) -> pathlib.Path:
    """Where trial `number` lives."""
    return parent_dir / f"trial_{number:04d}"


def hold(path: pathlib.Path, *, wait: bool = False) -> int | None:
    """Lock a file and return its descriptor, which lets go when closed; None if another process holds it."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def hold_trial(folder: pathlib.Path) -> int | None:
    """Lock a trial's folder, made where absent; None while another search or a train.py that it left works in it."""
    folder.mkdir(exist_ok=True)
    return hold(folder / ".trial.lock")


@contextlib.contextmanager
def one_at_a_time(parent_dir: pathlib.Path) -> Iterator[None]:
    """Wait until no other process is in here with the same folder, and keep the others waiting."""
    descriptor = hold(parent_dir / ".search.lock", wait=True)
    try:
        yield
    finally:
        os.close(descriptor)


def share_of_cores(slot: int, jobs: int) -> set[int] | None:
    """The cores of one of several jobs, disjoint while there are enough; None where a process cannot be confined.

    Two processes that each compute with every core take turns and cost each other their caches.
    """
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        return {cores[slot % len(cores)]}
    return set(cores[slot * len(cores) // jobs : (slot + 1) * len(cores) // jobs])


@contextlib.contextmanager
def confined_to(cores: set[int] | None) -> Iterator[None]:
    """Processes started inside compute on these cores; thread pools of every library then take their size from them."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class TrialRun:
    """A train.py process in a trial's folder, whose lock it holds until `close`."""

    def __init__(self, folder: pathlib.Path, lock: int, *, data_dir: str, cores: set[int] | None) -> None:
        self.folder, self.lock, self.data_dir, self.cores = folder, lock, data_dir, cores
        self.waits_until: float | None = None  # time.monotonic()
        self.epochs: dict[int, float] = {}  # val mean AUROC by epoch, as far as `new_epochs` has read
        self.start()

    def start(self) -> None:
        """Start train.py anew, or where a run in the folder stopped."""
        self.waits_until = None
        command = [sys.executable, str(experiment.ROOT / "train.py"), "--model_dir", str(self.folder)]
        command += ["--data_dir", self.data_dir] + ["--resume"] * bool(experiment.products(self.folder))
        environment = os.environ
        if self.cores is not None:  # other trials may be on the same GPU, of which TensorFlow would take all memory
            environment = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **os.environ}
        with (self.folder / STDERR).open("w") as stderr, confined_to(self.cores):
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # train.log has it
                stderr=stderr,
                env=environment,
                pass_fds=(self.lock,),
            )

    def is_over(self) -> bool:
        """Whether train.py has ended for good; one that must wait for another's features is started again."""
        if self.waits_until is not None:
            if time.monotonic() >= self.waits_until:
                self.start()
            return False
        if self.process.poll() is None:
            return False
        if self.process.returncode == 1 and BUSY in last_line(self.folder / STDERR):
            self.waits_until = time.monotonic() + BUSY_WAIT
            return False
        return True

    def new_epochs(self) -> bool:
        """Read history.csv into `epochs`; whether it had something new."""
        before, self.epochs = self.epochs, read_epochs(self.folder)
        return self.epochs != before

    def failure(self) -> str | None:
        """Why a train.py that is over did not succeed; None if it did."""
        code = self.process.returncode
        if code == 0:
            return None
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"exit code {code}: {last_line(self.folder / STDERR) or 'it said nothing'}"

    def stop(self) -> None:
        """End train.py, gracefully if it lets itself; what it has written stays whole."""
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End train.py if it still runs, and let go of the folder."""
        self.stop()
        os.close(self.lock)


def read_epochs(folder: pathlib.Path) -> dict[int, float]:
    """Val mean AUROC by epoch so far, where it is defined."""
    path = folder / "history.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {int(row["epoch"]): float(row["val_mean_auroc"]) for row in rows if row["val_mean_auroc"]}


def best_value(folder: pathlib.Path) -> float | None:
    """Val mean AUROC of the best weights of a finished run; None where undefined."""
    return storage.read_json(experiment.metrics_path(folder, "val", "best"))["mean_auroc"]["value"]


def last_line(path: pathlib.Path) -> str:
    """The last line of a file that is not blank; "" if there is none."""
    lines = path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
