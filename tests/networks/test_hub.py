import functools
import hashlib
import http.server
import io
import json
import re
import shutil
import tarfile
import threading
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from cxr.networks import runtime
from cxr.networks.extraction import Settings
from cxr.networks.extractors import load_network
from cxr.networks.hub import HubModule, resolve
from cxr.params import Params

WEIGHTS = np.array([[1, 0], [0, 2], [0, 4]], np.float32)  # features of RGB means (r, g, b): (r, 2 g + 4 b)


class Reusable(tf.Module):
    """A TF2 module: float32 [B, 16, 16, 3] -> [B, 2]."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = tf.Variable(weights)

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32)])
    def __call__(self, images):
        return tf.reduce_mean(images, [1, 2]) @ self.weights


class Signed(tf.Module):
    """A module that has only a signature, which returns `outputs`."""

    def __init__(self, outputs) -> None:
        super().__init__()
        self.outputs = outputs

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32, name="images")])
    def run(self, images):
        return self.outputs(images)


def save_reusable(folder: Path, weights: np.ndarray = WEIGHTS) -> Path:
    tf.saved_model.save(Reusable(weights), str(folder))
    return folder


def save_exported(folder: Path) -> Path:
    """A SavedModel as Keras exports it: no __call__, a signature serving_default."""
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.GlobalAveragePooling2D(), dense])
    dense.set_weights([WEIGHTS])
    model.export(str(folder), verbose=False)
    return folder


def save_tf1(folder: Path, *, use_resource: bool) -> Path:
    """A TF1-format module: a signature default from images to default, over resource or reference variables."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, [None, 16, 16, 3])
        weights = v1.get_variable("weights", initializer=WEIGHTS, use_resource=use_resource)
        features = tf.reduce_mean(images, [1, 2]) @ weights
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def({"images": images}, {"default": features})
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"default": signature})
        builder.save()
    return folder


def save_signed(folder: Path, outputs, name: str = "serving_default") -> Path:
    module = Signed(outputs)
    tf.saved_model.save(module, str(folder), signatures={name: module.run})
    return folder


KINDS = {
    "TF2 module": save_reusable,
    "exported by Keras": save_exported,
    "TF1 module": functools.partial(save_tf1, use_resource=True),
    "TF1 module with reference variables": functools.partial(save_tf1, use_resource=False),
}


def load(folder: Path | str, image_size: int = 16):
    spec = {"source": "hub", "handle": str(folder), "image_size": image_size}
    return load_network(spec, record_size=16, normalization="extractor")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_module_gets_pixels_from_zero_to_one(tmp_path, kind):
    folder = KINDS[kind](tmp_path / "module")
    images = np.zeros((3, 16, 16, 1), np.uint8)
    images[1], images[2, :8] = 255, 255  # black, white, half white
    expected = [[0, 0], [1, 6], [0.5, 3]]
    extractor = load(folder)
    assert (extractor.name, extractor.dimension, extractor.model.trainable_weights) == ("module", 2, [])
    np.testing.assert_allclose(extractor.model({"image": images}), expected, atol=1e-6)
    spec = json.dumps({"source": "hub", "handle": str(folder), "image_size": 16})
    run = runtime.prepare(Settings(spec, Params(), 16, "keras", "CPU").load().model, "keras", "float32")
    np.testing.assert_allclose(run(tf.constant(images)), expected, atol=1e-6)  # as in feature extraction


def test_a_module_stays_float32_under_mixed_precision(tmp_path):
    images = np.full((1, 16, 16, 3), 1 / 3, np.float32)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        features = HubModule(str(save_reusable(tmp_path)), images.shape[1])(images)
    finally:
        keras.config.set_dtype_policy("float32")
    assert features.dtype == "float32"
    np.testing.assert_allclose(features, [[1 / 3, 2]], rtol=1e-6)  # bfloat16 would be off by 1e-3


def test_the_hash_depends_on_the_weights(tmp_path):
    changed = WEIGHTS.copy()
    changed[2, 1] += 1e-3
    first = load(save_reusable(tmp_path / "first")).sha256
    assert len(first) == 64
    assert first != load(save_reusable(tmp_path / "other", changed)).sha256
    assert first == load(shutil.copytree(tmp_path / "first", tmp_path / "moved")).sha256


def test_the_hash_covers_the_files_of_the_variables(tmp_path):
    first = save_reusable(tmp_path / "first")
    other = Path(shutil.copytree(first, tmp_path / "other"))
    assert HubModule(str(other), 16).sha256() == HubModule(str(first), 16).sha256()
    values = next(other.glob("variables/variables.data*"))
    before = WEIGHTS.astype(np.float32)[0].tobytes()
    assert before in values.read_bytes()
    changed = values.read_bytes().replace(before, (WEIGHTS[0] + 1).astype(np.float32).tobytes())
    values.write_bytes(changed)  # saved_model.pb stays as it is
    module = types.SimpleNamespace(folder=other)  # TensorFlow would refuse to load the changed file
    assert HubModule.sha256(module) != HubModule(str(first), 16).sha256()


def mean_map(images):
    return {"map": tf.nn.avg_pool2d(images, 8, 8, "VALID")}


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (mean_map, "2, 2, 3), expected features [B, D]; use its feature-vector variant"),
        (lambda images: {"total": tf.reduce_sum(images)}, "(), expected features [B, D]"),
        (lambda images: {"flat": tf.reshape(images, [-1])}, ",), expected features [B, D]"),
        (
            lambda images: {"features": tf.reduce_mean(images, [1, 2]), "logits": tf.reduce_mean(images, [1, 2])},
            "expected one array of features",
        ),
    ],
)
def test_a_module_of_another_output_is_rejected(tmp_path, outputs, text):
    folder = save_signed(tmp_path / "module", outputs)
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_output_named_default_is_used(tmp_path):
    def outputs(images):
        return {"another": tf.reduce_max(images, [1, 2]), "default": tf.reduce_mean(images, [1, 2])}

    extractor = load(save_signed(tmp_path / "module", outputs, "default"))
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)  # mean 127.5
    np.testing.assert_allclose(extractor.model({"image": image}), [[0.5] * 3], atol=1e-6)


def test_a_module_of_another_image_size_is_rejected(tmp_path):
    folder = save_reusable(tmp_path / "module")
    with pytest.raises(ValueError, match=re.escape(f"{folder} rejects images of 32 x 32 x 3: ")) as caught:
        load(folder, image_size=32)
    assert len(str(caught.value).splitlines()) == 1


def test_a_module_without_a_known_signature_is_rejected(tmp_path):
    folder = save_signed(tmp_path / "module", mean_map, "train")
    text = f"{folder} is not callable and has no signature serving_default or default"
    with pytest.raises(ValueError, match=re.escape(text)):
        load(folder)


def test_a_folder_without_a_saved_model_is_rejected(tmp_path):
    text = "has no saved_model.pb; expected the folder of a SavedModel"
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))} {re.escape(text)}$"):
        load(tmp_path)
    with pytest.raises(ValueError, match=re.escape(text)):
        load(tmp_path / "absent")


class ModuleServer(http.server.BaseHTTPRequestHandler):
    """Serves a module like tfhub.dev: an archive for ?tf-hub-format=compressed, otherwise a page."""

    archive = b""
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        compressed = self.path == "/mean/1?tf-hub-format=compressed"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.archive if compressed else b"<html>a page</html>")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A running server of one module and an empty hub cache."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(save_reusable(tmp_path / "served"), arcname=".")
    handler = type("Handler", (ModuleServer,), {"archive": packed.getvalue(), "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.stop = lambda: (running.shutdown(), running.server_close())
        yield running
        running.stop()
        thread.join()


def cache_folder(tmp_path: Path, handle: str) -> Path:
    return tmp_path / "cache" / hashlib.sha1(handle.encode()).hexdigest()


def test_a_module_is_downloaded_once(server, tmp_path):
    handle = f"http://127.0.0.1:{server.server_port}/mean/1"
    extractor = load(handle)
    assert (extractor.name, extractor.dimension) == ("mean", 2)
    assert resolve(handle) == cache_folder(tmp_path, handle)
    assert server.RequestHandlerClass.requests == ["/mean/1?tf-hub-format=compressed"]
    server.stop()
    assert load(handle).sha256 == extractor.sha256
    white = np.full((1, 16, 16, 1), 255, np.uint8)
    np.testing.assert_allclose(load(handle).model({"image": white}), [[1, 6]], atol=1e-6)


def test_a_download_that_is_not_an_archive_is_rejected(server):
    handle = f"http://127.0.0.1:{server.server_port}/other/1"
    with pytest.raises(ConnectionError, match=re.escape(f"could not download {handle}: ")):
        load(handle)


def test_the_offline_instructions_of_the_error_work(server, tmp_path):
    handle = f"http://127.0.0.1:{server.server_port}/mean/1"
    server.stop()
    place = cache_folder(tmp_path, handle)
    with pytest.raises(ConnectionError) as caught:
        load(handle)
    text = str(caught.value)
    assert text.startswith(f"could not download {handle}: ")
    assert "refused" in text
    assert f"unpack the module into {place} (TFHUB_CACHE_DIR moves that folder)" in text
    assert text.endswith("or set a local folder as the handle in params.json.")
    save_reusable(place)  # as the error text says
    assert load(handle).dimension == 2
