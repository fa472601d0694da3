"""What slow storage costs: images/s of input_fn from a `gs://` bucket that waits 50 ms before every request.

    python -m bench.slow_storage

Compared with the same shards read one after the other, as `interleave` and `flat_map` do without parallel calls. The
bucket is a process on this machine; TensorFlow's own client talks to it. Needs requirements/dev.txt. About a minute.
"""

import argparse
import contextlib
import functools
import multiprocessing
import os
import pathlib
import re
import socket
import socketserver
import ssl
import tempfile
import time
import urllib.parse
from collections.abc import Iterator

import numpy as np
from etils import epath

import input_fn
from bench import images_per_second
from cxr.findings import FINDINGS
from cxr.params import Params
from cxr.records import example, parsing
from cxr.records.dataset import Dataset
from cxr.release.entries import ImageRow

BUCKET = "gs://bucket"
SIZE = 128  # pixels a side, raw: 16 KiB an image
IMAGES_EACH = 256  # 4 MiB a shard
PARAMS = Params(batch_size=32, image_size=SIZE)


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
    request_queue_size = 64  # the default, five, refuses some of many readers, which try again a second later


def read_head(client: socket.socket) -> str:
    """A request up to its empty line."""
    head = b""
    while b"\r\n\r\n" not in head and (data := client.recv(1 << 16)):
        head += data
    return head.decode()


def serve(folder: pathlib.Path, delay, port) -> None:
    """Answer requests until the process ends; `port` gets the port, the folder the certificate authority."""
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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=24, help="shards of 4 MiB; default: %(default)s")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds per request; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many; default: %(default)s")
    return parser.parse_args(argv)


def write_dataset(folder: pathlib.Path, shards: int) -> Dataset:
    """Raw noise images, all of them train; the dataset is the one in the bucket."""
    generator, listed = np.random.default_rng(230), []
    for shard in range(shards):
        name = f"train-{shard:05d}-of-{shards:05d}.tfrecord"
        with (folder / name).open("wb") as file:
            for image in range(IMAGES_EACH):
                row = ImageRow(f"{shard:08d}_{image:03d}.png", shard, (0,) * len(FINDINGS), 50.0, 0, 0)
                pixels = generator.bytes(SIZE * SIZE)
                example.write_record(file, example.pack_image(row, pixels, encoding="raw", mean=0, stddev=0))
        listed.append({"file": name, "images": IMAGES_EACH, "bytes": (folder / name).stat().st_size})
    train = {"images": shards * IMAGES_EACH, "shards": listed}
    return Dataset(
        epath.Path(BUCKET), {"kind": "images", "encoding": "raw", "image_size": SIZE, "splits": {"train": train}}
    )


def one_after_the_other(dataset: Dataset, epoch: int | None):
    """The same batches, one shard read after the other."""
    import tensorflow as tf

    def read(path):
        return tf.data.TFRecordDataset(path, buffer_size=input_fn.READ_AHEAD)

    paths = tf.data.Dataset.from_tensor_slices(dataset.paths("train"))
    turns = paths.flat_map(read) if epoch is None else paths.interleave(read, input_fn.OPEN_SHARDS, block_length=16)
    batches = turns.batch(PARAMS.batch_size).map(lambda batch: parsing.parse_batch(batch, dataset.info))
    return parsing.without_autotuner(batches.prefetch(input_fn.PREFETCHED))


def contestant(make, wait, delay: float):
    """A function that reads every batch of make() where the storage has that delay."""

    def run() -> int:
        wait.value = delay
        return sum(len(labels) for _, labels in make().as_numpy_iterator())

    return run


def main() -> None:
    """Print images/s with and without the delay, and their ratio, of training and of evaluation."""
    args = parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as name, slow_storage(pathlib.Path(name)) as (environment, wait):
        # One request per MiB. TensorFlow's default is 64 MiB per request; NFS and Lustre read 1 MiB or less at once.
        os.environ.update(environment, GCS_READ_CACHE_BLOCK_SIZE_MB="1")
        dataset, contestants = write_dataset(pathlib.Path(name), args.shards), {}
        for reading, epoch in (("training", 0), ("evaluation", None)):
            for way, make in (("one after the other", one_after_the_other), ("input_fn", ours)):
                for delay in (0.0, args.delay):
                    batches = functools.partial(make, dataset, epoch)
                    contestants[reading, way, delay] = contestant(batches, wait, delay)
        rates = images_per_second(contestants, rounds=args.rounds)
    print(f"{args.shards} shards of {IMAGES_EACH} images; images/s without a delay, with {args.delay:g} s a request")
    for reading, way, _ in list(contestants)[::2]:
        fast, slow = rates[reading, way, 0.0], rates[reading, way, args.delay]
        print(f"  {reading:12}{way:22}{fast:8,.0f}{slow:8,.0f}   {slow / fast:.2f} of it")


def ours(dataset: Dataset, epoch: int | None):
    """The batches of input_fn."""
    return input_fn.input_fn("train", {"image": dataset}, PARAMS, epoch=epoch)


if __name__ == "__main__":
    main()
