import errno
import fcntl
import os
import re
import sys

import pytest

from cxr import storage
from cxr.errors import one_line_errors


def fail(code):
    def raise_it(*_):
        raise OSError(code, os.strerror(code))

    return raise_it


def write_and_raise(path, error):
    with storage.whole_file(path) as file:
        file.write(b"new")
        raise error


def test_a_file_gets_its_name_only_when_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    with storage.whole_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        (partial,) = tmp_path.iterdir()
        assert re.fullmatch(r"a\.bin\.[0-9a-f]{8}\.partial", partial.name)
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_file_and_no_partial_one(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_and_raise(path, error)
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"No space left on device; make room and run the same command again, .* kept: '.*a\.txt'"),
        (errno.EDQUOT, r"Disk quota exceeded; make room and run the same command again, .* kept: '.*a\.txt'"),
        (errno.EIO, r"^\[Errno 5\] Input/output error$"),
    ],
)
def test_a_full_or_broken_disk_leaves_the_old_file(tmp_path, monkeypatch, code, message):
    storage.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", fail(code))
    with pytest.raises(OSError, match=message):
        storage.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_data_is_synced_before_the_file_is_renamed(tmp_path, monkeypatch):
    names_at_sync = []
    monkeypatch.setattr(os, "fsync", lambda _: names_at_sync.extend(path.name for path in tmp_path.iterdir()))
    storage.write_text(tmp_path / "a.txt", "x")
    (name,) = names_at_sync
    assert name.endswith(".partial")


def test_two_writers_of_one_file_use_different_partial_files(tmp_path):
    path = tmp_path / "a.bin"  # a worker of an interrupted build and one of the next build
    with storage.whole_file(path) as first, storage.whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
        assert len(list(tmp_path.glob("a.bin.*" + storage.PARTIAL))) == 2
    assert path.read_bytes() == b"first"  # the last one to end, complete
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"name": "Pleural_Thickening", "missing": None, "share": 0.1, "list": [1, 2]}
    storage.write_json(tmp_path / "a.json", value)
    assert storage.read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_text().endswith("}\n")


def test_nan_is_rejected_in_json_and_the_old_file_stays(tmp_path):
    storage.write_json(tmp_path / "a.json", {"value": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "a.json", {"value": float("nan")})
    assert storage.read_json(tmp_path / "a.json") == {"value": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1', r"a\.json is not valid JSON: "),  # cut off
        (b"", r"a\.json is not valid JSON: "),
        (b"\xff\xfe{}", r"a\.json is not valid JSON: "),  # not UTF-8
        (b"[1, 2]", r"a\.json must hold a JSON object \{\.\.\.\}, not list"),
        (b"null", r"a\.json must hold a JSON object \{\.\.\.\}, not NoneType"),
    ],
)
def test_a_file_that_is_not_a_json_object_is_named(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        storage.read_json(tmp_path / "a.json")


def test_sha256_is_that_of_fips_180(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the first example of the standard
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.sha256_of(tmp_path / "abc") == expected
    (tmp_path / "long").write_bytes(b"a" * 1_000_000 + b"a" * 100_000)  # more than one piece of 1 MB
    (tmp_path / "same").write_bytes(b"a" * 1_100_000)
    assert storage.sha256_of(tmp_path / "long") == storage.sha256_of(tmp_path / "same")


def test_a_folder_is_locked_for_one_process_and_unlocked_after(tmp_path):
    with storage.exclusive(tmp_path, "building"):
        message = "another process is building .*; wait for it or choose another folder"
        with pytest.raises(ValueError, match=message), storage.exclusive(tmp_path, "building"):
            pass
    with storage.exclusive(tmp_path, "building"):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fail(errno.ENOSYS))  # Lustre without -o flock
    with storage.exclusive(tmp_path, "building"), storage.exclusive(tmp_path, "building"):
        pass
    monkeypatch.setattr(fcntl, "flock", fail(errno.EIO))
    with pytest.raises(OSError, match=r"^\[Errno 5\]"), storage.exclusive(tmp_path, "building"):
        pass


def test_on_windows_the_error_names_the_supported_systems(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    line = r"^error: locking a file needs Linux, macOS or another POSIX system; on Windows use WSL$"
    with pytest.raises(SystemExit, match=line), one_line_errors(), storage.exclusive(tmp_path, "building"):
        pass


def test_a_folder_is_unlocked_after_an_error(tmp_path):
    with pytest.raises(KeyError), storage.exclusive(tmp_path, "building"):
        raise KeyError
    with storage.exclusive(tmp_path, "building"):
        pass
