"""Lock files in the folders of trials, which show whether a process still runs a trial.

Optuna's heartbeat and its retry of stale trials exist only for RDBStorage, not for JournalStorage. Here a trial is
abandoned if its lock is free. train.py inherits the lock, so it is free once both the search and its train.py have
ended. Not every shared file system passes flock to other machines (NFS mounted with nolock). So the search also keeps
touching the file. A trial of another machine is abandoned only if its lock is free and nothing touches the file.
"""

import os
import pathlib
import socket
import time

from cxr import storage

FILE = ".trial.lock"  # its content is the name of the machine
BEAT = 10.0  # seconds between touches
STALE = 180.0  # seconds without a touch; NFS may show a file's time a minute late


class TrialLock:
    """The lock of one trial's folder, held until `release`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._touched = time.monotonic()

    def beat(self) -> None:
        """Touch the file every BEAT seconds, so that other machines see that the trial is not abandoned."""
        if time.monotonic() - self._touched >= BEAT:
            os.utime(self.descriptor)
            self._touched = time.monotonic()

    def release(self) -> None:
        """Close the file; the lock is free once train.py has closed it too."""
        os.close(self.descriptor)


class Locks:
    """Takes the locks of trials, and remembers when lock files of other machines last changed."""

    def __init__(self, machine: str | None = None) -> None:
        self.machine = machine or socket.gethostname()
        self._seen: dict[pathlib.Path, tuple[int, float]] = {}  # (modification time, when this process first saw it)

    def take(self, folder: pathlib.Path) -> TrialLock | None:
        """Create and lock a trial's folder; None while another process works in it. Call this in `one_at_a_time`."""
        folder.mkdir(exist_ok=True)
        path = folder / FILE
        if self._is_alive_elsewhere(path):
            return None
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not storage.try_lock(descriptor):
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, self.machine.encode(), 0)
        os.fsync(descriptor)
        return TrialLock(descriptor)

    def _is_alive_elsewhere(self, path: pathlib.Path) -> bool:
        """Whether another machine wrote this file and touched it recently.

        Only times of this machine are compared, because the clocks of machines may differ.
        """
        if not path.is_file() or path.read_text() in ("", self.machine):
            return False
        changed = path.stat().st_mtime_ns
        now = time.monotonic()
        if self._seen.get(path, (0, 0.0))[0] != changed:
            self._seen[path] = changed, now
        return now - self._seen[path][1] < STALE
