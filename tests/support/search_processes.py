"""The processes of a search, found and killed from outside."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path


def training_process(folder: Path) -> int | None:
    """Process id of the training process of a trial; None if there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has just ended
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if str(folder) in words and "--model_dir" in words:
                return int(process.name)
    return None


def kill_without_locks(search: subprocess.Popen, folder: Path) -> None:
    """Kill a search while it holds no lock of its folder: others would wait for that lock until it expires."""
    while True:
        search.send_signal(signal.SIGSTOP)
        os.waitpid(search.pid, os.WUNTRACED)  # until it has stopped
        if not list(folder.glob("search.*.lock")):
            search.kill()
            return
        search.send_signal(signal.SIGCONT)
        time.sleep(0.01)
