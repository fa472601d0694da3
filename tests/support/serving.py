"""A running tools/serve.py, requests to it and actions on its page, for the tests of page and JSON interface."""

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from support.ready import write_distances, write_identity

from cxr import experiment
from cxr.findings import FINDINGS
from cxr.params import load_params

ROOT = Path(__file__).resolve().parents[2]
POINTS = {finding: {"threshold": 0.5, "calibration": {"slope": 1.5, "intercept": -0.5}} for finding in FINDINGS}
POINTS |= {"Hernia": {"threshold": None, "calibration": None}, "Mass": {"threshold": 0.0001, "calibration": None}}
HTML = b"<img src=x onerror='document.title=1'> ${document.title=2} {{value}}"
NO_IMAGE = "not a PNG, JPEG, WebP or DICOM image "
HTML_REJECTED = NO_IMAGE + f'(68 bytes, starting "{HTML[:40].decode()}")'
BOMB_REJECTED = "declares 100000 x 100000 pixels, over the limit of 67,108,864"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise(seed: int, height: int = 60, width: int = 48) -> bytes:
    """A grey PNG: noise on a ramp. Both depend on the seed."""
    ramp = np.linspace(0, 20 * (seed % 10 + 1), width)
    return png((ramp + np.random.default_rng(seed).integers(0, 50, (height, width))).astype(np.uint8))


def huge_png(side: int, *, pixels: bool) -> bytes:
    """A black PNG with one bit per pixel; without pixels, one that only declares its size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes((side // 8 + 1) * side), 1) if pixels else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def seeded_experiment(folder: Path, data_dir: Path, *, metadata: bool = True, points: bool = True) -> Path:
    """An experiment with random weights from a fixed seed and, with `points`, operating points set by hand."""
    import keras

    from model_fn import model_fn

    folder.mkdir()
    small = {"image_size": 32, "num_channels": 4, "num_blocks": 2, "metadata": metadata}
    (folder / "params.json").write_text(json.dumps(small))
    shutil.copy(data_dir / "dataset.json", folder)
    write_identity(folder)
    if points:
        (folder / "metrics_val_best.json").write_text(json.dumps({"findings": POINTS}))
        write_distances(folder)
    keras.utils.set_random_seed(230)
    model = model_fn(load_params(folder), experiment.dataset_of(folder))
    model.layers[-1].kernel.assign(
        20 * model.layers[-1].kernel
    )  # predictions of different images then differ by more than rounding
    experiment.save_weights(model, folder, "best")
    return folder


def serve(model_dir: Path, scratch: Path) -> Iterator[subprocess.Popen]:
    """Run the command in another process with `.url`, and `.scratch` for its temporary files; then send Ctrl-C."""
    if importlib.util.find_spec("fastapi") is None:
        pytest.skip("no FastAPI. Run: pip install -r requirements/serve.txt")
    command = [sys.executable, "-m", "tools.serve", "--model_dir", str(model_dir), "--port", "0"]
    options = {"cwd": ROOT, "env": os.environ | {"TMPDIR": str(scratch)}, "text": True, "stdout": subprocess.PIPE}
    path = scratch.with_name(scratch.name + ".stderr")
    with path.open("w") as errors, subprocess.Popen(command, stderr=errors, **options) as process:
        first_line = process.stdout.readline()
        assert first_line.startswith(f"{model_dir.name}: http://127.0.0.1:"), path.read_text()
        process.url, process.scratch = first_line.split()[1], scratch
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in path.read_text()


def post_predict(server: subprocess.Popen, data: bytes, **patient: object) -> requests.Response:
    return requests.post(f"{server.url}/api/predict", data=data, params=patient, timeout=60)


def status(process: subprocess.Popen, key: str) -> int:
    """A number from /proc: "VmHWM" is the peak memory in kB, "Threads" the number of threads."""
    return int(re.search(rf"{key}:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])


def choose(tab, data: bytes) -> None:
    tab.set_input_files("input[type=file]", {"name": "xray.png", "mimeType": "", "buffer": data})


def drop(tab, data: bytes, name: str) -> None:
    """Drop a file on the page, outside the field."""
    script = """([data, name]) => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
    }"""
    tab.evaluate(script, [base64.b64encode(data).decode(), name])


def rgb_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def shown_image(tab) -> np.ndarray:
    """The image that the page shows, RGB [height, width, 3]."""
    script = """async image => {
        await image.decode();
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        canvas.getContext("2d").drawImage(image, 0, 0);
        const bytes = new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
        return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
    }"""
    # As text: Playwright takes a second for a list of so many numbers.
    return rgb_of(base64.b64decode(tab.eval_on_selector("#image", script)))


def wait_for_text(tab, selector: str, text: str) -> None:
    same = "([selector, text]) => document.querySelector(selector)?.innerText === text"
    tab.wait_for_function(same, arg=[selector, text])


def open_tab(browser, url: str, width: int = 1280):
    """A tab with the page; `.logged` are its console messages, `.requested` the URLs that it requests."""
    tab = browser.new_page(viewport={"width": width, "height": 844})
    tab.logged, tab.requested = [], []
    tab.set_default_timeout(30_000)
    tab.on("console", lambda message: tab.logged.append(message.text))
    tab.on("pageerror", lambda error: tab.logged.append(str(error)))
    tab.on("request", lambda request: tab.requested.append(request.url))
    tab.goto(url)
    tab.wait_for_selector("[data-sample]")
    return tab
