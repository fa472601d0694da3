"""Engines map one function over jobs and hand back the results as they come."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
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

    Only two jobs a worker are under way at once, so memory does not grow with their number.

    Raises:
        RuntimeError: a worker was killed (out of memory, most often); finished jobs keep their results.
    """
    waiting = iter(jobs)
    # Spawned, not forked: a fork of a process with threads (progress bar, TensorFlow) can hang.
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(workers, len(jobs)))
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        with _workers_ignore_interrupts():
            running = {pool.submit(function, job) for job in itertools.islice(waiting, 2 * workers)}
        try:
            while running:
                done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    running |= {pool.submit(function, job) for job in itertools.islice(waiting, 1)}
        except concurrent.futures.process.BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process was killed, most often for lack of memory. What is finished is kept: "
                "run the same command again, with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _workers_ignore_interrupts() -> Iterator[None]:
    """Processes started inside inherit it: Ctrl-C is for the one that started them, which then ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _end_with_parent() -> None:
    """Let a worker die with the process that started it: an orphan would go on writing into the folder."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
