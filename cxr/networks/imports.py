"""Import TensorFlow and Keras in half the time, and silently."""

import contextlib
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

# Keras imports these libraries where they are installed, for wrappers and pictures that nothing here uses.
UNUSED_BY_KERAS = ("cv2", "matplotlib", "pandas", "sklearn")


def import_tensorflow() -> None:
    """Import TensorFlow and Keras, without what they import only because it is installed; does nothing the second time.

    Later imports of the libraries left out succeed as always. The garbage collector waits meanwhile, and from then on
    skips the million objects that the import has made.
    """
    if "tensorflow" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        with absent(UNUSED_BY_KERAS), silent():
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


@contextlib.contextmanager
def absent(libraries: tuple[str, ...]) -> Iterator[None]:
    """Let libraries that have not been imported yet appear not to be installed."""
    hidden = [name for name in libraries if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None stands for a module that is not there
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Show what is written to standard error only if an exception follows.

    TensorFlow 2.21 greets every process with six lines about its build, which no variable turns off.
    """
    if sys.stderr is None:  # closed
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            written.seek(0)
            with open(terminal, "wb", closefd=False) as shown:
                shutil.copyfileobj(written, shown)
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
