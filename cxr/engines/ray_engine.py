"""The Ray engine: jobs run as tasks of a Ray cluster, a running one or one that is started here."""

import contextlib
import itertools
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

from cxr import interrupts
from cxr.engines.engine import Engine, Job, Result
from cxr.errors import ROOT

RETRIES = 3  # how often a job runs again after its worker or machine is lost
GRACE = 1.0  # seconds in which jobs may end by themselves before they are cancelled
END_WAIT = 10.0  # seconds to wait for cancelled jobs; a machine may no longer answer


def run_ray(
    function: Callable[[Job], Result], jobs: list[Job], engine: Engine, *, accelerated: bool
) -> Iterator[Result]:
    """Map a function over jobs on a Ray cluster; results in order of completion.

    Every machine needs this project, its libraries and the data under the same paths. At most two jobs per core are
    submitted at once. The jobs of a lost worker or machine run again elsewhere. When the generator ends early (an
    error, Ctrl-C, SIGTERM, `close`), the workers of its jobs are killed before it returns, as in `run_local`.

    Args:
        accelerated: each job gets a GPU or, in a cluster without GPUs, all cores of a machine.

    Raises:
        RuntimeError: one job lost its worker more than RETRIES times.
        Everything that the function raises.
    """
    if not jobs:
        return
    with ray_session(engine) as ray:
        task = ray.remote(_in_folder).options(max_retries=RETRIES, **_resources(ray, accelerated))
        here, waiting, running = str(pathlib.Path.cwd()), iter(jobs), []
        try:
            while True:
                limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 0)))  # machines may join or leave
                free = max(0, limit - len(running))
                with interrupts.held():  # every started task must be in `running`
                    running += [task.remote(here, function, job) for job in itertools.islice(waiting, free)]
                if not running:
                    return
                done, running = ray.wait(running)
                yield _result(ray, done[0])
        finally:
            _end_tasks(ray, running)


def _end_tasks(ray, running: list) -> None:
    """Kill the workers of tasks and wait until they have ended; a second Ctrl-C does not interrupt this.

    Ray 2.60 aborts this process, with a stack trace, if a task ends just as it is cancelled (a race like that of its
    pull request 54798). So short tasks are left to end by themselves.
    """
    with interrupts.held():
        if running:
            _, running = ray.wait(running, num_returns=len(running), timeout=GRACE)
        if running:
            for reference in running:
                ray.cancel(reference, force=True)
            ray.wait(running, num_returns=len(running), timeout=END_WAIT)


@contextlib.contextmanager
def ray_session(engine: Engine) -> Iterator:
    """The ray module, connected to a cluster inside the block; nested sessions share the cluster.

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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a hospital must not send usage statistics
    try:
        with interrupts.handlers_kept():  # Ray's SIGTERM handler ends this process without a message
            ray.init(
                engine.ray_address or "local",
                log_to_driver=False,
                logging_level="warning",
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},  # where workers find this project
                **options,
            )
    except SystemExit as error:  # from Ray's SIGTERM handler, which is active while Ray starts
        raise KeyboardInterrupt from error
    except Exception as error:  # Ray has no narrower error for a machine that is too busy to start it in time
        raise RuntimeError(
            f"Ray did not start ({error}). Run the same command again, or without --engine ray"
        ) from error
    try:
        yield ray
    finally:
        with interrupts.held():
            ray.shutdown()


def _require_reachable(address: str) -> None:
    """Raise ConnectionError if no server listens at HOST:PORT: Ray itself would retry for minutes."""
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


def _resources(ray, accelerated: bool) -> dict[str, float]:
    """The resources that Ray reserves for one job."""
    if not accelerated:
        return {"num_cpus": 1}
    if ray.cluster_resources().get("GPU"):
        return {"num_cpus": 1, "num_gpus": 1}
    cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return {"num_cpus": min(filter(None, cores), default=1)}


def _in_folder(folder: str, function: Callable[[Job], Result], job: Job) -> Result:
    """Run a job in the folder of the process that submitted it, so that relative paths mean the same."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise OSError(
            f"{folder} is not on {socket.gethostname()} ({error.strerror}): every machine of a Ray cluster needs "
            "this project and its data under the same paths"
        ) from error
    return function(job)


def _result(ray, reference) -> object:
    """The result of a Ray task; the exception of a failed task is raised here."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        error.tb = str(error)  # the traceback of the worker, for one_line_errors
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"one job lost its Ray worker {RETRIES + 1} times, most often for lack of memory "
            f"({type(error).__name__}). What is finished is kept: run the same command again, with fewer --workers"
        ) from error
