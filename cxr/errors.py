"""Errors that a user can fix end a command with one line and exit code 1; bugs keep their traceback."""

import contextlib
import pathlib
import re
import traceback
from collections.abc import Iterator

from cxr.interrupts import sigterm_as_interrupt

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Run a command; an error that the user can fix becomes one line, `error: ...`, and exit code 1.

    Such errors are those of the system (OSError: no such file, disk full), a missing optional package, and every
    ValueError and RuntimeError that this project raises. A ValueError from inside a library is a bug and passes.
    SIGTERM ends a command like Ctrl-C.
    """
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt:
        raise SystemExit("interrupted; nothing is lost but the work since the last file was written") from None
    except MemoryError as error:
        text = "out of memory. What is finished is kept: run the same command again, with fewer --workers"
        raise SystemExit(f"error: {text}") from error
    except (OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    except (ValueError, RuntimeError) as error:
        if not _raised_by_this_project(error):
            raise
        raise SystemExit(f"error: {error}") from error
    except Exception as error:
        line = " ".join(str(error).split())
        if type(error).__name__ == "DataLossError":  # from TensorFlow: the checksum of a record is wrong
            text = f"a record is damaged ({line[:200]}). Run build_dataset.py again; if it is a record of features, "
            raise SystemExit(f"error: {text}delete their folder: they are extracted again") from error
        if not _raised_by_an_object_store(error):
            raise
        raise SystemExit(f"error: {line}") from error


def _raised_by_this_project(error: BaseException) -> bool:
    """Whether the innermost frame of an error is code of this project, in this process or in a worker."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    worker_traceback = getattr(error.__cause__, "tb", "")  # text
    frames += re.findall(r'^  File "(.*?)", line', worker_traceback, re.MULTILINE)
    return pathlib.Path(frames[-1]).resolve().is_relative_to(ROOT) and "site-packages" not in frames[-1]


def _raised_by_an_object_store(error: BaseException) -> bool:
    """Whether TensorFlow's file layer raised the error, which is what `gs://` paths have in place of OSError."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.endswith("tensorflow/python/lib/io/file_io.py")
