"""Files that appear whole or not at all. Every byte of a dataset is read and written through here.

Paths may be local or `gs://`: pass strings or `etils.epath.Path`, never `pathlib.Path`, which makes `gs:/` of `gs://`.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from typing import IO

from etils import epath

PARTIAL = ".partial"  # ending of a file still being written; safe to delete when nobody writes
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # Lustre without -o flock, NFS without its lock daemon
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or this user's share of it


@contextlib.contextmanager
def whole_file(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its name only when the block ends without an error.

    The data is on the disk (fsync) before the name is, so a power cut cannot leave an empty file under it. Until then
    it has a name that no other process writes to, not even one that was thought dead and goes on with the same shard.
    On an object store a file appears when it is closed, whole or not, so there too it must not bear its name before;
    renaming is a copy inside the store, after which the reader sees all of it.

    Raises:
        OSError: what the system refuses, with the file's name; of a full disk also what to do.
    """
    path = epath.Path(path)
    partial = path.parent / f"{path.name}.{secrets.token_hex(4)}{PARTIAL}"
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if hasattr(file, "fileno"):  # object stores have no descriptors
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(Exception):  # the first error says more than one of cleaning up after it
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            text = f"{error.strerror}; make room and run the same command again, finished files are kept"
            raise OSError(error.errno, text, str(path)) from error
        raise


def write_text(path: epath.PathLike, text: str) -> None:
    """Write a UTF-8 text file: a reader sees the old one or the new one, never half of one."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: epath.PathLike, value: object) -> None:
    """Write JSON, whole or not at all. nan must already be None: JSON has no word for it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: epath.PathLike) -> dict:
    """Read a JSON object; ValueError names the file when it is not one."""
    try:
        value = json.loads(epath.Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object {{...}}, not {type(value).__name__}")
    return value


def sha256_of(path: epath.PathLike) -> str:
    """Hexadecimal SHA-256 of a file, read in 1 MB pieces."""
    digest = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def exclusive(folder: epath.PathLike, doing: str) -> Iterator[None]:
    """Hold a local folder for one process; the system lets go by itself when the process dies.

    Raises:
        ValueError: another process holds it. Object stores and some file systems have no locks: there nothing is held.
        ImportError: this is Windows.
    """
    folder = epath.Path(folder)
    if "://" in str(folder):
        yield
        return
    try:
        import fcntl
    except ImportError as error:
        raise ImportError("locking a folder needs Linux, macOS or another POSIX system; on Windows use WSL") from error
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is {doing} {folder}; wait for it or choose another folder") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
