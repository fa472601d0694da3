"""A server process and its experiment, started once for all files that only ask it for answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import serving


@pytest.fixture(scope="session")
def seeded(built_dataset, tmp_path_factory) -> Path:
    """An untrained experiment with patient inputs and operating points. Read it, do not change it."""
    return serving.seeded_experiment(tmp_path_factory.mktemp("serve") / "seeded", built_dataset)


@pytest.fixture(scope="session")
def predictor(seeded):
    """The predictor of that experiment in this process."""
    from inference.predictor import Predictor

    return Predictor(seeded)


@pytest.fixture(scope="session")
def server(seeded, tmp_path_factory) -> Iterator:
    """A server process with that experiment."""
    yield from serving.serve(seeded, tmp_path_factory.mktemp("scratch"))
