"""The Ray engine: jobs as tasks of a cluster, one started here or one that runs."""

import contextlib
import itertools
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

from cxr import interrupts
from cxr.engines.engine import Engine, Job, Result
from cxr.errors import ROOT

RETRIES = 3  # of a job whose worker or machine is lost
END_WAIT = 10.0  # seconds for cancelled jobs to end; a machine that does not answer is not waited for


def run_ray(
    function: Callable[[Job], Result], jobs: list[Job], engine: Engine, *, accelerated: bool
) -> Iterator[Result]:
    """Map a function over jobs on a Ray cluster; results in order of completion.

    Every machine needs this project, its libraries and the data under the same paths. Only two jobs a core are under
    way at once. A lost worker or machine costs the jobs it was at, which are done again elsewhere. When the generator
    ends early (an error, Ctrl-C, SIGTERM, `close`) the workers of its jobs are killed first, as in `run_local`.

    Args:
        accelerated: a job takes a GPU to itself or, in a cluster without, all cores of a machine.

    Raises:
        RuntimeError: one job lost its worker again and again.
        and what the function raises.
    """
    if not jobs:
        return
    with ray_session(engine) as ray:
        task = ray.remote(_in_folder).options(max_retries=RETRIES, **_share(ray, accelerated))
        here, waiting, running = str(pathlib.Path.cwd()), iter(jobs), []
        try:
            while True:
                limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 0)))  # machines come and go
                free = max(0, limit - len(running))
                with interrupts.held():  # no task without its reference
                    running += [task.remote(here, function, job) for job in itertools.islice(waiting, free)]
                if not running:
                    return
                done, running = ray.wait(running)
                yield _result(ray, done[0])
        finally:
            _end_tasks(ray, running)


def _end_tasks(ray, running: list) -> None:
    """Kill the workers of tasks and wait until they are gone; a second Ctrl-C does not cut that short."""
    if not running:
        return
    with interrupts.held():
        for reference in running:
            ray.cancel(reference, force=True)
        ray.wait(running, num_returns=len(running), timeout=END_WAIT)


@contextlib.contextmanager
def ray_session(engine: Engine) -> Iterator:
    """The ray module, connected for the length of the block; within another session, to the same cluster.

    Raises:
        ImportError: ray is not installed.
        ConnectionError: no cluster answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("the Ray engine needs ray. Run: pip install -r requirements/ray.txt") from error
    if ray.is_initialized():
        yield ray
        return
    options = {"include_dashboard": False, "num_cpus": engine.workers, "object_store_memory": 128 << 20}  # bytes
    if engine.ray_address:
        _require_reachable(engine.ray_address)
        options = {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves a hospital unasked
    try:
        with interrupts.handlers_kept():  # Ray's own would end this process at a SIGTERM, without a word
            ray.init(
                engine.ray_address or "local",
                log_to_driver=False,
                logging_level="warning",
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},  # where workers find this project
                **options,
            )
    except SystemExit as error:  # of Ray's SIGTERM handler, which is in place while it starts
        raise KeyboardInterrupt from error
    except Exception as error:  # Ray raises nothing more special when a machine is too busy to start it in time
        raise RuntimeError(
            f"Ray did not start ({error}). Run the same command again, or without --engine ray"
        ) from error
    try:
        yield ray
    finally:
        with interrupts.held():
            ray.shutdown()


def _require_reachable(address: str) -> None:
    """Raise ConnectionError when nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}); expected auto, HOST:PORT or ray://HOST:PORT. "
            "Start one: ray start --head --port 6379"
        ) from error


def _share(ray, accelerated: bool) -> dict[str, float]:
    """What one job takes of the cluster, as Ray's options."""
    if not accelerated:
        return {"num_cpus": 1}
    if ray.cluster_resources().get("GPU"):
        return {"num_cpus": 1, "num_gpus": 1}
    cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return {"num_cpus": min(filter(None, cores), default=1)}


def _in_folder(folder: str, function: Callable[[Job], Result], job: Job) -> Result:
    """Do a job where relative paths mean what they mean to the process that handed it out."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise OSError(
            f"{folder} is not on {socket.gethostname()} ({error.strerror}): every machine of a Ray cluster needs "
            "this project and its data under the same paths"
        ) from error
    return function(job)


def _result(ray, reference) -> object:
    """The result of a Ray task, or the exception it raised, as if it had been raised here."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        error.tb = str(error)  # the frames of the worker, where one_line_errors looks for them
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"one job lost its Ray worker {RETRIES + 1} times, most often for lack of memory "
            f"({type(error).__name__}). What is finished is kept: run the same command again, with fewer --workers"
        ) from error
