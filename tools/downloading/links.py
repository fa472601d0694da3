"""The list of files to download, and the checks that a file is the listed one."""

import csv
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cxr import storage

COLUMNS = ("name", "bytes", "checksum", "url")
SUMS = "SHA256SUMS"  # in the format of `sha256sum -c SHA256SUMS`
CHECKSUM = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
# Links of the twelve parts: NIH's batch_download_zips.py. Their MD5s: NIH's FAQ_CHESTXRAY.pdf, question 7. Many public
# projects repeat both (PyHealth's chestxray14.py, Apache Teaclave's CheXNet example). Sizes: recorded from NIH's server
# by two projects that share no code. Links of the four small files: at least two projects each. Their SHA-256: one
# project, confirmed from re-uploads, which differ from NIH's files only in a column name ("Patient Gender" for "Patient
# Sex") and in the line end after the last line of the lists.
NIH = Path(__file__).with_name("nih_links.csv")


class Link(NamedTuple):
    """One file of a release and its URL."""

    name: str
    url: str
    bytes: int | None = None
    checksum: str = ""  # "md5:<hex>" or "sha256:<hex>"


class MismatchError(Exception):
    """The bytes are not those of the listed file."""


def read_links(path: Path) -> list[Link]:
    """Read a list of links: a CSV with the columns name, bytes, checksum and url; bytes and checksum may be empty.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an absent column, an invalid cell (with its line), a name that appears twice, or no rows.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no list of links {path}; expected a CSV with the columns {','.join(COLUMNS)}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if absent := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} has no column {absent[0]}; expected {','.join(COLUMNS)}")
        links = [_parse({key: row[key] or "" for key in COLUMNS}, f"{path}, line {reader.line_num}") for row in reader]
    names = [link.name.lower() for link in links]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} names {twice[0]} twice")
    if not links:
        raise ValueError(f"{path} lists no file")
    return links


def _parse(cell: dict[str, str], where: str) -> Link:
    name, size, checksum, url = (cell[column].strip() for column in COLUMNS)
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or name.endswith(
        storage.PARTIAL
    ):  # the list may come from anyone
        raise ValueError(f"{where}: name {name!r}; expected a plain file name without a folder")
    if size and not (size.isdecimal() and int(size)):
        raise ValueError(f"{where}: bytes {size!r}; expected a whole number above 0, or nothing")
    if checksum and not CHECKSUM.fullmatch(checksum.lower()):
        raise ValueError(f"{where}: checksum {checksum!r}; expected md5:<32 digits>, sha256:<64 digits> or nothing")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{where}: url {url!r}; expected http:// or https://")
    return Link(name, url, int(size) if size else None, checksum.lower())


def check(path: Path, link: Link, *, sha256: str = "") -> str:
    """SHA-256 of a file that has the listed size and checksums; MismatchError if it has not."""
    size = path.stat().st_size
    if link.bytes is not None and size != link.bytes:
        raise MismatchError(f"{size:,} bytes, expected {link.bytes:,}")
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            for digest in digests.values():
                digest.update(piece)
    found = {name: digest.hexdigest() for name, digest in digests.items()}
    for expected in filter(None, (link.checksum, sha256 and f"sha256:{sha256}")):
        kind, value = expected.split(":")
        if found[kind] != value:
            raise MismatchError(f"{kind} {found[kind]}, expected {value}")
    if not (link.checksum or sha256) and link.name.endswith(".gz"):
        _check_gzip(path)
    return found["sha256"]


def _check_gzip(path: Path) -> None:
    """Read a gzip file to its end, where it has a checksum: the only check of a file without a listed checksum."""
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise MismatchError(f"not a complete gzip file ({error})") from error


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, from SHA256SUMS in the folder, {} without that file. ValueError names an invalid line."""
    path = folder / SUMS
    sums = {}
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), 1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if not match:
            raise ValueError(f"{path}, line {number}: expected a checksum and a name, as sha256sum writes them")
        sums[match[2]] = match[1].lower()
    return sums


def write_sums(folder: Path, sums: dict[str, str]) -> None:
    """Write SHA256SUMS, sorted by name."""
    lines: Iterable[str] = (f"{sums[name]}  {name}\n" for name in sorted(sums))
    storage.write_text(folder / SUMS, "".join(lines))
