"""Frozen networks through OpenVINO: the features that Keras gives, in int8 nearly so, and what can go wrong."""

import ctypes
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.identity import save_mobilenet

from cxr import experiment
from cxr.networks import conversion, kept, quantization, runtime
from cxr.networks.extraction import Settings
from cxr.networks.extractors import Extractor
from cxr.networks.pixels import centre_crop, resize
from cxr.params import Params
from cxr.records.dataset import Dataset, open_dataset

SPEC = {"source": "keras", "name": "MobileNet", "weights": None}
INT8 = {"precision": "int8"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def extractor(tmp_path_factory) -> Extractor:
    spec = save_mobilenet(tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5")
    return Settings(json.dumps(spec), Params(), 32, "keras", "CPU").load()


@pytest.fixture(scope="module")
def converted(extractor):
    return conversion.to_openvino(extractor.model, "MobileNet")


@pytest.fixture(scope="module")
def images(built_dataset, tmp_path_factory) -> Dataset:
    """A copy of the built dataset: 32 px, no networks yet."""
    folder = tmp_path_factory.mktemp("images") / "records"
    return open_dataset(shutil.copytree(built_dataset, folder, ignore=shutil.ignore_patterns("features")))


@pytest.fixture(scope="module")
def quantised(extractor, images) -> kept.NetworkFile:
    return kept.prepared(extractor, images, INT8)


def some_images(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 1), np.uint8)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_openvino_in_float32_gives_the_features_of_keras(extractor, converted):
    batch = some_images(5)
    expected = runtime.prepare(extractor.model, "keras", "float32")(batch)
    found = runtime.prepare(converted, "openvino", "float32")(batch)
    assert (found.shape, found.dtype) == ((5, 256), np.float32)
    assert np.array_equal(found, found.astype(np.float16))  # as the feature cache rounds them
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)  # one step of float16


@pytest.mark.parametrize("size", [20, 48])
def test_a_crop_and_resizing_are_part_of_the_converted_network(size):
    image = keras.Input((64, 64, 1), dtype="uint8", name="image")
    pixels = resize(keras.ops.cast(centre_crop(image, 32), "float32"), size)  # enlarged, or shrunk with antialiasing
    model = keras.Model({"image": image}, keras.layers.Flatten()(pixels))
    batch = some_images(2, 64)
    found = runtime.prepare(conversion.to_openvino(model, "resized"), "openvino", "float32")(batch)
    np.testing.assert_allclose(found, np.asarray(model({"image": batch})), atol=0.07)  # half a step of float16 at 255


def test_the_features_of_an_image_do_not_depend_on_its_batch(quantised):
    run = runtime.prepare(quantised.read(), "openvino", "int8")
    batch = some_images(19)  # two requests of 8 and three of 1
    alone = np.concatenate([run(batch[row : row + 1]) for row in range(19)])
    counts = []
    streamed = run.stream([batch[:9], batch[9:]], counts.append)
    assert np.array_equal(alone, run(batch))
    assert np.array_equal(alone, streamed)
    assert counts == [9, 10]


def test_int8_is_near_float32_and_the_same_at_every_quantisation(extractor, converted, images, quantised):
    batch = np.concatenate(list(quantization.calibration_images(images)))
    expected = runtime.prepare(converted, "openvino", "float32")(batch)
    found = runtime.prepare(quantised.read(), "openvino", "int8")(batch)
    assert 1e-4 < relative_error(found, expected) < 0.3
    inputs = {"Convolution": set(), "GroupConvolution": set()}
    for node in quantised.read().get_ops():
        if node.get_type_name() in inputs:
            inputs[node.get_type_name()].add(node.input_value(0).get_node().get_type_name())
    assert inputs["Convolution"] == {"FakeQuantize"}
    assert "FakeQuantize" not in inputs["GroupConvolution"]
    for path in Path(images.folder / "features/networks").iterdir():
        path.unlink()
    assert kept.prepared(extractor, images, INT8) == quantised


def test_a_kept_network_is_used_again_and_a_missing_file_is_made_again(extractor, images, quantised, monkeypatch):
    original = Extractor("MobileNet", extractor.spec, None, extractor.sha256)  # nothing that could be converted
    assert kept.prepared(original, images, INT8) == quantised
    Path(quantised.path + ".bin").unlink()
    assert kept.prepared(extractor, images, INT8) == quantised
    assert quantised.is_whole()


def test_fewer_images_than_wanted_are_logged(images, converted, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("train"), "propagate", True)
    monkeypatch.setattr("nncf.quantize", lambda model, dataset, subset_size, ignored_scope: subset_size)
    count = images.num_images("train")
    assert quantization.quantize(converted, images, "MobileNet") == count < 300
    text = f"MobileNet is quantised with {count} training images, fewer than 300: the ranges are rough"
    assert text in caplog.messages
    empty = {**images.info, "splits": {**images.info["splits"], "train": {"images": 0, "shards": []}}}
    with pytest.raises(ValueError, match=r"has no training images to quantise MobileNet with; use another precision$"):
        quantization.quantize(converted, images._replace(info=empty), "MobileNet")


@pytest.mark.parametrize(
    ("damage", "state"), [("changed", "are damaged, or of another network"), ("absent", "are not complete")]
)
def test_a_damaged_network_file_is_refused(quantised, tmp_path, damage, state):
    copied = quantised.copy(tmp_path / "network")
    assert copied.data() == quantised.data()
    weights = tmp_path / "network.bin"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.unlink() if damage == "absent" else weights.write_bytes(data)
    text = f"^the network files {tmp_path}/network.xml and .bin {state} .*, expected {quantised.sha256[:12]}"
    with pytest.raises(ValueError, match=text):
        copied.read()


def test_a_network_that_openvino_cannot_convert_is_named():
    class Unknown(keras.layers.Layer):
        def call(self, images):
            return tf.math.igamma(1.0, tf.cast(images[:, 0, 0], tf.float32))

    image = keras.Input((8, 8, 1), dtype="uint8", name="image")
    model = keras.Model({"image": image}, Unknown()(image))
    text = (
        "OpenVINO cannot convert the network strange: No conversion rule found for operations: Igamma. "
        'Set "precision": "float32" in params.json'
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        conversion.to_openvino(model, "strange")


def test_without_openvino_or_nncf_the_error_says_what_to_install(converted, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ImportError, match=r"^int8 needs NNCF\. Run: pip install -r requirements/cpu\.txt$"):
        quantization.quantize(converted, images, "MobileNet")
    monkeypatch.setitem(sys.modules, "openvino", None)
    text = r"^frozen networks in bfloat16 or int8 on a CPU need OpenVINO\. Run: pip install -r requirements/cpu\.txt$"
    with pytest.raises(ImportError, match=text):
        conversion.to_openvino(None, "MobileNet")


class SignalStack(ctypes.Structure):
    """stack_t of <signal.h>: the stack on which this thread handles signals."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    @classmethod
    def current(cls) -> int | None:
        """Its address; None without one."""
        stack = cls()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
        return stack.address


def test_networks_that_overlapped_leave_the_stack_for_signals_as_it_was(converted, quantised):
    """Ctrl-C on a stack that OpenVINO has freed would be a segmentation fault, see `openvino_core`."""
    conversion.openvino_core()
    before = SignalStack.current()
    networks = [runtime.prepare(network, "openvino", "int8") for network in (converted, quantised.read())]
    for network in networks:
        network(some_images(1))
    while networks:
        networks.pop(0)  # the first one first
    assert SignalStack.current() == before


def test_openvino_sends_no_usage_statistics():
    """In a process of its own: test files that import OpenVINO by themselves do not block its statistics."""
    code = (
        "from cxr.networks.conversion import load_openvino; load_openvino()\n"
        "import nncf; from openvino.tools.ovc import convert_impl\n"
        "assert convert_impl.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'\n"
        "assert type(nncf.telemetry.telemetry).__name__ in ('MagicMock', 'NNCFTelemetryStub')  # without its library\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("precision", "extractors", "device", "expected"),
    [
        ("float32", [SPEC], "CPU", "keras"),
        ("bfloat16", [SPEC], "CPU", "openvino"),
        ("bfloat16", [SPEC], "GPU", "keras"),
        ("int8", [SPEC], "CPU", "openvino"),
        ("int8", [SPEC], "GPU", "openvino"),  # on its CPU
        ("bfloat16", [], "CPU", "keras"),  # simple_cnn has no frozen network
    ],
)
def test_the_runtime_of_a_precision(monkeypatch, precision, extractors, device, expected):
    monkeypatch.setattr(runtime, "device_kind", lambda: device)
    assert runtime.runtime_of(Params(precision=precision, extractors=extractors)) == expected


def test_a_cpu_without_the_instructions_is_warned_about(caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("train"), "propagate", True)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx2 avx512f\n")
    assert not runtime.has_vnni(cpuinfo)
    cpuinfo.write_text("flags : fpu avx2 avx512f avx512_vnni\n")
    assert runtime.has_vnni(cpuinfo)
    assert runtime.has_vnni(tmp_path / "absent")
    monkeypatch.setattr(runtime, "has_vnni", lambda: False)
    runtime.warn_if_slow.cache_clear()
    with caplog.at_level(logging.WARNING, "train.runtime"):
        for precision in ("float32", "bfloat16", "int8", "int8"):
            runtime.warn_if_slow(precision, ("FP32", "INT8"))
    starts = [message.split(":")[0] for message in caplog.messages]
    assert starts == ["this CPU has no bfloat16 instructions", "this CPU has no VNNI instructions"]
    runtime.warn_if_slow.cache_clear()


def test_restart_moves_the_networks_aside(tmp_path):
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/MobileNet.xml").touch()
    experiment.move_aside(tmp_path)
    assert (tmp_path / "old/001/networks/MobileNet.xml").exists()
