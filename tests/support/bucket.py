"""An emulated Google Cloud Storage bucket for TensorFlow's own `gs://` client.

TensorFlow has the host names of Google built in, but reads a proxy and a certificate authority from the environment.
The proxy in this file answers for those hosts and forwards every request to the emulator.
"""

import contextlib
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
NAME = "bucket"


def forward(source: socket.socket, target: socket.socket) -> None:
    """Forward data until the sender ends."""
    with contextlib.suppress(OSError):  # the other direction may have closed both
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def read_head(client: socket.socket) -> bytes:
    """A request up to its empty line, with the part of its body that arrived with it."""
    head = b""
    while b"\r\n\r\n" not in head and (data := client.recv(1 << 16)):
        head += data
    return head


class Proxy(socketserver.BaseRequestHandler):
    """One connection: a tunnel that ends here (CONNECT), or one unencrypted request."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client may disconnect at any time
            head = read_head(self.request)
            if not head.startswith(b"CONNECT "):
                self.exchange(self.request, head)
                return
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self.server.certificates.wrap_socket(self.request, server_side=True) as client:
                self.exchange(client, read_head(client))

    def exchange(self, client: socket.socket, head: bytes) -> None:
        """Forward a request to the emulator, and its answer to the client."""
        start, separator, body = head.partition(b"\r\n\r\n")
        start = re.sub(rb"http://www\.googleapis\.com", b"", start, count=1)
        if b"\r\nTransfer-Encoding: chunked" in start:  # then the length is ignored: RFC 9112, 6.3
            start = re.sub(rb"\r\nContent-Length: \d+", b"", start)
        if b"\r\nExpect: 100-continue" in start:  # the emulator would delay the client by a second
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        with socket.create_connection(self.server.emulator) as emulator:
            emulator.sendall(start + separator + body)
            answer = threading.Thread(target=forward, args=(emulator, client), daemon=True)
            answer.start()
            forward(client, emulator)
            answer.join()


class ProxyServer(socketserver.ThreadingTCPServer):
    """The proxy, on a free port."""

    daemon_threads = True

    def __init__(self, emulator: tuple[str, int], certificates: ssl.SSLContext) -> None:
        self.emulator, self.certificates = emulator, certificates
        super().__init__(("127.0.0.1", 0), Proxy)


def free_port() -> int:
    """A port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def emulated(folder: Path) -> Iterator[dict[str, str]]:
    """An empty bucket inside the block; yields the environment variables that make `gs://bucket` refer to it."""
    import trustme
    from gcp_storage_emulator import server

    read_data = server._read_data  # None for an empty object, which TensorFlow creates for a folder
    server._read_data = lambda *args: b"" if (data := read_data(*args)) is None else data
    authority, certificates = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    authority.issue_cert(*HOSTS).configure_cert(certificates)
    address = ("127.0.0.1", free_port())
    try:
        with (
            server.create_server(*address, in_memory=True, default_bucket=NAME),
            ProxyServer(address, certificates) as proxy,
        ):
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{proxy.server_address[1]}"
            yield {
                "https_proxy": url,
                "http_proxy": url,
                "no_proxy": "",
                "CURL_CA_BUNDLE": str(folder / "authority.pem"),
                "NO_GCE_CHECK": "true",  # otherwise it searches for the account of a cloud machine
                "GOOGLE_APPLICATION_CREDENTIALS": "",
            }
            proxy.shutdown()
    finally:
        server._read_data = read_data
