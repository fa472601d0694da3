"""The choice of where jobs run."""

import dataclasses
import os
from typing import TypeVar

NAMES = ("local", "ray")
Job = TypeVar("Job")
Result = TypeVar("Result")


def default_workers() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where jobs run."""

    name: str = "local"  # one of NAMES
    workers: int = dataclasses.field(default_factory=default_workers)  # processes on this machine
    ray_address: str | None = None  # a running cluster, which ignores `workers`; None: start one on this machine


LOCAL = Engine()
