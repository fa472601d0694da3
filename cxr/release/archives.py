"""What lies in a tar, a compressed tar or a zip. Nothing is ever extracted, so names and links in them are harmless."""

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

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")  # not "PK" alone: a tar begins with a member's name
ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_HEADER = 16 << 10  # bytes of long names or attributes beside a member's header, which tarfile reads at once
MAX_PADDING = 1 << 20  # bytes behind the end of a tar, which writers fill up to whole tapes
MAX_GROWTH, SLACK = 200, 1 << 30  # a compressed tar may inflate to 200 times its size and 1 GB; deflate knows 1,032
BESIDE = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error, EOFError)


def kind_of(path: epath.Path) -> str:
    """ "gzip", "zip" or "tar", by the first bytes: browsers unpack on the way and keep the name.

    Raises:
        ValueError: empty, or a web page saved in place of the archive.
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
def _damage_named(path: epath.Path, kind: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{path} is not a readable {kind} file: {error}. Download it again.") from error


def zip_members(path: epath.Path) -> Iterator[tuple[str, Location]]:
    """Yield (name, location) of every file in a zip, by its directory; members are later read in place."""
    with _damage_named(path, "zip"), path.open("rb") as file:
        try:
            members = zipfile.ZipFile(file).infolist()
            if min((member.header_offset for member in members), default=0) < 0:
                raise zipfile.BadZipFile("its directory points in front of it")
        except (NotImplementedError, ValueError, OverflowError, OSError) as error:  # a directory of nonsense
            raise zipfile.BadZipFile(str(error)) from error
    for member in members:
        if member.is_dir() or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            continue
        zipped = Zipped(member.compress_type, member.flag_bits, member.file_size, member.CRC)
        yield member.filename, Location(str(path), member.header_offset, member.compress_size, zipped)


class Header(tarfile.TarInfo):
    """A tar header that is believed less: tarfile takes a damaged one for the end, and reads any length it declares."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """Read a block of 512 bytes; only a block of zeros is the end."""
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf) or len(buf) != tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"damaged or cut off ({error})") from error
            raise
        if header.type in BESIDE and header.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Read the next header, long names and attributes included."""
        try:
            header = super().fromtarfile(archive)
        except (ValueError, LookupError, OverflowError, RecursionError) as error:  # attributes of nonsense
            raise tarfile.ReadError(f"damaged header ({error})") from error
        if header.size < 0:  # by an attribute; tarfile would go back to where it was, for ever
            raise tarfile.ReadError(f"a member of {header.size:,} bytes")
        return header

    def _refuse_sparse(self, *_: object) -> None:
        raise tarfile.ReadError("it holds a file with holes; pack it again without --sparse")

    # Reading the map of a sparse file takes tarfile a time and memory that the archive's author chooses.
    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the plain files of an open tar; links, devices and folders are passed over."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # or it keeps every header it has seen
        if member.isreg():
            yield member


def _require_end(rest: int) -> None:
    if rest > MAX_PADDING:
        raise tarfile.ReadError(f"{rest:,} bytes follow its end: an unfinished download, or several tars in one file")


def tar_members(path: epath.Path) -> Iterator[tuple[str, Location]]:
    """Yield (name, location) of every file in a plain tar, by its headers; members are later read in place.

    Raises:
        ValueError: damaged or cut off anywhere between its members.
    """
    size = path.stat().length
    with (
        _damage_named(path, "tar"),
        path.open("rb") as file,
        tarfile.open(fileobj=file, mode="r:", tarinfo=Header) as archive,
    ):
        for member in _files(archive):
            if member.offset_data + member.size > size:
                raise ValueError(f"{path} is cut off inside {member.name!r}. Download it again.")
            yield member.name, Location(str(path), member.offset_data, member.size)
        _require_end(size - archive.offset)


class _Inflated(gzip.GzipFile):
    """A gzip file, read forward and not further than an honest one goes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._limit, self.total = MAX_GROWTH * size + SLACK, 0

    def read(self, size: int) -> bytes:
        data = super().read(size)
        self.total += len(data)
        if self.total > self._limit:
            raise tarfile.ReadError(f"a bomb: inflates to over {MAX_GROWTH} times its size")
        return data


def stream_members(path: epath.Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yield (name, size, a function that reads it) of every file in a compressed tar, which is read once.

    A member can be read until the next one is asked for; one that is not read is skipped.

    Raises:
        ValueError: damaged, cut off, or a bomb; its CRC is checked at the end. Reading a member may raise it too.
    """
    with (
        _damage_named(path, "tar.gz"),
        path.open("rb") as file,
        _Inflated(file, path.stat().length) as inflated,
        tarfile.open(fileobj=inflated, mode="r|", bufsize=1 << 20, tarinfo=Header) as archive,
    ):
        for member in _files(archive):
            yield member.name, member.size, functools.partial(_extract, path, archive, member)
        while inflated.read(1 << 20):  # up to the CRC
            _require_end(inflated.total - archive.offset)


def _extract(path: epath.Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _damage_named(path, "tar.gz"):
        return archive.extractfile(member).read()
