"""Download one file over HTTP: resumed, retried, and checked before it gets its final name."""

import contextlib
import datetime
import email.utils
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cxr import storage
from tools.downloading.links import Link, MismatchError, check
from tools.downloading.partial import Partial

PIECE = 256 * 1024  # bytes per read from the network; a dropped connection loses at most these
MAX_PAUSE = 60.0  # seconds between two attempts, unless the server requests more
MAX_REQUESTED_PAUSE = 900.0  # seconds that a server may request; a longer pause is an error
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that justify another attempt
RESUME_HINT = "run the same command again to resume"


class RetryPolicy(NamedTuple):
    """How often and how long to retry a failing server."""

    attempts: int = 8  # consecutive attempts without a new byte
    pause: float = 1.0  # seconds before the second attempt; doubled before each later one
    timeout: float = 60.0  # seconds without data after which a connection counts as dropped


class DroppedError(Exception):
    """An attempt ended early; the bytes received so far are good."""

    def __init__(self, reason: str, requested_pause: float = 0.0):
        super().__init__(reason)
        self.requested_pause = requested_pause  # seconds, by the server


class Answer(NamedTuple):
    """The status and headers of a response, parsed."""

    start: int  # position of the body in the file, in bytes
    total: int | None  # bytes of the whole file
    tag: str  # identifies the version of the file; "" unknown


def fetch(
    link: Link,
    folder: Path,
    *,
    sha256: str = "",
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 -- it is immutable
    progress: Callable[[int], object] = lambda present: None,
    log: Callable[[str], object] = print,
) -> str:
    """Download one file into a folder, resuming from the bytes of an earlier call.

    Args:
        sha256: hexadecimal; checked in addition to the checksum of the link.
        progress: called with the number of bytes downloaded so far.
        log: called with a line about each failed attempt.

    Returns:
        The SHA-256 of the file. The file gets its name only after its size and every known checksum are right.

    Raises:
        OSError: the server refused, or all attempts failed. Good bytes are kept for the next call.
    """
    partial = Partial(folder / link.name)
    most_bytes = partial.bytes
    failures = 0
    had_mismatch = False
    while True:
        try:
            has_checksum = bool(link.checksum or sha256)
            _receive(link, partial, has_checksum=has_checksum, timeout=retry.timeout, progress=progress)
            digest = check(partial.path, link, sha256=sha256)
            partial.finish()
            return digest
        except MismatchError as error:
            partial.discard()
            if had_mismatch:
                raise OSError(f"{link.name}: {error}, in two attempts. Is {link.url} still its link?") from error
            had_mismatch = True
            log(f"{link.name}: {error}; starting from scratch")
        except DroppedError as error:
            failures = 1 if partial.bytes > most_bytes else failures + 1
            most_bytes = max(most_bytes, partial.bytes)
            pause = max(error.requested_pause, min(MAX_PAUSE, retry.pause * 2 ** (failures - 1)))
            if failures >= retry.attempts or pause > MAX_REQUESTED_PAUSE:
                raise OSError(f"{link.name}: {error}. {partial.bytes:,} bytes are kept; {RESUME_HINT}") from error
            log(f"{link.name}: {error}; next attempt in {pause:.1f} s")
            time.sleep(pause)


def _receive(
    link: Link, partial: Partial, *, has_checksum: bool, timeout: float, progress: Callable[[int], object]
) -> None:
    """Request the missing bytes once."""
    import requests
    import urllib3

    if not (partial.tag or has_checksum) or partial.bytes > (link.bytes or partial.bytes):
        partial.discard()  # nothing could show that the rest belongs to the same version of the file
    if partial.bytes and partial.bytes == link.bytes:
        return  # an earlier run was killed after the last byte
    headers = {"Accept-Encoding": "identity"}  # a server could compress the file, and sizes would not match
    if partial.bytes:
        headers |= {"Range": f"bytes={partial.bytes}-"} | ({"If-Range": partial.tag} if partial.tag else {})
    try:
        with requests.get(link.url, headers=headers, stream=True, timeout=(min(timeout, 20), timeout)) as response:
            answer = _parse_answer(response, link, partial)
            _append(response.raw.stream(PIECE, decode_content=False), answer, link, partial, progress)
    except (requests.exceptions.SSLError, requests.exceptions.InvalidURL, requests.TooManyRedirects) as error:
        raise OSError(f"{link.name}: {error}") from error
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise DroppedError(f"connection failed ({_innermost(error)})") from error


def _innermost(error: BaseException) -> str:
    """The innermost error of an HTTP library, in a few words."""
    while inner := next((e for e in (getattr(error, "reason", 0), *error.args) if isinstance(e, Exception)), None):
        error = inner
    return str(error).rsplit(": ", 1)[-1] or type(error).__name__


def _parse_answer(response, link: Link, partial: Partial) -> Answer:
    """Raises DroppedError for a temporary failure, OSError for a permanent one, MismatchError for another file."""
    status, headers = response.status_code, response.headers
    if status in TEMPORARY:
        pause = _seconds(headers.get("Retry-After", ""))
        request = f" and requests a pause of {pause:,.0f} s" if pause else ""
        raise DroppedError(f"the server answers {status} {response.reason}{request}", pause)
    if status == 416:
        raise MismatchError(f"the server's file ends before byte {partial.bytes:,}")
    if status not in (200, 206):
        raise OSError(f"{link.name}: the server answers {status} {response.reason} for {link.url}")
    tag = headers.get("ETag", "")
    tag = (
        headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    )  # weak tags do not guarantee equal bytes
    length = headers.get("Content-Length", "")
    if status == 200:
        return Answer(0, int(length) if length.isdecimal() else None, tag)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    if not span or int(span[1]) != partial.bytes or (partial.tag and tag not in ("", partial.tag)):
        raise MismatchError("the server sent a part of another version of the file")
    return Answer(partial.bytes, int(span[2]), tag)


def _seconds(text: str) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 for an empty or invalid one."""
    if text.isdecimal():
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        moment = email.utils.parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())
    return 0.0


def _append(
    pieces: Iterator[bytes], answer: Answer, link: Link, partial: Partial, progress: Callable[[int], object]
) -> None:
    """Append the body of an answer to the partial file."""
    first, folder = next(pieces, b""), partial.path.parent
    if answer.start == 0 and first.lstrip()[:1] == b"<":  # checked before a login page replaces the partial file
        raise OSError(
            f"{link.name}: got a web page (a login or an error) instead of the file. Look at {link.url} in a browser; "
            f"a file saved by hand as {partial.target} is checked and used"
        )
    if link.bytes and answer.total not in (None, link.bytes):
        raise MismatchError(f"the server has {answer.total:,} bytes, expected {link.bytes:,}")
    if answer.start == 0:
        partial.discard()
        storage.write_text(partial.tag_path, answer.tag)
    size = link.bytes or answer.total
    present = answer.start
    if size and size - present > (free := shutil.disk_usage(folder).free):
        raise OSError(f"{link.name} needs {size - present:,} more bytes, but {free:,} are free in {folder}; make room")
    try:
        with partial.path.open("ab") as file:
            for piece in itertools.chain([first], pieces):
                file.write(piece)
                present += len(piece)
                progress(present)
                if size and present > size:
                    raise MismatchError(f"more than {size:,} bytes")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if not storage.is_disk_full(error):
            raise
        text = f"no space left in {folder}. The partial file is kept; make room and {RESUME_HINT}"
        raise OSError(f"{link.name}: {text}") from error
    if size and present < size:
        raise DroppedError(f"the server stopped at byte {present:,} of {size:,}")
