"""A local web server that can fail in many ways."""

import contextlib
import hashlib
import http.server
import re
import socketserver
import threading
from collections.abc import Iterator


class Site(http.server.ThreadingHTTPServer):
    """Files by path, each with an ETag. Requests for a path first use up the functions in `answers[path]`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.answers, self.ranges = {}, {}, []

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # skips the look-up of the host name, which can take 0.2 s

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        waiting = self.server.answers.get(self.path)
        if waiting:
            return waiting.pop(0)(self)
        if self.path not in self.server.files:
            return self.reply(404, b"no such file")
        return proper(self)

    def reply(self, status: int, body: bytes, **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


def proper(handler, *, cut=None, length=None, ranges=True, etag=True):
    """Answer a request for a file.

    Args:
        cut: close the connection after so many bytes.
        length: wrong Content-Length.
        ranges, etag: whether to support ranges and to send an ETag.
    """
    data = handler.server.files[handler.path]
    tag = f'"{hashlib.sha256(data).hexdigest()[:8]}"' if etag else None
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(wanted[1]) if wanted and ranges and handler.headers.get("If-Range") in (None, tag) else 0
    if start and start >= len(data):
        return handler.reply(416, b"")
    span = f"bytes {start}-{len(data) - 1}/{len(data)}" if start else None
    body = data[start:][:cut]
    length = len(data) - start if length is None else length
    return handler.reply(206 if start else 200, body, Content_Length=length, ETag=tag, Content_Range=span)


def odd(**how):
    return lambda handler: proper(handler, **how)


def status(code, body=b"", **headers):
    return lambda handler: handler.reply(code, body, **headers)


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Site]:
    """A site that runs inside the block."""
    with Site() as site:
        threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        site.files |= files
        yield site
        site.shutdown()
