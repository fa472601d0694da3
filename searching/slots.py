"""The cores and the GPU of each of several train.py processes that run at once.

The GPU part is tested with a stand-in for nvidia-smi only; it has never run on a machine with a GPU.
"""

import contextlib
import dataclasses
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

SMI_TIMEOUT = 60.0  # seconds; a GPU without persistence mode takes several to answer


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one of several processes may use."""

    cores: frozenset[int] | None  # None: all
    environment: dict[str, str]

    @contextlib.contextmanager
    def confined(self) -> Iterator[None]:
        """Processes started inside run on these cores; thread pools of every library then take their size from them."""
        if self.cores is None:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def make_slots(jobs: int) -> list[Slot]:
    """Share the cores, and the GPUs in turn: slot k gets GPU k modulo their number.

    TensorFlow takes memory of a GPU as it needs it, not all at once, unless TF_FORCE_GPU_ALLOW_GROWTH says otherwise.
    """
    gpus, environment = visible_gpus(), {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} | os.environ
    slots = []
    for number in range(jobs):
        own = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        slots.append(Slot(share_of_cores(number, jobs), environment | own))
    return slots


def share_of_cores(number: int, jobs: int) -> frozenset[int] | None:
    """The cores of one of several jobs, disjoint while there are enough; None where a process cannot be confined.

    Two processes that each compute with every core take turns and cost each other their caches.
    """
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        return frozenset({cores[number % len(cores)]})
    return frozenset(cores[number * len(cores) // jobs : (number + 1) * len(cores) // jobs])


def visible_gpus() -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them: all that nvidia-smi lists, or those of them that the variable allows.

    As in CUDA, an entry that is not a GPU hides itself and those after it. Without nvidia-smi there are none.
    """
    indexes = [str(index) for index in range(_count_gpus())]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not indexes:
        return indexes
    entries = (entry.strip() for entry in allowed.split(","))
    return list(itertools.takewhile(lambda entry: entry in indexes or entry.startswith(("GPU-", "MIG-")), entries))


def _count_gpus() -> int:
    """How many GPUs nvidia-smi lists; 0 if it is absent or fails. TensorFlow would know, but takes seconds to load."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=SMI_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
