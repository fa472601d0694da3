"""One file over HTTP, whole or not at all: resumed where it stopped, retried, checked before it takes its name."""

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
from tools.downloading.links import Link, Spoiled, check

PIECE = 256 * 1024  # bytes read from the network at a time: the most that a dropped connection can cost
LONGEST_PAUSE = 60.0  # seconds between two attempts, unless the server asks for more
LONGEST_WAIT = 900.0  # seconds a server may ask for before the user is told to come back instead
BUSY = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that pass
AGAIN = "run the same command again to go on from there"


class Patience(NamedTuple):
    """How long to bear with a server that fails."""

    attempts: int = 8  # in a row without one new byte
    pause: float = 1.0  # seconds before the second attempt; before each later one twice as long
    timeout: float = 60.0  # seconds of silence after which a connection counts as dropped


class Dropped(Exception):
    """The attempt ended early, but what has come is good."""

    def __init__(self, reason: str, asked: float = 0.0):
        super().__init__(reason)
        self.asked = asked  # seconds that the server asks to wait


class Answer(NamedTuple):
    """What the status and headers of a response say."""

    start: int  # at which byte of the file its body begins
    total: int | None  # bytes of the whole file
    tag: str  # another for every version of the file; "" unknown


class Partial:
    """NAME.partial, the part of a file that is here, and NAME.partial.tag, the version on the server it is of."""

    def __init__(self, target: Path):
        self.target = target
        self.path = target.with_name(target.name + storage.PARTIAL)
        self.tag_path = self.path.with_name(self.path.name + ".tag")

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def tag(self) -> str:
        return self.tag_path.read_text() if self.tag_path.exists() else ""

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.tag_path.unlink(missing_ok=True)

    def finish(self) -> None:
        self.path.replace(self.target)
        self.tag_path.unlink(missing_ok=True)


def fetch(
    link: Link,
    folder: Path,
    *,
    sha256: str = "",
    patience: Patience = Patience(),  # noqa: B008 -- it cannot be changed
    progress: Callable[[int], object] = lambda present: None,
    tell: Callable[[str], object] = print,
) -> str:
    """Download one file into a folder, going on from what an earlier call left there.

    Args:
        sha256: hexadecimal, where it is known besides the checksum of the link.
        progress: called with the number of the file's bytes that are here.
        tell: called with a line about each failed attempt.

    Returns:
        The file's SHA-256. The file takes its name only when its size and every known checksum are right.

    Raises:
        OSError: refused or given up, with what to do. Good bytes stay for the next call.
    """
    partial, failures, spoiled = Partial(folder / link.name), 0, False
    most = partial.bytes
    while True:
        try:
            _receive(link, partial, provable=bool(link.checksum or sha256), timeout=patience.timeout, progress=progress)
            digest = check(partial.path, link, sha256=sha256)
            partial.finish()
            return digest
        except Spoiled as error:
            partial.discard()
            if spoiled:
                raise OSError(f"{link.name}: {error}, the second time too. Is {link.url} still its link?") from error
            spoiled = True
            tell(f"{link.name}: {error}; beginning anew")
        except Dropped as error:
            failures, most = 1 if partial.bytes > most else failures + 1, max(most, partial.bytes)
            pause = max(error.asked, min(LONGEST_PAUSE, patience.pause * 2 ** (failures - 1)))
            if failures >= patience.attempts or pause > LONGEST_WAIT:
                raise OSError(f"{link.name}: {error}. {partial.bytes:,} bytes are here; {AGAIN}") from error
            tell(f"{link.name}: {error}; again in {pause:.1f} s")
            time.sleep(pause)


def _receive(
    link: Link, partial: Partial, *, provable: bool, timeout: float, progress: Callable[[int], object]
) -> None:
    """One request, for the bytes that are missing."""
    import requests
    import urllib3

    if not (partial.tag or provable) or partial.bytes > (link.bytes or partial.bytes):
        partial.discard()  # nothing could tell whether the rest would be of the same file
    if partial.bytes and partial.bytes == link.bytes:
        return  # killed between the last byte and the renaming
    headers = {"Accept-Encoding": "identity"}  # else a server may pack the file once more, and sizes lose their meaning
    if partial.bytes:
        headers |= {"Range": f"bytes={partial.bytes}-"} | ({"If-Range": partial.tag} if partial.tag else {})
    try:
        with requests.get(link.url, headers=headers, stream=True, timeout=(min(timeout, 20), timeout)) as response:
            answer = _understand(response, link, partial)
            _append(response.raw.stream(PIECE, decode_content=False), answer, link, partial, progress)
    except (requests.exceptions.SSLError, requests.exceptions.InvalidURL, requests.TooManyRedirects) as error:
        raise OSError(f"{link.name}: {error}") from error
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise Dropped(f"connection failed ({_innermost(error)})") from error


def _innermost(error: BaseException) -> str:
    """What lies below the layers of an HTTP library, as a few words."""
    while inner := next((e for e in (getattr(error, "reason", 0), *error.args) if isinstance(e, Exception)), None):
        error = inner
    return str(error).rsplit(": ", 1)[-1] or type(error).__name__


def _understand(response, link: Link, partial: Partial) -> Answer:
    """Raises Dropped where waiting may help, OSError where it will not, Spoiled where the rest is of another file."""
    status, headers = response.status_code, response.headers
    if status in BUSY:
        asked = _seconds(headers.get("Retry-After", ""))
        wait = f" and asks to wait {asked:,.0f} s" if asked else ""
        raise Dropped(f"the server answers {status} {response.reason}{wait}", asked)
    if status == 416:
        raise Spoiled(f"the server's file ends before byte {partial.bytes:,}")
    if status not in (200, 206):
        raise OSError(f"{link.name}: the server answers {status} {response.reason} for {link.url}")
    tag = headers.get("ETag", "")
    tag = headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag  # weak tags promise no bytes
    length = headers.get("Content-Length", "")
    if status == 200:
        return Answer(0, int(length) if length.isdecimal() else None, tag)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    if not span or int(span[1]) != partial.bytes or (partial.tag and tag not in ("", partial.tag)):
        raise Spoiled("the server sent a part of another file than the one begun")
    return Answer(partial.bytes, int(span[2]), tag)


def _seconds(text: str) -> float:
    """Retry-After, in seconds or as a date; 0 where there is none."""
    if text.isdecimal():
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        moment = email.utils.parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())
    return 0.0


def _append(
    pieces: Iterator[bytes], answer: Answer, link: Link, partial: Partial, progress: Callable[[int], object]
) -> None:
    """Write the body of an answer behind what is here."""
    first, folder = next(pieces, b""), partial.path.parent
    if answer.start == 0 and first.lstrip()[:1] == b"<":  # seen before a login page overwrites what is here
        raise OSError(
            f"{link.name}: got a web page (a login or an error) instead of the file. Look at {link.url} in a browser; "
            f"a file saved by hand as {partial.target} is checked and used"
        )
    if link.bytes and answer.total not in (None, link.bytes):
        raise Spoiled(f"the server has {answer.total:,} bytes, expected {link.bytes:,}")
    if answer.start == 0:
        partial.discard()
        storage.write_text(partial.tag_path, answer.tag)
    size, present = link.bytes or answer.total, answer.start
    if size and size - present > (free := shutil.disk_usage(folder).free):
        raise OSError(f"{link.name} needs {size - present:,} more bytes, but {free:,} are free in {folder}; make room")
    try:
        with partial.path.open("ab") as file:
            for piece in itertools.chain([first], pieces):
                file.write(piece)
                present += len(piece)
                progress(present)
                if size and present > size:
                    raise Spoiled(f"more than {size:,} bytes")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in storage.DISK_FULL:
            raise
        raise OSError(f"{link.name}: no space left in {folder}. What is here is kept; make room and {AGAIN}") from error
    if size and present < size:
        raise Dropped(f"the server stopped at byte {present:,} of {size:,}")
