import errno
import gzip
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image
from support.packing import targz_of

from cxr import storage
from cxr.engines.engine import LOCAL
from cxr.images.decode import decode_grey
from cxr.images.encode import encode
from cxr.images.errors import ImageError
from cxr.images.resize import resize_square
from cxr.records.shards import ShardJob
from cxr.release import locations, spool_file, spools
from cxr.release.entries import ImageRow
from cxr.release.sources import Images, find_images
from cxr.release.spool_file import SpooledImage, read_spool_index, write_spool
from cxr.release.spools import Spools

NOISE = np.random.default_rng(230).integers(0, 256, (70, 50), np.uint8)


def png_of(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def planned(tmp_path):
    """planned([(name, content)]): the job of planned.opened, for one archive; a.png, b.png and c.png are listed."""

    def make(members, *, image_ids=("a.png", "b.png", "c.png"), image_size=32):
        if members is not None:
            (tmp_path / "x.tar.gz").write_bytes(targz_of(members))
        (tmp_path / "out" / "archives").mkdir(parents=True, exist_ok=True)
        found = Images(streams=["x.tar.gz"])
        folders = epath.Path(tmp_path), epath.Path(tmp_path / "out")
        make.opened = Spools(found, folders[0], folders[1] / "archives", image_ids=image_ids, image_size=image_size)
        (job,) = make.opened.jobs
        return job

    return make


def test_a_spool_has_listed_images_resized_and_undecodable_ones_unchanged(planned):
    good = png_of(NOISE)
    members = [("x/b.png", b"<html>"), ("README", b"text"), ("a.dcm", good), ("d.png", good), ("a.pyd", b"pickle")]
    job = planned(members)
    assert write_spool(job) == job.path
    spool, data = read_spool_index(job), Path(job.path).read_bytes()
    small = encode(resize_square(NOISE, 32), "png")
    assert data == b"<html>" + small
    assert spool.images == {
        "b.png": SpooledImage(0, 6, hashlib.sha256(b"<html>").hexdigest()),
        "a.png": SpooledImage(6, len(small), hashlib.sha256(good).hexdigest()),
    }
    assert (spool.unlisted, spool.bytes, spool.sha256) == (1, len(data), hashlib.sha256(data).hexdigest())
    planned.opened.read(LOCAL)
    found = planned.opened.found
    assert decode_grey(locations.read_bytes(found.locations["a.png"])).tolist() == (resize_square(NOISE, 32).tolist())
    assert found.digest("a.png") == hashlib.sha256(good).hexdigest()
    assert (found.containers, found.unlisted) == ({"x.tar.gz"}, 1)


def test_an_index_is_valid_for_the_same_archive_size_and_images(planned, tmp_path):
    job = planned([("a.png", png_of(NOISE))])
    assert read_spool_index(job) is None
    write_spool(job)
    assert read_spool_index(planned(None)) is not None
    assert read_spool_index(planned(None, image_ids=["c.png", "b.png", "a.png"])) is not None  # in another order
    assert read_spool_index(planned(None, image_ids=["a.png", "b.png"])) is None
    assert read_spool_index(planned(None, image_size=33)) is None
    os.utime(tmp_path / "x.tar.gz", (1, 1))
    assert read_spool_index(job) is None
    write_spool(job)
    job.index_path.write_text(job.index_path.read_text()[:-9])
    assert read_spool_index(job) is None
    write_spool(job)
    (tmp_path / "x.tar.gz").write_bytes(targz_of([]))
    with pytest.raises(ValueError, match=r"x\.tar\.gz changed while it was read\. Run the same command again\."):
        spools._require_index(job)


def test_partial_spools_of_a_killed_build_are_removed(planned, tmp_path):
    job = planned([])
    leftover = Path(job.path + ".0123abcd.partial")
    leftover.write_bytes(b"half")
    planned(None)
    assert not leftover.exists()


def test_one_image_twice_in_a_stream_must_have_equal_bytes(planned):
    good = png_of(NOISE)
    job = planned([("1/a.png", good), ("2/a.png", good), ("b.png", b"")])
    write_spool(job)
    assert len(read_spool_index(job).images) == 2
    message = r"image a\.png appears twice with different bytes: in .*x\.tar\.gz \('1/a\.png'\) and in .*\('2/a\.png'"
    with pytest.raises(ValueError, match=message):
        write_spool(planned([("1/a.png", good), ("2/a.png", good + b" ")]))


def test_an_image_over_the_size_limit_in_a_stream_is_rejected(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(locations, "MAX_BYTES", 5000)
    monkeypatch.setattr(spool_file, "MAX_BYTES", 5000)
    job = planned([("a.png", 6_000_000), ("b.png", png_of(NOISE))])
    write_spool(job)
    planned.opened.read(LOCAL)
    found = planned.opened.found
    assert epath.Path(job.path).stat().length < 5000
    with pytest.raises(ImageError, match=r"^6,000,000 bytes, over the limit of 5,000$"):
        locations.read_bytes(found.locations["a.png"])
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "x.tar").write_bytes(gzip.decompress((tmp_path / "x.tar.gz").read_bytes()))
    assert find_images(epath.Path(plain), ["a.png"]).digest("a.png") == found.digest("a.png")


def test_only_absent_or_damaged_spools_that_are_needed_are_read_again(planned, in_process, monkeypatch):
    job = planned([("a.png", png_of(NOISE)), ("b.png", png_of(NOISE.T))])
    planned.opened.read(LOCAL)
    renew, read = planned.opened.renew, []
    place = planned.opened.found.locations["b.png"]
    before = Path(job.path).read_bytes()
    monkeypatch.setattr(spools, "write_spool", lambda job: read.append(job) or write_spool(job))
    assert renew([place], LOCAL) == {}
    assert renew([], LOCAL) == {}
    assert read == []
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(before[:-1] + b"?")):
        spoil(Path(job.path))
        assert renew([], LOCAL) == {}
        assert renew([place], LOCAL)["b.png"] == place
        assert Path(job.path).read_bytes() == before
    assert read == [job, job]


def test_a_rewritten_spool_gives_new_locations(planned, in_process):
    job = planned([("a.png", png_of(NOISE)), ("b.png", png_of(NOISE.T))])
    planned.opened.read(LOCAL)
    here = planned.opened.found.locations["b.png"]
    moved = here._replace(offset=here.offset + 1)
    shard = ShardJob("s", "train", [ImageRow("b.png", 1, ())], [moved], 32, "png")
    Path(job.path).unlink()
    assert shard.relocated(planned.opened.renew([moved], LOCAL)).locations == [here]


def test_a_full_disk_leaves_no_partial_spool(planned, tmp_path, monkeypatch):
    job = planned([("a.png", png_of(NOISE))])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_spool(job)
    assert list((tmp_path / "out" / "archives").iterdir()) == []
