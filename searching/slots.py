"""The cores and the GPU of each of several train.py processes that run at once.

The GPU part is only tested with a fake nvidia-smi; it has never run on a machine with a GPU.
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
    """The cores and the environment of one process."""

    cores: frozenset[int] | None  # None: all
    environment: dict[str, str]

    @contextlib.contextmanager
    def confined(self) -> Iterator[None]:
        """Processes started in this block run only on these cores; libraries size their thread pools by them."""
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
    """Divide the cores among the slots, and give slot k GPU k modulo the number of GPUs.

    TensorFlow allocates GPU memory on demand, unless TF_FORCE_GPU_ALLOW_GROWTH in the environment says otherwise.
    """
    gpus = visible_gpus()
    environment = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} | os.environ
    slots = []
    for number in range(jobs):
        own = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        slots.append(Slot(share_of_cores(number, jobs), environment | own))
    return slots


def share_of_cores(number: int, jobs: int) -> frozenset[int] | None:
    """The cores of one of several jobs, disjoint if there are enough; None if a process cannot be confined to cores.

    Two processes that each use every core interrupt each other and evict each other's caches.
    """
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        return frozenset({cores[number % len(cores)]})
    return frozenset(cores[number * len(cores) // jobs : (number + 1) * len(cores) // jobs])


def visible_gpus() -> list[str]:
    """The GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows, named as in that variable.

    As in CUDA, an entry that is not a GPU hides itself and all entries after it. Without nvidia-smi there are none.
    """
    indexes = [str(index) for index in range(_count_gpus())]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not indexes:
        return indexes
    entries = (entry.strip() for entry in allowed.split(","))
    return list(itertools.takewhile(lambda entry: entry in indexes or entry.startswith(("GPU-", "MIG-")), entries))


def _count_gpus() -> int:
    """Number of GPUs that nvidia-smi lists; 0 if it is absent or fails. TensorFlow would take seconds to load."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=SMI_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
