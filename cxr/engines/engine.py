"""Where jobs run."""

import dataclasses
import os
from typing import TypeVar

NAMES = ("local", "ray")
Job = TypeVar("Job")
Result = TypeVar("Result")


def default_workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where jobs run."""

    name: str = "local"  # one of NAMES
    workers: int = dataclasses.field(default_factory=default_workers)  # processes on this machine
    ray_address: str | None = None  # of a running cluster, which has its own number of workers; None: start one here


LOCAL = Engine()
