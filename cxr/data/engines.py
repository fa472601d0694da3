"""Engines map one function over jobs and hand back the results as they come."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from cxr import interrupts

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


def add_flags(parser, doing: str) -> None:
    """Give an argparse parser the flags that choose an engine; `doing` is what runs there, for their help."""
    parser.add_argument("--engine", choices=NAMES, default="local", help=f"where {doing}; default: %(default)s")
    parser.add_argument(
        "--ray_address", metavar="A", help="of a running Ray cluster: auto, HOST:PORT; default: start one here"
    )


def check_flags(parser, args) -> None:
    """End with a bad flag where an address is given and nobody would go there."""
    if args.ray_address and args.engine != "ray":
        parser.error("--ray_address goes with --engine ray")


def run(
    function: Callable[[Job], Result], jobs: list[Job], engine: Engine, *, accelerated: bool = False
) -> Iterator[Result]:
    """Map a function over jobs on an engine; see `run_local` and `ray_engine.run_ray`."""
    if engine.name == "ray":
        from cxr.data import ray_engine

        return ray_engine.run_ray(function, jobs, engine, accelerated=accelerated)
    return run_local(function, jobs, workers=engine.workers)


def session(engine: Engine) -> contextlib.AbstractContextManager:
    """What is run inside shares one start of the engine."""
    if engine.name == "ray":
        from cxr.data import ray_engine

        return ray_engine.ray_session(engine)
    return contextlib.nullcontext()


def run_local(function: Callable[[Job], Result], jobs: list[Job], *, workers: int) -> Iterator[Result]:
    """Map a picklable function over jobs on local processes; results in order of completion.

    Only two jobs a worker are under way at once, so memory does not grow with their number. When the generator ends
    early (an error, Ctrl-C, SIGTERM, `close`) its workers are killed first: none writes after that. Jobs must
    therefore leave nothing half-written under a final name.

    Raises:
        RuntimeError: a worker was killed (out of memory, most often); finished jobs keep their results.
    """
    waiting = iter(jobs)
    # Spawned, not forked: a fork of a process with threads (progress bar, TensorFlow) can hang.
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(workers, len(jobs)))
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_end_with_parent)
    try:
        running = _submit(pool, function, itertools.islice(waiting, 2 * workers))
        while running:
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                yield future.result()
                running |= _submit(pool, function, itertools.islice(waiting, 1))
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process was killed, most often for lack of memory. What is finished is kept: "
            "run the same command again, with fewer --workers"
        ) from error
    finally:
        _end_workers(pool)


def _submit(pool: concurrent.futures.ProcessPoolExecutor, function: Callable, jobs: Iterator) -> set:
    """Hand jobs to a pool, which starts its workers on the way: Ctrl-C is for this process, which then ends them."""
    with interrupts.held():
        return {pool.submit(function, job) for job in jobs}


def _end_workers(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """Kill the workers of a pool and wait until none is left; a second Ctrl-C does not cut that short."""
    with interrupts.held():
        workers = list((pool._processes or {}).values())  # Python 3.14 has kill_workers(), which does not wait
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker die with the process that started it: an orphan would go on writing into the folder."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
