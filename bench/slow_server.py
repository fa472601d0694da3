"""The storage of bench.slow_storage: files of a folder as `gs://bucket`, each request answered after a wait."""

import contextlib
import multiprocessing
import pathlib
import re
import socket
import socketserver
import ssl
import time
import urllib.parse
from collections.abc import Iterator

BUCKET = "gs://bucket"


class Handler(socketserver.BaseRequestHandler):
    """One connection to the proxy: a tunnel that ends here, and in it one request for a range of a file."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client may leave at any time
            read_head(self.request)
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self.server.certificates.wrap_socket(self.request, server_side=True) as client:
                head = read_head(client)
                time.sleep(self.server.delay.value)
                client.sendall(self.answer(head))

    def answer(self, head: str) -> bytes:
        """The bytes asked for, or 416 where the file has ended."""
        name = urllib.parse.unquote(re.match("GET /bucket/(\\S+)", head)[1])
        first, last = map(int, re.search("(?i)range: bytes=(\\d+)-(\\d+)", head).groups())
        with (self.server.folder / name).open("rb") as file:
            file.seek(first)
            body = file.read(last + 1 - first)
        status = "206 Partial Content" if body else "416 Range Not Satisfiable"
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 64  # of five, the default, many readers at once would lose some and try again a second later


def read_head(client: socket.socket) -> str:
    """A request up to its empty line."""
    head = b""
    while b"\r\n\r\n" not in head and (data := client.recv(1 << 16)):
        head += data
    return head.decode()


def serve(folder: pathlib.Path, delay, port) -> None:
    """Answer requests until the process is ended; its port goes into `port`, the certificates' authority beside it."""
    import trustme

    authority, certificates = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    authority.issue_cert("www.googleapis.com", "storage.googleapis.com").configure_cert(certificates)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.folder = folder
        server.delay = delay
        server.certificates = certificates
        port.send(server.server_address[1])
        server.serve_forever()


@contextlib.contextmanager
def slow_storage(folder: pathlib.Path) -> Iterator[tuple[dict[str, str], object]]:
    """Serve a folder from a process of its own, so that it takes no time of the reader's interpreter.

    Yields:
        The environment in which TensorFlow finds it as BUCKET, and the delay: set its `value`, in seconds.
    """
    context = multiprocessing.get_context("spawn")
    delay = context.Value("d", 0.0)
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(folder, delay, theirs), daemon=True)
    server.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}"
        environment = {"https_proxy": url, "no_proxy": "", "CURL_CA_BUNDLE": str(folder / "authority.pem")}
        yield environment | {"NO_GCE_CHECK": "true", "GOOGLE_APPLICATION_CREDENTIALS": ""}, delay
    finally:
        server.terminate()
        server.join()
