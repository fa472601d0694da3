"""Hostile requests to tools/serve.py: bad files, endless bodies, other sites, other computers."""

import http.client
import json
import select
import socket

import anyio
import numpy as np
import pytest
import requests
from support import serving
from support.serving import BOMB_REJECTED, HTML, NO_IMAGE, huge_png, noise, png, post_predict, status

from tools.serving import validation
from tools.serving.app import BODIES
from tools.serving.validation import MAX_BYTES, TOO_LARGE, RequestError


@pytest.fixture(scope="module")
def server(seeded, tmp_path_factory):
    """A server of its own: the peak memory of the shared one may already be high."""
    yield from serving.serve(seeded, tmp_path_factory.mktemp("scratch"))


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", NO_IMAGE + "(0 bytes)"),
        (
            HTML,
            "not a PNG, JPEG, WebP or DICOM image (68 bytes, starting \"<img src=x onerror='document.title=1'> $\")",
        ),
        (noise(1)[:1500], "broken image: "),
        (png(np.zeros((1, 1), np.uint8)), "1 x 1 pixels, under 32 a side"),
        (huge_png(100_000, pixels=False), BOMB_REJECTED),
        (huge_png(20_000, pixels=True), "declares 20000 x 20000 pixels, over the limit of 67,108,864"),
    ],
    ids=["empty", "html", "truncated", "1x1", "bomb", "20,000x20,000"],
)
def test_an_unusable_image_is_rejected_with_a_reason(server, data, detail):
    answer = post_predict(server, data)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(detail)


def test_a_stalled_upload_is_rejected(monkeypatch):
    from starlette.requests import Request

    monkeypatch.setattr(validation, "MAX_SECONDS", 0.1)
    request = Request({"type": "http", "method": "POST", "headers": []}, anyio.sleep_forever)
    with pytest.raises(RequestError, match=r"^the image did not arrive within 0.1 seconds; send it again$") as caught:
        anyio.run(validation.read_image, request)
    assert caught.value.status == 408


@pytest.mark.parametrize("path", ["/api/predict", "/api/image"])
def test_an_endless_upload_is_rejected_while_it_arrives(server, path):
    before, sent, piece = status(server, "VmHWM"), 0, bytes(1 << 20)
    with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while sent < 200 and not select.select([connection], [], [], 0.002)[0]:
            connection.sendall(b"100000\r\n" + piece + b"\r\n")
            sent += 1
        answer = connection.recv(1 << 16).split(b"\r\n")[0]
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert MAX_BYTES >> 20 <= sent < 45  # megabytes: the limit, and what socket buffers hold
    assert status(server, "VmHWM") - before < 120 << 10  # kB


def test_clients_that_disconnect_do_not_block_others(server):
    for _ in range(2 * BODIES):  # each would keep one of BODIES places if it were not released
        with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as connection:
            connection.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
    assert post_predict(server, noise(1)).status_code == 200


def test_a_declared_size_above_the_limit_is_rejected_at_once(server):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/api/predict")
    connection.putheader("Content-Length", str(200 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read()) == {"detail": TOO_LARGE}
    connection.close()


@pytest.mark.parametrize("path", ["docs", "openapi.json", "app.py", "..%2fapp.py", "%2e%2e/app.py", "samples/-1.png"])
def test_only_the_files_of_the_page_can_be_fetched(server, path):
    answer = requests.get(f"{server.url}/{path}", timeout=60)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


def test_requests_from_other_sites_are_rejected(server):
    own = server.url
    assert requests.get(own, headers={"Host": "elsewhere.example"}, timeout=60).status_code == 400  # DNS rebinding
    for origin in ("https://elsewhere.example", "null", own.replace("127.0.0.1", "localhost"), own + "0"):
        answer = requests.post(f"{own}/api/predict", data=noise(1), headers={"Origin": origin}, timeout=60)
        assert (answer.status_code, answer.json()) == (403, {"detail": f"only the page at {own} may send requests"})
    answer = requests.post(f"{own}/api/predict", data=noise(1), headers={"Origin": own}, timeout=60)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["", "page.js", "api/model", "samples/0.png", "nowhere"])
def test_every_answer_forbids_requests_to_other_computers(server, path):
    headers = requests.get(f"{server.url}/{path}", timeout=60).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_no_other_computer_can_connect(server):
    hosts = socket.gethostbyname_ex(socket.gethostname())[2]
    for host in set(hosts) - {"127.0.0.1"}:
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((host, int(server.url.split(":")[-1])), timeout=1)
