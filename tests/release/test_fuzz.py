"""Thousands of damaged images, CSVs and shards: each is rejected with a reason or read correctly, without a crash.

Every case is made from a seed, which a failure prints, so it can be reproduced.
"""

import contextlib
import hashlib
import io
import random
import re
import signal
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.rounds import rounds

from cxr.images.decode import decode_grey
from cxr.images.errors import MAX_PIXELS, MIN_SIDE, ImageError
from cxr.records import example
from cxr.records.verify_shard import ShardCheck, check_shard
from cxr.release.entries import read_entries

SECONDS = 20  # limit for one case, which takes milliseconds
EXTREMES = [struct.pack(">I", number) for number in (0, 1, 31, 65_535, 100_000, 2**31 - 1, 2**31, 2**32 - 1)]


class Hang(BaseException):
    """A case took too long. Not an Exception, so that no `except Exception` hides it."""


@contextlib.contextmanager
def watchdog(case):
    """Add the name of the case to its failure, and fail if it hangs."""

    def fail(*_):
        raise Hang(f"case {case} took over {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except Exception as error:
        error.add_note(f"case {case}")
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def flip_bits(data, dice):
    for _ in range(dice.choice((1, 1, 2, 8, 64))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def cut(data, dice):
    del data[dice.randrange(len(data)) :]


def remove(data, dice):
    start = dice.randrange(len(data))
    del data[start : start + dice.choice((1, 2, 16, 500))]


def insert(data, dice):
    start = dice.randrange(len(data))
    data[start:start] = dice.randbytes(dice.choice((1, 2, 16, 500)))


def repeat(data, dice):
    start, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    data[end:end] = data[start:end]


def overwrite(data, dice):
    start = dice.randrange(len(data))
    piece = dice.choice([*EXTREMES, *(extreme[::-1] for extreme in EXTREMES), dice.randbytes(20)])
    data[start : start + len(piece)] = piece


def swap(data, dice):
    a, b, c = sorted(dice.randrange(len(data) + 1) for _ in range(3))
    data[a:c] = data[b:c] + data[a:b]


MUTATIONS = (flip_bits, cut, remove, insert, repeat, overwrite, swap)


def mutated(data, dice):
    """The data after one to three mutations that change it."""
    changed = bytearray(data)
    while changed == data:
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            dice.choice(MUTATIONS)(changed, dice)
            changed = changed or bytearray(b"\0")
    return bytes(changed)


def png_chunks(data):
    """Yield (kind, contents) of the chunks of a PNG, up to the first incomplete one."""
    place = 8
    while place + 12 <= len(data) and place + 12 + int.from_bytes(data[place : place + 4]) <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : end]
        place = end + 4


def joined(chunks):
    """A PNG of these chunks with correct checksums."""
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data


def mutated_inside(data, dice):
    """A PNG with correct checksums and a damaged chunk; compressed pixels are damaged before compression."""
    chunks = list(png_chunks(data))
    place = dice.randrange(len(chunks) - 1)  # the last one is empty
    kind, body = chunks[place]
    inner = kind == b"IDAT"
    body = zlib.compress(mutated(zlib.decompress(body), dice)) if inner else mutated(body, dice)
    chunks[place] = kind, body
    return joined(chunks)


def encoded(mode, kind, **options):
    """A small, smooth image file."""
    ramp = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(ramp.astype(np.uint16) * 300) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


SEEDS = {
    "grey PNG": encoded("L", "PNG"),
    "RGBA PNG": encoded("RGBA", "PNG"),
    "16-bit PNG": encoded("I;16", "PNG"),
    "palette PNG": encoded("P", "PNG"),
    "1-bit PNG": encoded("1", "PNG"),
    "animated PNG": encoded("L", "PNG", save_all=True, append_images=[Image.new("L", (40, 48))]),
    "JPEG": encoded("L", "JPEG"),
    "progressive JPEG": encoded("RGB", "JPEG", progressive=True),
    "CMYK JPEG": encoded("CMYK", "JPEG"),
    "WebP": encoded("RGB", "WEBP"),
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_image_is_rejected_or_decoded(name):
    original = SEEDS[name]
    whole = decode_grey(original)
    assert whole.shape == (48, 40)
    for case in range(rounds(25, 500)):
        inside, dice = "PNG" in name and case % 2, random.Random(f"{name} {case}")
        data = mutated_inside(original, dice) if inside else mutated(original, dice)
        pixels = reason = None
        with watchdog(f"{name} {case}"):
            try:
                pixels = decode_grey(data)
            except ImageError as error:
                reason = str(error)
            if pixels is None:
                assert reason.strip()
                continue
            assert (pixels.dtype, pixels.ndim) == (np.uint8, 2)
            assert min(pixels.shape) >= MIN_SIDE
            assert pixels.size <= MAX_PIXELS
            if "PNG" in name and not inside:  # a PNG has checksums
                np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize("form", ["2017", "2020"])
def test_a_damaged_csv_is_rejected_or_has_a_row_for_every_line(form, tiny_release):
    release = tiny_release(patients=5, images_each=2, size=32, form=form)
    path = next(release.glob("Data_Entry_2017*.csv"))
    original, accepted = path.read_bytes(), 0
    for case in range(rounds(125, 2500)):
        path.write_bytes(mutated(original, random.Random(f"{form} {case}")))
        rows, reason = [], None
        with watchdog(f"{form} {case}"):
            try:
                rows = read_entries(path).rows
            except ValueError as error:
                reason = str(error)
            if not rows:
                assert reason.startswith(str(path))
                continue
            text = path.read_bytes().decode("utf-8-sig")
            assert len(rows) == len([line for line in re.split("[\r\n]+", text) if line]) - 1
            assert len({row.image_id for row in rows}) == len(rows)
            named = " ".join(row.image_id for row in rows)
            assert [image_id for image_id in re.findall(r"\d{8}_\d{3}\.png", text) if image_id not in named] == []
            accepted += 1
    assert accepted > 0


@pytest.fixture(scope="module")
def shard(built_dataset):
    """(bytes, records) of an intact shard."""
    path = sorted(built_dataset.glob("train-*.tfrecord"))[0]
    return path.read_bytes(), list(example.read_records(path))


@pytest.mark.parametrize("part", range(5))
def test_a_damaged_shard_is_always_noticed_and_never_read_wrong(shard, tmp_path, part):
    original, contents = shard
    path = tmp_path / "train-00000-of-00001.tfrecord"
    digest = hashlib.sha256(original).hexdigest()
    check = ShardCheck(str(path), "train", len(contents), len(original), digest, "images", "png", 32)
    path.write_bytes(original)
    assert check_shard(check).faults == []
    for case in range(rounds(50, 1000)):
        path.write_bytes(mutated(original, random.Random(f"{part} {case}")))
        with watchdog(f"{part} {case}"):
            found = []
            with contextlib.suppress(example.CorruptRecordError):
                found += example.read_records(path)
            assert set(found) <= set(contents)  # complete records only
            assert check_shard(check).faults
