import gzip
import io
import stat
import struct
import tarfile
import time
import zipfile

import pytest
from etils import epath

from cxr.release import archives
from cxr.release.archives import kind_of, stream_members, tar_members, zip_members
from cxr.release.locations import read_bytes


def tar_of(members, *, kinds=(), form=tarfile.USTAR_FORMAT, **fields):
    """The bytes of a plain tar of {name: content}.

    Args:
        kinds: other types of some members, by name.
        fields: header fields of all members.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.type = dict(kinds).get(name, tarfile.REGTYPE)
            member.size, member.linkname = len(content), "/etc/passwd"
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def listed(tmp_path):
    """listed(bytes, "x.tar.gz"): {name: content} of an archive with these bytes, read according to its kind."""

    def read(data, name):
        path = epath.Path(tmp_path / name)
        path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") and data[:2] != b"\x1f\x8b" else data)
        kind = kind_of(path)
        if kind == "gzip":
            return {member: content() for member, _, content in stream_members(path)}
        members = {"tar": tar_members, "zip": zip_members}[kind](path)
        return {member: read_bytes(location) for member, location in members}

    return read


TARS = ["x.tar", "x.tar.gz"]
TWO = tar_of({"a.png": b"A" * 700, "b.png": b"B" * 700})  # header to 511, data to 1,211; header 1,536, data to 2,747


@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_read_with_long_names(listed, name, form):
    long = f"{'deep/' * 19}{'long' * 30}.png" if form != tarfile.USTAR_FORMAT else "images/a.png"
    assert listed(tar_of({long: b"A", "b.png": b""}, form=form), name) == {long: b"A", "b.png": b""}


@pytest.mark.parametrize("name", TARS)
def test_links_devices_and_folders_are_skipped(listed, name):
    kinds = {"b": tarfile.SYMTYPE, "c": tarfile.CHRTYPE, "d": tarfile.DIRTYPE, "e": tarfile.LNKTYPE, "f": b"?"}
    odd = {"../../up.png": b"UP", "/etc/abs.png": b"ABS", **dict.fromkeys("bcde", b""), "f": b"unknown type"}
    plain = {"../../up.png": b"UP", "/etc/abs.png": b"ABS"}
    assert listed(tar_of(odd, kinds=kinds), name) == plain


def test_links_and_folders_in_a_zip_are_skipped(listed):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("folder.png")
        archive.writestr("../../up.png", b"UP")
        made_by_unix = zipfile.ZipInfo("b.png")
        made_by_unix.external_attr = (stat.S_IFREG | 0o644) << 16
        archive.writestr(made_by_unix, b"B")
    assert listed(buffer.getvalue(), "x.zip") == {"../../up.png": b"UP", "b.png": b"B"}


@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize("size", [100, 511, 512, 513, 1211, 1536, 1537, 1800, 2047, 2048, 2500, 2747])
def test_a_tar_that_is_cut_off_is_named(listed, name, size):
    message = r"x\.tar(\.gz)? is (cut off inside '.\.png'|not a readable tar(\.gz)? file: .*)\. Download it again\.$"
    with pytest.raises(ValueError, match=message):
        listed(TWO[:size], name)


@pytest.mark.parametrize("name", TARS)
def test_a_tar_with_a_damaged_header_in_the_middle_is_named(listed, name):
    damaged = TWO[:1536] + b"?" * 512 + TWO[2048:]
    with pytest.raises(ValueError, match=r"not a readable tar.*: damaged or cut off \(invalid header\)\. Download it"):
        listed(damaged, name)


@pytest.mark.parametrize("name", TARS)
def test_a_tar_without_members_is_allowed(listed, name):
    assert listed(tar_of({}), name) == {}


@pytest.mark.parametrize("name", [*TARS, "x.zip", "x.tgz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.\S+ is empty\. Download it again\.$"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>404</html>", r"x\.\S+ is a web page, not an archive: .* Download it"),
        (b"version https://git-lfs.github.com/spec/v1\n" * 20, r"x\.\S+ is not a readable \S+ file: .*Download it"),
        (b"\x1f\x8b\x08\x00" + b"gzip" * 200, r"x\.\S+ is not a readable tar\.gz file: .*Download it again"),
        (b"PK\x03\x04" + b"zip" * 200, r"x\.\S+ is not a readable zip file: .*Download it again"),
        (gzip.compress(b"no tar" * 200), r"x\.\S+ is not a readable tar\.gz file: damaged or cut off"),
    ],
    ids=["empty", "HTML", "text", "gzip", "zip", "gzip of text"],
)
def test_a_file_that_is_not_an_archive_is_rejected(tmp_path, name, content, message):
    path = epath.Path(tmp_path / name)
    path.write_bytes(content)
    readers = {"tar": tar_members, "zip": zip_members, "gzip": stream_members}
    with pytest.raises(ValueError, match=message):
        list(readers[kind_of(path)](path))


def test_a_tar_whose_first_name_begins_like_a_zip_is_a_tar(tmp_path):
    path = epath.Path(tmp_path / "x.tar")
    path.write_bytes(tar_of({"PKU/a.png": b"A"}))
    assert kind_of(path) == "tar"


PACKED = gzip.compress(TWO, 0)  # uncompressed, so that only the CRC reveals a flipped byte


def test_every_truncation_of_a_compressed_tar_is_noticed(listed):
    assert listed(PACKED, "x.tar.gz") == {"a.png": b"A" * 700, "b.png": b"B" * 700}
    for size in {*range(2, 40), *range(40, len(PACKED), 97), *range(len(PACKED) - 8, len(PACKED))}:
        with pytest.raises(ValueError, match=r"x\.tar\.gz is not a readable tar\.gz file"):
            listed(PACKED[:size], "x.tar.gz")


def test_a_flipped_byte_in_a_compressed_tar_is_noticed(listed):  # the omitted bytes have no effect on readers
    for place in {2, *range(11, 40), *range(40, len(PACKED), 97), *range(len(PACKED) - 8, len(PACKED))}:
        flipped = PACKED[:place] + bytes([PACKED[place] ^ 0x40]) + PACKED[place + 1 :]
        with pytest.raises(ValueError, match=r"x\.tar\.gz is not a readable tar\.gz file"):
            listed(flipped, "x.tar.gz")


def test_garbage_after_a_compressed_tar_is_noticed_and_zeros_are_allowed(listed):
    assert set(listed(PACKED + bytes(1000), "x.tar.gz")) == {"a.png", "b.png"}
    with pytest.raises(ValueError, match=r"x\.tar\.gz is not a readable tar\.gz file: Not a gzipped file"):
        listed(PACKED + b"garbage", "x.tar.gz")


@pytest.mark.parametrize("name", TARS)
def test_padding_after_the_end_of_a_tar_must_be_short(listed, name):
    assert set(listed(TWO + bytes(1 << 19), name)) == {"a.png", "b.png"}
    with pytest.raises(ValueError, match=r"[\d,]+ bytes follow its end: an unfinished download, or several tars"):
        listed(TWO + bytes(3 << 20), name)


def header(name, size, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def pax(text):
    """A PAX header with one attribute, such as "size=-1"."""
    line = text.encode("latin-1")
    line = b"%d %s\n" % (len(line) + 4, line)  # a line starts with its own length, here two digits
    return header("pax", len(line), tarfile.XHDTYPE) + line.ljust(512, b"\0")


@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("x", 1 << 33, tarfile.GNUTYPE_LONGNAME), "a header of 8,589,934,592 bytes"),
        (header("x", 1 << 20, tarfile.XHDTYPE), "a header of 1,048,576 bytes"),
        (header("x", 10, tarfile.GNUTYPE_SPARSE), "it contains a sparse file; pack it again without --sparse"),
        (pax("GNU.sparse.map=0,1,2") + header("a.png", 1), "it contains a sparse file"),
        (header("a.png", -512), "a member of -512 bytes"),
        (pax("size=-1536") + header("a.png", 1), "a member of -1,536 bytes"),
        (pax("hdrcharset=\xff\xfe") + header("a.png", 1), "damaged header"),
        (header("x", 4, tarfile.GNUTYPE_LONGNAME) + b"abc".ljust(512, b"\0"), "end of file header"),
        ((header("x", 1, tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 2000, "damaged header .*recursion"),
    ],
    ids=["long name", "pax", "sparse", "pax sparse", "negative", "pax negative", "charset", "nothing follows", "chain"],
)
def test_a_hostile_header_is_one_line(listed, name, data, message):
    started = time.monotonic()
    with pytest.raises(ValueError, match=rf"not a readable tar.*{message}.*Download it again"):
        listed(data + bytes(1024), name)
    assert time.monotonic() - started < 60  # takes milliseconds, unless it loops forever


def test_a_compressed_tar_that_inflates_too_much_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SLACK", 1 << 20)
    path = epath.Path(tmp_path / "bomb.tar.gz")
    for member in (header("video.mp4", 40 << 20), header("a.png", 40 << 20), b""):
        path.write_bytes(gzip.compress(member + bytes(40 << 20) + bytes(1024)))
        with pytest.raises(
            ValueError, match=r"a decompression bomb: inflates to over 200 times its size|bytes follow its end"
        ):
            list(stream_members(path))


def test_headers_are_not_kept_in_memory():
    with tarfile.open(fileobj=io.BytesIO(TWO), tarinfo=archives.Header) as archive:
        assert [(member.name, archive.members) for member in archives._files(archive)] == [("a.png", []), ("b.png", [])]


def test_a_damaged_zip_directory_is_one_line(listed):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", b"A")
        archive.writestr("b.png", b"B")
    data = buffer.getvalue()
    end = data.index(b"PK\x05\x06")
    offset_of_directory = data[: end + 16] + struct.pack("<I", 0xFFFFFFF0) + data[end + 20 :]
    version = data.index(b"PK\x01\x02") + 6
    for damaged in (offset_of_directory, data[: end - 20], data[:version] + b"\xff\0" + data[version + 2 :]):
        with pytest.raises(ValueError, match=r"x\.zip is not a readable zip file: .*Download it again"):
            listed(damaged, "x.zip")
