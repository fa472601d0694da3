"""The local engine: jobs run in processes on this machine."""

import concurrent.futures
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator

from cxr import interrupts
from cxr.engines.engine import Job, Result


def run_local(function: Callable[[Job], Result], jobs: list[Job], *, workers: int) -> Iterator[Result]:
    """Map a picklable function over jobs on local processes; results in order of completion.

    At most two jobs per worker are submitted at once, so memory does not grow with the number of jobs. When the
    generator ends early (an error, Ctrl-C, SIGTERM, `close`), all workers are killed before it returns, and none writes
    after that. So a job must write under a temporary name and rename the complete file.

    Raises:
        RuntimeError: a worker was killed, most often for lack of memory; the results of finished jobs were yielded.
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
    """Submit jobs to a pool. It may start workers here, which must not receive Ctrl-C: this process ends them."""
    with interrupts.held():
        return {pool.submit(function, job) for job in jobs}


def _end_workers(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """Kill the workers of a pool and wait until all have ended; a second Ctrl-C does not interrupt this."""
    with interrupts.held():
        workers = list((pool._processes or {}).values())  # kill_workers() of Python 3.14 does not wait
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        manager = pool._executor_manager_thread
        pool.shutdown(wait=False, cancel_futures=True)
        if manager is not None:
            # Python would wake it up at exit, over a pipe that it may just be closing. It can wait for a pipe that
            # nobody reads any more, so not without end.
            manager.join(timeout=5)


def _end_with_parent() -> None:
    """Make a worker exit when its parent process ends: an orphan would keep writing into the folder."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
