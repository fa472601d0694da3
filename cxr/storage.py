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

PARTIAL = ".partial"  # ending of a file that is being written; safe to delete when no process writes
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # Lustre without -o flock, NFS without its lock daemon
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, or the quota of this user


@contextlib.contextmanager
def whole_file(path: epath.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its final name only when the block ends without an error.

    The data is on the disk (fsync) before the file is renamed, so a power cut cannot leave an empty file. Until then
    the file has a random name, so two processes never write to the same one, even if both write the same shard.
    An object store shows a file as soon as it is closed, complete or not. So the file is renamed there too: renaming is
    a copy inside the store, and readers see the old file or the whole new one.

    Raises:
        OSError: the system's error; for a full disk it also says what to do.
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
        with contextlib.suppress(Exception):  # an error of the clean-up must not hide the first one
            partial.unlink(missing_ok=True)
        if is_disk_full(error):
            text = f"{error.strerror}; make room and run the same command again, finished files are kept"
            raise OSError(error.errno, text, str(path)) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that there is no space left for this user."""
    return isinstance(error, OSError) and error.errno in DISK_FULL


def remove_partials(folder: epath.Path) -> None:
    """Delete the unfinished files of killed writers. The caller must have locked the folder."""
    for leftover in folder.glob("*" + PARTIAL) if folder.exists() else ():
        leftover.unlink(missing_ok=True)


def write_text(path: epath.PathLike, text: str) -> None:
    """Write a UTF-8 text file: a reader sees the old file or the new one, never half of one."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: epath.PathLike, value: object) -> None:
    """Write JSON, whole or not at all. ValueError for NaN, which JSON cannot hold: pass None instead."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: epath.PathLike) -> dict:
    """Read a JSON object; ValueError names a file that does not hold one."""
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
    """Lock a local folder for this process; the system releases the lock when the process ends.

    Object stores and some file systems have no locks: there the folder is not locked.

    Args:
        doing: what this process does with the folder, for the error of the other one: "building".

    Raises:
        ValueError: another process holds the lock.
        ImportError: this is Windows.
    """
    folder = epath.Path(folder)
    if "://" in str(folder):
        yield
        return
    with (folder / ".lock").open("w") as lock:
        try:
            locked = try_lock(lock.fileno())
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            locked = True
        if not locked:
            raise ValueError(f"another process is {doing} {folder}; wait for it or choose another folder")
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open local file, without waiting; False if another process holds the lock.

    The lock is free again when every process that has the file open has closed it.

    Raises:
        ImportError: this is Windows.
        OSError: the file system has no locks, or the lock fails.
    """
    try:
        import fcntl
    except ImportError as error:
        raise ImportError("locking a file needs Linux, macOS or another POSIX system; on Windows use WSL") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
