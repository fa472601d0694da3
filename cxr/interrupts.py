"""Ctrl-C (SIGINT) and SIGTERM: both end a command, but never inside a block that must be completed."""

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the handlers of both signals when the block ends, whatever was installed inside."""
    if not _in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: installed by a library written in C


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Make SIGTERM (kill, systemd, SLURM at the end of a job's time) raise KeyboardInterrupt, like Ctrl-C."""
    with handlers_kept():
        if _in_main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Delay both signals until the block ends; processes started inside never receive them.

    A signal mask alone is not enough: if the main thread blocks a signal, the kernel delivers it to another thread, and
    Python still runs the handler in the main thread. Handlers alone are not enough: processes inherit only the mask.
    """
    if not _in_main_thread():
        yield
        return
    caught = []
    with handlers_kept():
        for number in SIGNALS:
            signal.signal(number, lambda number, _: caught.append(number))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in caught[:1]:
        signal.raise_signal(number)


def _in_main_thread() -> bool:
    """Whether this is the main thread, the only one that can install and run signal handlers."""
    return threading.current_thread() is threading.main_thread()
