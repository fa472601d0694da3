import hashlib
import io
import random
import zipfile
import zlib

import pytest
from etils import epath

from cxr.images.errors import ImageError
from cxr.release import locations
from cxr.release.archives import zip_members
from cxr.release.locations import Location, digest_of, read_bytes

DATA = bytes(random.Random(230).choices(range(64), k=700))  # compressible by Huffman codes, with hardly any repetitions


@pytest.fixture
def zipped(tmp_path):
    """zipped(method): a zip of a.png and b.png, and the location of b.png in it."""

    def write(method=zipfile.ZIP_DEFLATED):
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.png", b"other")
            archive.writestr("images/b.png", DATA)
        return path, dict(zip_members(epath.Path(path)))["images/b.png"]

    return write


def test_a_part_of_a_container_is_read_in_place(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"0123456789")
    assert read_bytes(Location(str(path), 4, 6)) == b"456789"
    assert read_bytes(Location(str(path))) == b"0123456789"
    with pytest.raises(
        ValueError, match=r"x\.tar ends inside an image: it was changed while reading.*the same command again"
    ):
        read_bytes(Location(str(path), 4, 7))


def test_a_removed_file_is_named_with_the_next_step(tmp_path):
    text = r"gone\.png was removed while it was needed\. Put it back and run the same command again: finished work is"
    with pytest.raises(FileNotFoundError, match=text):
        read_bytes(Location(str(tmp_path / "gone.png")))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_member_is_read_in_place(zipped, method):
    _, location = zipped(method)
    assert read_bytes(location) == DATA
    assert digest_of(location) == hashlib.sha256(DATA).hexdigest()


def test_a_zip_member_with_an_extra_field_in_its_local_header_is_read(tmp_path):
    member = zipfile.ZipInfo("b.png")
    member.extra = b"UT\x05\x00\x03abcd"  # a time stamp, as Info-ZIP writes it
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(member, DATA)
    assert read_bytes(dict(zip_members(epath.Path(tmp_path / "x.zip")))["b.png"]) == DATA


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_flipped_byte_of_a_zip_member_is_noticed(zipped, method):
    path, location = zipped(method)
    whole = path.read_bytes()
    start = location.offset + 30 + len("images/b.png")
    for place in range(start, start + location.size - 1, 10):  # the last byte may be padding
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(ImageError, match="damaged in its zip: "):
            read_bytes(location)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": len(DATA) - 1}, "damaged in its zip: size or CRC differs from the directory"),
        ({"size": len(DATA) + 1}, "damaged in its zip: size or CRC differs from the directory"),
        ({"crc": 0}, "damaged in its zip: size or CRC differs from the directory"),
        ({"flags": 1}, "encrypted in its zip"),
        ({"method": 12}, "zipped by method 12, not deflate"),
        ({"size": 1 << 40}, "1,099,511,627,776 bytes, over the limit of 268,435,456"),
    ],
)
def test_a_zip_member_that_differs_from_its_directory_is_rejected(zipped, change, reason):
    _, location = zipped()
    location = location._replace(zipped=location.zipped._replace(**change))
    with pytest.raises(ImageError, match=f"^{reason}$"):
        read_bytes(location)
    assert digest_of(location) == hashlib.sha256(reason.encode()).hexdigest()


def test_a_wrong_offset_in_a_zip_rejects_only_its_image(zipped):
    path, location = zipped()
    for offset in (3, path.stat().st_size - 1, 1 << 40):
        with pytest.raises(ImageError, match="damaged in its zip: no header at the offset in the directory"):
            read_bytes(location._replace(offset=offset))


def test_a_zip_bomb_inflates_only_to_its_declared_size(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(50_000_000))
    ((_, location),) = zip_members(epath.Path(path))
    inflated = []
    inflater = zlib.decompressobj

    class Watched:
        def __init__(self, window):
            self.inner = inflater(window)

        def decompress(self, data, limit):
            inflated.append(self.inner.decompress(data, limit))
            return inflated[0]

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(ImageError, match="size or CRC"):
        read_bytes(location._replace(zipped=location.zipped._replace(size=1000)))
    assert len(inflated[0]) == 1001


@pytest.mark.parametrize("size", [None, 3000])
def test_an_image_over_the_size_limit_is_not_read(tmp_path, monkeypatch, size):
    monkeypatch.setattr(locations, "MAX_BYTES", 2999)
    (tmp_path / "a.png").write_bytes(bytes(3000))
    with pytest.raises(ImageError, match=r"^3,000 bytes, over the limit of 2,999$"):
        read_bytes(Location(str(tmp_path / "a.png"), 0, size))
    assert len(read_bytes(Location(str(tmp_path / "a.png"), 1, 2999))) == 2999


def test_a_file_is_read_in_small_pieces():
    pieces = []

    class File(io.BytesIO):
        def read(self, size=-1):
            pieces.append(size)
            return super().read(size)

    assert locations._read_file(File(DATA), None) == DATA
    assert pieces == [1 << 20, 1 << 20]
