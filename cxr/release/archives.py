"""List and read the members of a tar, a compressed tar or a zip.

No member is ever extracted to disk, so names such as ../x.png and links cannot do harm.
"""

import contextlib
import functools
import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from etils import epath

from cxr.release.locations import Location, Zipped

ZIP_STARTS = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x07\x08",
)  # "PK" alone could be the name of a tar member
ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_HEADER = 16 << 10  # bytes of a long name or of attributes, which tarfile reads into memory at once
MAX_PADDING = 1 << 20  # bytes after the end of a tar; some writers pad to the block size of tapes
MAX_GROWTH = 200  # a compressed tar may inflate to 200 times its size (deflate reaches 1,032) ...
SLACK = 1 << 30  # ... plus 1 GB
EXTRA_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
DAMAGE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error, EOFError)


def kind_of(path: epath.Path) -> str:
    """ "gzip", "zip" or "tar", by the first bytes: a browser may decompress a download and keep its name.

    Raises:
        ValueError: the file is empty, or a web page that was saved in place of the archive.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError(f"{path} is empty. Download it again.")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise ValueError(f"{path} is a web page, not an archive: the server refused the download. Download it again.")
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zip" if start.startswith(ZIP_STARTS) or path.name.lower().endswith(".zip") else "tar"


@contextlib.contextmanager
def _damage_as_value_error(path: epath.Path, kind: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE_ERRORS as error:
        raise ValueError(f"{path} is not a readable {kind} file: {error}. Download it again.") from error


def zip_members(path: epath.Path) -> Iterator[tuple[str, Location]]:
    """Yield (name, location) of every file in the directory of a zip; members are read in place later."""
    with _damage_as_value_error(path, "zip"), path.open("rb") as file:
        try:
            members = zipfile.ZipFile(file).infolist()
            if min((member.header_offset for member in members), default=0) < 0:
                raise zipfile.BadZipFile("its directory points in front of it")
        except (NotImplementedError, ValueError, OverflowError, OSError) as error:  # a damaged directory
            raise zipfile.BadZipFile(str(error)) from error
    for member in members:
        if member.is_dir() or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            continue
        zipped = Zipped(member.compress_type, member.flag_bits, member.file_size, member.CRC)
        yield member.filename, Location(str(path), member.header_offset, member.compress_size, zipped)


class Header(tarfile.TarInfo):
    """A tar header with checks: tarfile takes a damaged header for the end, and reads any length that one declares."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """Read a block of 512 bytes; only a block of zeros ends the tar."""
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf) or len(buf) != tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"damaged or cut off ({error})") from error
            raise
        if header.type in EXTRA_HEADERS and header.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Read the next header with its long name and attributes."""
        try:
            header = super().fromtarfile(archive)
        except (ValueError, LookupError, OverflowError, RecursionError) as error:  # damaged attributes
            raise tarfile.ReadError(f"damaged header ({error})") from error
        if header.size < 0:  # set by an attribute; tarfile would seek back and loop forever
            raise tarfile.ReadError(f"a member of {header.size:,} bytes")
        return header

    def _reject_sparse(self, *_: object) -> None:
        raise tarfile.ReadError("it contains a sparse file; pack it again without --sparse")

    # The map of a sparse file can make tarfile use any amount of time and memory.
    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _reject_sparse


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the plain files of an open tar; links, devices and folders are skipped."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # otherwise it keeps every header in memory
        if member.isreg():
            yield member


def _require_short_padding(rest: int) -> None:
    if rest > MAX_PADDING:
        raise tarfile.ReadError(f"{rest:,} bytes follow its end: an unfinished download, or several tars in one file")


def tar_members(path: epath.Path) -> Iterator[tuple[str, Location]]:
    """Yield (name, location) of every file in a plain tar; members are read in place later.

    Raises:
        ValueError: a header is damaged, or the tar is cut off.
    """
    size = path.stat().length
    with (
        _damage_as_value_error(path, "tar"),
        path.open("rb") as file,
        tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as archive,
    ):
        for member in _files(archive):
            if member.offset_data + member.size > size:
                raise ValueError(f"{path} is cut off inside {member.name!r}. Download it again.")
            yield member.name, Location(str(path), member.offset_data, member.size)
        _require_short_padding(size - archive.offset)


class _LimitedGzip(gzip.GzipFile):
    """A gzip file that is read forward, up to the limit of a plausible size."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._limit = MAX_GROWTH * size + SLACK
        self.total = 0  # bytes read so far, inflated

    def read(self, size: int) -> bytes:
        data = super().read(size)
        self.total += len(data)
        if self.total > self._limit:
            raise tarfile.ReadError(f"a decompression bomb: inflates to over {MAX_GROWTH} times its size")
        return data


def stream_members(path: epath.Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yield (name, size, read) of every file in a compressed tar, in one pass from start to end.

    `read()` returns the bytes of a member. It works only until the next member is yielded.

    Raises:
        ValueError: damaged, cut off, or a decompression bomb; the CRC is checked at the end. `read` may raise it too.
    """
    with (
        _damage_as_value_error(path, "tar.gz"),
        path.open("rb") as file,
        _LimitedGzip(file, path.stat().length) as inflated,
        tarfile.open(fileobj=inflated, mode="r|", bufsize=1 << 20, tarinfo=Header) as archive,
    ):
        for member in _files(archive):
            yield member.name, member.size, functools.partial(_extract, path, archive, member)
        while inflated.read(1 << 20):  # up to the CRC
            _require_short_padding(inflated.total - archive.offset)


def _extract(path: epath.Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _damage_as_value_error(path, "tar.gz"):
        return archive.extractfile(member).read()
