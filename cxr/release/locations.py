"""The location of the bytes of one image, and reading them in place from a file, a tar or a zip."""

import hashlib
import struct
import zlib
from typing import IO, NamedTuple

from etils import epath

from cxr.images.errors import ImageError

MAX_BYTES = 256 << 20  # bytes of one image file; raw DICOM of 5,000 x 5,000 pixels has 50 MB
STORED, DEFLATED = 0, 8  # compression methods of a zip (APPNOTE.TXT 4.4.5); other methods are rejected
ENCRYPTED = 1  # bit in the flags of a zip member


class Zipped(NamedTuple):
    """The entry of a member in the directory of a zip."""

    method: int
    flags: int
    size: int  # bytes when inflated
    crc: int


class Location(NamedTuple):
    """The bytes of one file: all of `path`, or `size` bytes from `offset` of a container."""

    path: str
    offset: int = 0  # for a zip member: the start of its local header
    size: int | None = None  # for a zip member: its compressed size
    zipped: Zipped | None = None


def read_bytes(location: Location) -> bytes:
    """The bytes of one image, never more than MAX_BYTES.

    Raises:
        ImageError: the image is too large, or damaged inside a zip.
        FileNotFoundError: the file was removed after the release was listed.
        ValueError: the container is shorter than when it was listed.
    """
    declared = location.zipped.size if location.zipped else location.size
    if max(declared or 0, location.size or 0) > MAX_BYTES:
        raise ImageError(too_large(declared))
    path = epath.Path(location.path)
    try:
        with path.open("rb") as file:
            if location.zipped:
                return _unzip(file, location.offset, location.size, location.zipped)
            if location.size is None:
                return _read_file(file, path)
            file.seek(location.offset)
            data = file.read(location.size)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} was removed while it was needed. Put it back and run the same command again: finished work is kept"
        ) from error
    if len(data) != location.size:
        raise ValueError(
            f"{path} ends inside an image: it was changed while reading. Restore it and run the same command again"
        )
    return data


def too_large(size: int) -> str:
    """The reason for rejecting an image of `size` bytes."""
    return f"{size:,} bytes, over the limit of {MAX_BYTES:,}"


def digest_of(location: Location) -> str:
    """SHA-256 of the bytes of an image, or of the reason why they cannot be read; equal for equal images."""
    try:
        return hashlib.sha256(read_bytes(location)).hexdigest()
    except ImageError as error:
        return hashlib.sha256(str(error).encode()).hexdigest()


def _read_file(file: IO[bytes], path: epath.Path) -> bytes:
    pieces = []
    size = 0
    while piece := file.read(1 << 20):  # in pieces: a file of an object store allocates the whole requested size
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            raise ImageError(too_large(path.stat().length))
    return b"".join(pieces)


def _unzip(file: IO[bytes], offset: int, size: int, zipped: Zipped) -> bytes:
    """Read one member of a zip and check it against the directory; a bomb inflates only to its declared size."""
    if zipped.flags & ENCRYPTED or zipped.method not in (STORED, DEFLATED):
        raise ImageError(
            "encrypted in its zip" if zipped.flags & ENCRYPTED else f"zipped by method {zipped.method}, not deflate"
        )
    file.seek(offset)
    header = file.read(30)  # signature, ..., length of the name, length of the extra field (APPNOTE.TXT 4.3.7)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ImageError("damaged in its zip: no header at the offset in the directory")
    file.seek(offset + 30 + sum(struct.unpack("<HH", header[26:])))
    data = file.read(size)
    if zipped.method == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, zipped.size + 1)
        except zlib.error as error:
            raise ImageError(f"damaged in its zip: {error}") from error
    if len(data) != zipped.size or zlib.crc32(data) != zipped.crc:
        raise ImageError("damaged in its zip: size or CRC differs from the directory")
    return data
