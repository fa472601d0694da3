"""Ctrl-C (SIGINT) and SIGTERM: both end a command, and neither in the middle of a block that must be completed."""

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM (kill, systemd, SLURM at the end of a job's time) raise KeyboardInterrupt inside, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # only there are handlers installed and run
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold both signals back until the block ends; processes started inside never receive them.

    A mask alone does not do: the kernel hands a signal that the main thread blocks to any other thread, and Python then
    runs the handler in the main thread. Handlers alone do not either: only the mask is inherited by a new program.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = []
    handlers = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: installed by a library written in C
        for number in caught[:1]:
            signal.raise_signal(number)
