"""The database of a search: Optuna's tables, in a file or on a server that machines share."""

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

ATTEMPTS = 5  # at the tables, half a second apart
PATIENCE = 30.0  # seconds after which there is no other attempt: what was waited for so long is locked or out of reach


def import_optuna():
    """Optuna, quiet; ImportError with the command that installs it."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError("searching needs Optuna. Run: pip install -r requirements-search.txt") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Make a ValueError of one line of whatever the database refuses."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(
            f"the database of the study refuses: {reason}. See that --storage is right and it can be reached; "
            "the same command goes on where this one stopped"
        ) from error


def open_tables(url: str) -> "optuna.storages.RDBStorage":
    """The tables of a database, made where there are none.

    Machines that begin at the same moment each make what the others are making; those that are refused for it find it
    made when they try again.

    Raises:
        ImportError: the driver of the database is not installed.
    """
    from sqlalchemy.exc import DBAPIError

    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    make = functools.partial(import_optuna().storages.RDBStorage, url, engine_kwargs=options)
    attempts_left, deadline = ATTEMPTS, time.monotonic() + PATIENCE
    try:
        while True:
            try:
                return make()
            except DBAPIError:
                attempts_left -= 1
                if not attempts_left or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)
    except ImportError as error:
        raise ImportError(
            f"--storage needs the driver of its database ({error.__cause__}). Install it, for postgresql+psycopg:// "
            'with: pip install "psycopg[binary]"'
        ) from error
