"""One train.py process in the folder of a trial, and its results."""

import csv
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from cxr import experiment, storage
from searching.locks import TrialLock
from searching.slots import Slot
from training.history import POOLED, WITHIN

TRAINER = (sys.executable, str(experiment.ROOT / "train.py"))
STDERR = "stderr.log"
BUSY = "another process is extracting features into"  # train.py's error when two trials need the same features
BUSY_WAIT = 30.0  # seconds before it is started again
GRACE = 30.0  # seconds to end after SIGTERM


class TrialFailed(Exception):
    """A trial without a score; the text is the reason."""


class TrainProcess:
    """A training process in a trial's folder. It inherits the lock of the folder.

    Args:
        trainer: the training command; --model_dir, --data_dir and, to resume, --resume are appended.
    """

    def __init__(
        self, folder: pathlib.Path, lock: TrialLock, slot: Slot, *, data_dir: str, trainer: Sequence[str] = TRAINER
    ) -> None:
        self.folder = folder
        self.lock = lock
        self.slot = slot
        self.command = [*trainer, "--model_dir", str(folder), "--data_dir", data_dir]
        self.waits_until: float | None = None  # time.monotonic()
        self.start()

    def start(self) -> None:
        """Start training from scratch, or resume the run in the folder."""
        self.waits_until = None
        resume = ["--resume"] * bool(experiment.products(self.folder))
        with (self.folder / STDERR).open("w") as stderr, self.slot.confined():
            self.process = subprocess.Popen(
                self.command + resume,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # train.log has the same text
                stderr=stderr,
                env=self.slot.environment,
                pass_fds=(self.lock.descriptor,),
            )

    def is_over(self) -> bool:
        """Whether the process has ended. If it failed because its features are being extracted, it restarts later."""
        if self.waits_until is not None:
            if time.monotonic() >= self.waits_until:
                self.start()
            return False
        if self.process.poll() == 1 and BUSY in last_line(self.folder / STDERR):
            self.waits_until = time.monotonic() + BUSY_WAIT
            return False
        return self.process.returncode is not None

    def score(self) -> float:
        """Val mean AUROC of the best weights, within groups if it is defined there, after the process has ended.

        Raises:
            TrialFailed: the process failed, the AUROC is undefined, or the weights have seen patients of val.
        """
        code = self.process.returncode
        if code < 0:
            raise TrialFailed(f"ended by {signal.Signals(-code).name}")
        if code > 0:
            raise TrialFailed(f"exit code {code}: {last_line(self.folder / STDERR) or 'no error message'}")
        metrics = storage.read_json(experiment.metrics_path(self.folder, "val", "best"))
        leak = metrics.get("leak") or {}
        within = within_groups_of(metrics)
        value = metrics["mean_auroc"]["value"] if within is None else within
        if leak.get("patients"):
            raise TrialFailed(
                f"val leaks: the weights have seen {leak['patients']:,} of its patients, so the score is not ranked"
            )
        if value is None:
            raise TrialFailed("val mean AUROC is undefined: no finding has both classes in val")
        return value

    def stop(self) -> None:
        """End the process if it still runs: by SIGTERM, or by SIGKILL if it does not end in time."""
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End the process and release the folder. Store the trial's result first, or another process will resume it."""
        self.stop()
        self.lock.release()


def within_groups_of(metrics: dict) -> float | None:
    """The mean AUROC within groups in a metrics file; None if it is undefined, or the dataset has no groups."""
    report = (metrics.get("within") or {}).get("group") or {}
    return (report.get("mean_auroc") or {}).get("value")


def is_within_groups(folder: pathlib.Path) -> bool:
    """Whether the score of a trial that has ended is the AUROC within groups, not the pooled one."""
    path = experiment.metrics_path(folder, "val", "best")
    return path.is_file() and within_groups_of(storage.read_json(path)) is not None


def read_epochs(folder: pathlib.Path) -> dict[int, float]:
    """Val mean AUROC of the epochs so far, where defined; within groups if it is defined there."""
    path = folder / "history.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        values = {int(row["epoch"]): row.get(WITHIN) or row[POOLED] for row in rows}
    return {epoch: float(value) for epoch, value in values.items() if value}


def last_line(path: pathlib.Path) -> str:
    """The last line of a file that is not blank; "" if there is none."""
    lines = path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
