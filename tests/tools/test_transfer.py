"""Download one file from a real local server that fails in many ways."""

import email.utils
import gzip
import hashlib
import re
import time

import pytest
from support.loopback import odd, proper, serving, status

from tools.downloading.links import Link
from tools.downloading.partial import Partial
from tools.downloading.transfer import Answer, RetryPolicy, _append, fetch

DATA = bytes(range(1, 256)) * 4000  # 1,020,000 bytes, about four pieces
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"
QUICK = RetryPolicy(attempts=3, pause=0.01, timeout=0.5)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving({"/a.bin": DATA}) as site:
        yield site


@pytest.fixture
def get(site, tmp_path):
    """get(path, ...): fetch a file of the site into tmp_path; returns its bytes and the messages."""

    def run(path="/a.bin", *, size=1_020_000, checksum=MD5, **options):
        messages = []
        link = Link(path.strip("/"), site.url(path), size, checksum)
        digest = fetch(link, tmp_path, retry=QUICK, log=messages.append, **options)
        assert digest == hashlib.sha256((tmp_path / link.name).read_bytes()).hexdigest()
        assert list(tmp_path.iterdir()) == [tmp_path / link.name]  # no other file is left
        return (tmp_path / link.name).read_bytes(), messages

    return run


def test_a_file_is_downloaded_and_progress_ends_at_its_size(get):
    seen = []
    assert get(progress=seen.append) == (DATA, [])
    assert seen == sorted(seen)
    assert seen[-1] == 1_020_000


def test_a_connection_dropped_in_the_middle_is_resumed_there(site, get):
    site.answers["/a.bin"] = [odd(cut=300_000), odd(cut=200_000)]
    data, messages = get()
    assert data == DATA
    assert site.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert messages[0].startswith("a.bin: connection failed (")
    assert messages[0].endswith("; next attempt in 0.0 s")


def test_any_number_of_drops_is_allowed_while_bytes_arrive(site, get):
    site.answers["/a.bin"] = [odd(cut=90_000) for _ in range(9)]  # three times the attempts that QUICK allows
    assert get()[0] == DATA


def test_without_range_support_the_whole_file_is_downloaded_again(site, get):
    site.answers["/a.bin"] = [odd(cut=300_000), odd(ranges=False)]
    assert get()[0] == DATA
    assert site.ranges == [None, "bytes=300000-"]


def test_a_stalled_server_counts_as_dropped(site, get):
    def stall(handler):
        proper(handler, cut=300_000)
        time.sleep(1.5)

    site.answers["/a.bin"] = [stall]
    data, messages = get()
    assert data == DATA
    # It is the timeout that is reported, not that the server closed the connection.
    assert messages == ["a.bin: connection failed (Read timed out.); next attempt in 0.0 s"]


def test_a_busy_server_is_retried(site, get):
    site.answers["/a.bin"] = [status(503), status(429, Retry_After=1)]
    begun = time.monotonic()
    data, messages = get()
    assert data == DATA
    assert time.monotonic() - begun >= 1
    assert messages == [
        "a.bin: the server answers 503 Service Unavailable; next attempt in 0.0 s",
        "a.bin: the server answers 429 Too Many Requests and requests a pause of 1 s; next attempt in 1.0 s",
    ]


def test_retry_after_may_be_a_date_and_a_long_wait_is_an_error(site, get):
    hour = email.utils.formatdate(time.time() + 3600, usegmt=True)
    site.answers["/a.bin"] = [status(503, Retry_After=hour)]
    with pytest.raises(
        OSError, match=r"a\.bin: the server answers 503 .* and requests a pause of 3,(600|599) s\. 0 bytes"
    ):
        get()


def test_a_server_that_keeps_failing_is_a_clear_error_and_the_partial_file_is_kept(site, get, tmp_path):
    site.answers["/a.bin"] = [odd(cut=300_000), status(502), status(502)]
    text = r"a\.bin: the server answers 502 Bad Gateway\. 300,000 bytes are kept; run the same command again to resume"
    with pytest.raises(OSError, match=text):
        get()
    assert (tmp_path / "a.bin.partial").read_bytes() == DATA[:300_000]
    assert not (tmp_path / "a.bin").exists()
    assert get()[0] == DATA
    assert site.ranges[-1] == "bytes=300000-"


def test_a_refused_connection_is_a_clear_error(tmp_path):
    link = Link("a.bin", "http://127.0.0.1:1/a.bin")
    with pytest.raises(OSError, match=r"^a\.bin: connection failed \(.*refused.*\)\. 0 bytes are kept; run the same"):
        fetch(link, tmp_path, retry=QUICK, log=[].append)


@pytest.mark.parametrize(("code", "reason"), [(404, "Not Found"), (403, "Forbidden"), (401, "Unauthorized")])
def test_a_refused_request_is_not_retried(site, get, code, reason):
    site.answers["/a.bin"] = [status(code)]
    with pytest.raises(OSError, match=rf"^a\.bin: the server answers {code} {reason} for http://\S+/a\.bin$"):
        get()
    assert len(site.ranges) == 1


def test_redirects_are_followed_also_when_resuming(site, get):
    site.files["/far"] = DATA
    site.answers["/a.bin"] = [status(302, Location="/far"), status(302, Location=site.url("/far"))]
    site.answers["/far"] = [odd(cut=300_000)]
    assert get()[0] == DATA
    assert site.ranges == [None, None, "bytes=300000-", "bytes=300000-"]


def test_an_endless_redirect_is_a_clear_error(site, get):
    site.answers["/a.bin"] = [status(302, Location="/a.bin")] * 40
    with pytest.raises(OSError, match=r"^a\.bin: Exceeded 30 redirects"):
        get()


def test_a_web_page_in_place_of_the_file_is_an_error_and_keeps_the_partial_file(site, get, tmp_path):
    site.answers["/a.bin"] = [odd(cut=300_000), status(200, b"\n <!DOCTYPE html><title>Log in</title>")]
    with pytest.raises(
        OSError, match=r"^a\.bin: got a web page .* Look at http://\S+/a\.bin in a browser; a file saved"
    ):
        get()
    assert (tmp_path / "a.bin.partial").read_bytes() == DATA[:300_000]


def test_corrupt_bytes_are_downloaded_once_more(site, get):
    site.files["/bad"] = b"x" + DATA[1:]
    site.answers["/a.bin"] = [status(302, Location="/bad")]
    data, messages = get()
    assert data == DATA
    assert re.fullmatch(r"a\.bin: md5 [0-9a-f]{32}, expected [0-9a-f]{32}; starting from scratch", messages[0])
    assert site.ranges == [None, None, None]


def test_bytes_that_stay_corrupt_are_a_clear_error(site, get, tmp_path):
    with pytest.raises(OSError, match=r"^a\.bin: sha256 [0-9a-f]{64}, expected 0{64}, in two attempts\. Is http://"):
        get(checksum="sha256:" + "0" * 64)
    assert len(site.ranges) == 2
    assert not list(tmp_path.iterdir())


def test_a_known_sha256_is_checked_together_with_the_checksum(site, get):
    with pytest.raises(OSError, match="in two attempts"):
        get(sha256="0" * 64)


@pytest.mark.parametrize("length", [400_000, 2_000_000], ids=["short", "long"])
def test_a_wrong_length_is_noticed_by_the_listed_size(site, get, length):
    site.answers["/a.bin"] = [odd(length=length)]
    data, messages = get()
    assert data == DATA
    assert messages == [f"a.bin: the server has {length:,} bytes, expected 1,020,000; starting from scratch"]


def test_a_length_that_is_never_reached_is_a_clear_error(site, get):
    site.answers["/a.bin"] = [odd(length=2_000_000)] * 9
    with pytest.raises(OSError, match=r"^a\.bin: the server's file ends before byte 1,020,000, in two attempts"):
        get(size=None, checksum="")


def test_without_a_length_the_listed_size_is_used(site, get):
    site.answers["/a.bin"] = [lambda handler: handler.reply(200, DATA[:5], Content_Length=None)]
    data, messages = get()
    assert (data, messages) == (DATA, ["a.bin: the server stopped at byte 5 of 1,020,000; next attempt in 0.0 s"])
    assert site.ranges == [None, "bytes=5-"]  # the checksum shows that the bytes belong together


def test_more_bytes_than_listed_are_rejected(site, get):
    site.answers["/a.bin"] = [lambda handler: handler.reply(200, DATA + b"more", Content_Length=None)]
    data, messages = get()
    assert (data, messages) == (DATA, ["a.bin: more than 1,020,000 bytes; starting from scratch"])


@pytest.mark.parametrize("checksum", ["", "md5"], ids=["without a checksum", "with one"])
def test_a_file_that_changed_on_the_server_is_downloaded_from_scratch(site, get, checksum):
    new = DATA[::-1]
    site.answers["/a.bin"] = [odd(cut=300_000), status(503), status(503)]
    with pytest.raises(OSError, match="300,000 bytes are kept"):
        get(size=None, checksum="")
    site.files["/a.bin"] = new
    assert get(size=None, checksum=checksum and f"md5:{hashlib.md5(new).hexdigest()}") == (new, [])
    assert site.ranges[-1] == "bytes=300000-"  # a request with If-Range, answered with the whole file


def test_a_server_that_ignores_if_range_is_detected_by_the_etag(site, get, tmp_path):
    partial = Partial(tmp_path / "a.bin")
    partial.path.write_bytes(b"old")
    partial.tag_path.write_text('"old"')
    part = status(206, DATA[3:], Content_Range=f"bytes 3-1019999/{len(DATA)}", ETag='"new"')
    site.answers["/a.bin"] = [part]
    data, messages = get(size=None, checksum="")
    assert (data, messages) == (
        DATA,
        ["a.bin: the server sent a part of another version of the file; starting from scratch"],
    )


def test_a_partial_file_without_any_proof_is_downloaded_from_scratch(site, get):
    site.answers["/a.bin"] = [odd(cut=300_000, etag=False)]
    assert get(size=None, checksum="")[0] == DATA
    assert site.ranges == [None, None]


def test_a_partial_file_longer_than_the_file_is_downloaded_from_scratch(site, get, tmp_path):
    (tmp_path / "a.bin.partial").write_bytes(DATA + b"more")
    assert get() == (DATA, [])
    (tmp_path / "a.bin.partial").write_bytes(DATA + b"more")
    data, messages = get(size=None)
    assert (data, messages) == (DATA, ["a.bin: the server's file ends before byte 1,020,004; starting from scratch"])


def test_a_complete_partial_file_is_only_checked(site, get, tmp_path):
    (tmp_path / "a.bin.partial").write_bytes(DATA)
    assert get() == (DATA, [])
    assert site.ranges == []


def test_a_gzip_file_without_a_listed_checksum_is_checked_by_its_own(site, get):
    good = gzip.compress(DATA)
    site.files |= {"/a.gz": good, "/bad.gz": good[:-8] + b"\0\0\0\0" + good[-4:]}
    with pytest.raises(OSError, match=r"^bad\.gz: not a complete gzip file \(.+\), in two attempts"):
        get("/bad.gz", size=None, checksum="")
    assert get("/a.gz", size=None, checksum="")[0] == good


def test_a_file_with_content_encoding_is_stored_unchanged(site, get):
    packed = gzip.compress(DATA)
    site.answers["/a.gz"] = [status(200, packed, Content_Encoding="gzip")]
    assert get("/a.gz", size=len(packed), checksum="")[0] == packed


def test_a_full_disk_is_a_clear_error(tmp_path):
    partial = Partial(tmp_path / "a.bin")
    partial.path.symlink_to("/dev/full")  # a device on which writing fails as on a full disk
    with pytest.raises(
        OSError, match=r"^a\.bin: no space left in \S+\. The partial file is kept; make room and run the same"
    ):
        _append(iter([DATA]), Answer(5, None, ""), Link("a.bin", "http://"), partial, print)


def test_a_file_that_does_not_fit_on_the_disk_is_not_downloaded(site, get):
    site.answers["/a.bin"] = [odd(length=10**18)]
    with pytest.raises(OSError, match=r"^a\.bin needs 1,000,000,000,000,000,000 more bytes, but [\d,]+ are free in"):
        get(size=None)
