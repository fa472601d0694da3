"""A user's mistake ends a command with one line and exit code 1; a bug keeps its traceback."""

import contextlib
import pathlib
import re
import traceback
from collections.abc import Iterator

from cxr.interrupts import sigterm_as_interrupt

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Run a command; make `error: ...` and exit code 1 of what the user can mend.

    That is what the system refuses (OSError: no such file, disk full), a missing optional package, and every ValueError
    and RuntimeError that this project itself raises. The same errors out of a library's depths are bugs and pass.
    SIGTERM ends a command as Ctrl-C does.
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
        if not _raised_here(error):
            raise
        raise SystemExit(f"error: {error}") from error
    except Exception as error:
        if type(error).__name__ == "DataLossError":  # TensorFlow's, of a record whose checksum is wrong
            text = f"a record is damaged ({' '.join(str(error).split())[:200]}). Run build_dataset.py again, or, of "
            raise SystemExit(f"error: {text}features, delete their folder: they are extracted again") from error
        if not _refused_by_a_store(error):
            raise
        raise SystemExit(f"error: {' '.join(str(error).split())}") from error


def _raised_here(error: BaseException) -> bool:
    """Whether the innermost frame of an error, perhaps of a worker process, is code of this project."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    frames += re.findall(
        r'^  File "(.*?)", line', getattr(error.__cause__, "tb", ""), re.MULTILINE
    )  # a worker's, as text
    return pathlib.Path(frames[-1]).resolve().is_relative_to(ROOT) and "site-packages" not in frames[-1]


def _refused_by_a_store(error: BaseException) -> bool:
    """Whether TensorFlow's file layer raised it: what `gs://` refuses, as the system does local files by OSError."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.endswith("tensorflow/python/lib/io/file_io.py")
