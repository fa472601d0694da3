import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.damage import assert_pixels_or_image_error

from cxr.images.decode import PNG_START, decode_grey
from cxr.images.encode import encode, stored_pixels
from cxr.images.errors import ImageError
from cxr.images.resize import resize_square

GREY = np.random.default_rng(0).integers(0, 256, (48, 40), np.uint8)  # 48 high, 40 wide


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def filled(mode, value):
    return Image.new(mode, (40, 40), value)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *, depth=8, colour=0, interlace=0, body=b"", before=b""):
    """A PNG made by hand (ISO/IEC 15948), for variants that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    chunks = chunk(b"IHDR", header), before, chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def interlaced(pixels):
    """Adam7: seven passes of (first row, first column, row step, column step), each row after a filter byte 0."""
    passes = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
    rows = (row for top, left, down, right in passes for row in pixels[top::down, left::right])
    return png(pixels.shape[1], pixels.shape[0], interlace=1, body=b"".join(b"\0" + row.tobytes() for row in rows))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(Image.fromarray(GREY)), id="grey"),
        pytest.param(encoded(Image.fromarray(GREY).convert("RGB")), id="rgb"),
        pytest.param(encoded(Image.fromarray(GREY).convert("RGBA")), id="rgba"),
        pytest.param(encoded(Image.fromarray(GREY).convert("LA")), id="grey and alpha"),
        pytest.param(encoded(Image.fromarray(GREY).convert("P")), id="palette"),
        pytest.param(
            encoded(Image.fromarray(GREY).convert("P"), transparency=bytes(range(256))), id="palette and alpha"
        ),
        pytest.param(encoded(Image.fromarray(GREY), transparency=7), id="one transparent grey"),
        pytest.param(interlaced(GREY), id="interlaced"),
        pytest.param(encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), id="16 bit"),
        pytest.param(encoded(Image.fromarray(GREY.astype(np.uint16) * 256 + 255)), id="16 bit, low bytes dropped"),
        pytest.param(encoded(Image.fromarray(GREY).convert("RGB"), "WEBP", lossless=True), id="webp"),
        pytest.param(
            encoded(Image.fromarray(GREY), save_all=True, append_images=[filled("L", 0).resize((40, 48))]),
            id="animated png",
        ),
    ],
)
def test_every_lossless_format_decodes_to_the_same_pixels(data):
    pixels = decode_grey(data)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, GREY)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        pytest.param(encoded(filled("RGB", (255, 0, 0))), 76, id="red: 0.299 of 255"),
        pytest.param(encoded(filled("RGB", (0, 255, 0))), 150, id="green: 0.587 of 255"),
        pytest.param(encoded(filled("RGB", (0, 0, 255))), 29, id="blue: 0.114 of 255"),
        pytest.param(encoded(filled("RGBA", (90, 90, 90, 0))), 90, id="transparent: alpha is dropped, not blended"),
        pytest.param(encoded(filled("I;16", 0xABCD)), 0xAB, id="16 bit: the high byte"),
        pytest.param(encoded(filled("I;16", 255)), 0, id="16 bit: 255 of 65,535 is black"),
        pytest.param(encoded(filled("1", 1)), 255, id="1 bit: white"),
        pytest.param(encoded(filled("1", 0)), 0, id="1 bit: black"),
        pytest.param(encoded(filled("CMYK", (0, 0, 0, 0)), "JPEG"), 255, id="CMYK jpeg: no ink"),
        pytest.param(encoded(filled("CMYK", (0, 0, 0, 255)), "JPEG"), 0, id="CMYK jpeg: black ink"),
        pytest.param(encoded(filled("L", 128), "JPEG", progressive=True), 128, id="progressive jpeg"),
        pytest.param(
            encoded(
                filled("RGB", (0, 0, 0)),
                "WEBP",
                lossless=True,
                save_all=True,
                append_images=[filled("RGB", (255,) * 3)],
            ),
            0,
            id="animated webp: the first frame",
        ),
    ],
)
def test_every_colour_mode_becomes_the_right_grey(data, value):
    assert np.unique(decode_grey(data)).tolist() == [value]


HUGE = "declares {} pixels, over the limit of 67,108,864"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", r"not a PNG, JPEG, WebP or DICOM image \(0 bytes\)", id="empty"),
        pytest.param(b"\n", r"not a PNG, JPEG, WebP or DICOM image \(1 bytes\)", id="one byte"),
        pytest.param(b"<!DOCTYPE html>\n<p>404", "22 bytes, starting '<!DOCTYPE html>'", id="a web page"),
        pytest.param(b"DICM\xff\x00" * 9, r"not a PNG, JPEG, WebP or DICOM image \(54 bytes\)", id="other bytes"),
        pytest.param(encoded(filled("L", 9), "GIF"), "not a PNG, JPEG, WebP or DICOM image", id="gif"),
        pytest.param(encoded(filled("L", 9), "TIFF"), "not a PNG, JPEG, WebP or DICOM image", id="tiff"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n" + b" " * 99, "not a PNG, JPEG, WebP or DICOM image", id="PostScript"),
        pytest.param(encoded(Image.fromarray(GREY))[:900], "broken image: ", id="half of a png"),
        pytest.param(encoded(Image.fromarray(GREY), "JPEG")[:900], "broken image: .*truncated", id="half of a jpeg"),
        pytest.param(encoded(filled("L", 9).resize((31, 40))), "31 x 40 pixels, under 32 a side", id="narrow"),
        pytest.param(encoded(filled("L", 9).resize((40, 31))), "40 x 31 pixels, under 32 a side", id="short"),
        pytest.param(png(8192, 8193), HUGE.format("8192 x 8193"), id="one row over the limit"),
        pytest.param(png(10_000, 10_000), HUGE.format("10000 x 10000"), id="over the limit at which Pillow warns"),
        pytest.param(png(100_000, 100_000), HUGE.format("100000 x 100000"), id="decompression bomb"),
        pytest.param(
            png(100_000, 100_000, depth=16, colour=6),
            HUGE.format("100000 x 100000"),
            id="decompression bomb, 16-bit RGBA",
        ),
        pytest.param(png(40, 48, body=bytes(41) * 40), "broken image: .*not have enough data", id="40 of 48 rows"),
        pytest.param(png(40, 48, body=b"\7" + bytes(41 * 48)), "broken image: .*filter method 7", id="no such filter"),
        pytest.param(encoded(Image.fromarray(GREY))[:20], r"broken image: no PNG header \(20 bytes\)", id="no header"),
        pytest.param(
            png(40, 40, colour=3, before=chunk(b"tRNS", b"\0"), body=bytes(41) * 40), "broken", id="no palette"
        ),
    ],
)
def test_an_unusable_image_is_rejected_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode_grey(data)


FORMS = [
    pytest.param(Image.fromarray(GREY), id="grey"),
    pytest.param(Image.fromarray(np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])), id="rgb"),
    pytest.param(Image.fromarray(np.dstack([GREY, GREY[::-1], GREY[:, ::-1], 255 - GREY])), id="rgba"),
    pytest.param(Image.fromarray(GREY).quantize(16), id="palette"),
    pytest.param(Image.fromarray(GREY.astype(np.uint16) * 257), id="16 bit"),
]


@pytest.mark.parametrize("image", FORMS)
def test_a_changed_byte_of_a_png_is_noticed_or_changes_nothing(image):
    data = encoded(image.resize((32, 32)))
    pixels = decode_grey(data)
    for place in range(len(PNG_START), len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        try:
            np.testing.assert_array_equal(decode_grey(bytes(damaged)), pixels)
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("image", FORMS)
def test_a_truncated_png_is_always_noticed(image):
    data = encoded(image.resize((32, 32)))
    for length in range(len(data) - 4):  # the last four bytes are the checksum of an empty chunk
        with pytest.raises(ImageError):
            decode_grey(data[:length])


@pytest.mark.parametrize("image", FORMS)
def test_pixels_are_those_of_pillow(image):
    grey = image if image.mode == "I;16" else image.convert("RGB").convert("L")
    expected = np.asarray(grey) >> 8 if image.mode == "I;16" else np.asarray(grey)
    np.testing.assert_array_equal(decode_grey(encoded(image)), expected)


def test_the_originals_decode_to_the_pixels_of_pillow(shared_dir):
    paths = sorted((shared_dir / "nih-1024" / "images").glob("*.png"))
    forms = {}
    for path in paths:
        with Image.open(path) as image:
            forms.setdefault(image.mode, []).append((path, np.asarray(image.convert("RGB").convert("L"))))
    assert forms.keys() == {"L", "RGBA"}
    for path, expected in forms["L"][:8] + forms["RGBA"]:
        np.testing.assert_array_equal(decode_grey(path.read_bytes()), expected)


SAMPLES = [encoded(Image.fromarray(GREY), kind) for kind in ("PNG", "JPEG", "WEBP")]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_image_gives_pixels_or_an_image_error(data, changes):
    assert_pixels_or_image_error(data, changes)


def test_a_square_image_fills_the_square():
    assert (resize_square(np.full((64, 64), 200, np.uint8), 32) == 200).all()


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        pytest.param((64, 32), slice(0, 32), slice(8, 24), id="portrait: half as wide, 8 black columns on each side"),
        pytest.param((32, 64), slice(8, 24), slice(0, 32), id="landscape: 8 black rows above and below"),
        pytest.param((40, 10), slice(0, 32), slice(12, 20), id="8 of 32 columns"),
        pytest.param((16, 8), slice(0, 32), slice(8, 24), id="enlarged"),
        pytest.param((1000, 1), slice(0, 32), slice(15, 16), id="never less than one column"),
    ],
)
def test_an_image_that_is_not_square_is_centred_on_black(shape, rows, columns):
    expected = np.zeros((32, 32), np.uint8)
    expected[rows, columns] = 200
    np.testing.assert_array_equal(resize_square(np.full(shape, 200, np.uint8), 32), expected)


def test_an_image_of_the_right_size_is_unchanged():
    np.testing.assert_array_equal(resize_square(GREY[:40], 40), GREY[:40])


def test_shrinking_is_antialiased():
    checkers = np.indices((128, 128)).sum(0) % 2 * 255  # taking every fourth pixel would give all 0 or all 255
    shrunk = resize_square(checkers.astype(np.uint8), 32)
    assert abs(shrunk.astype(int) - 127.5).max() <= 2


def test_large_reductions_nearly_equal_a_single_filter():
    fine = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
    once = np.asarray(Image.fromarray(fine).resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    apart = abs(resize_square(fine, 64) - once)
    assert 0 < apart.mean() < 2  # noise is the hardest case; taking every eighth pixel differs by 64


@pytest.mark.parametrize(("encoding", "tolerance"), [("png", 0), ("raw", 0), ("jpeg", 12)])
def test_encodings_keep_the_pixels(encoding, tolerance):
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 4
    data = encode(smooth, encoding)
    back = np.frombuffer(data, np.uint8).reshape(32, 32) if encoding == "raw" else decode_grey(data)
    assert abs(back.astype(int) - smooth).max() <= tolerance
    np.testing.assert_array_equal(stored_pixels(smooth, data, encoding), back)  # what a reader gets


def test_each_encoding_has_its_format():
    assert encode(GREY[:40], "png").startswith(b"\x89PNG")
    assert encode(GREY[:40], "jpeg").startswith(b"\xff\xd8")
    assert len(encode(GREY[:40], "raw")) == 1600
