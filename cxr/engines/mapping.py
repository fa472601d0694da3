"""Map one function over jobs on the chosen engine."""

import contextlib
from collections.abc import Callable, Iterator

from cxr.engines import local, ray_engine
from cxr.engines.engine import Engine, Job, Result


def run(
    function: Callable[[Job], Result], jobs: list[Job], engine: Engine, *, accelerated: bool = False
) -> Iterator[Result]:
    """Yield the results in order of completion; see `local.run_local` and `ray_engine.run_ray`."""
    if engine.name == "ray":
        return ray_engine.run_ray(function, jobs, engine, accelerated=accelerated)
    return local.run_local(function, jobs, workers=engine.workers)


def session(engine: Engine) -> contextlib.AbstractContextManager:
    """All maps inside the block share one start of the engine."""
    return ray_engine.ray_session(engine) if engine.name == "ray" else contextlib.nullcontext()
