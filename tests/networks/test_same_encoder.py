"""One encoder by three routes: a weights file of Keras, a SavedModel, an ONNX file."""

import warnings

import keras
import numpy as np
import pytest

from cxr.networks import runtime
from cxr.networks.extractors import load_network
from cxr.networks.onnx_encoder import onnx_extractor

WEIGHTS = "hub/mobilenet_v2_1.0_224_no_top.weights.h5"


@pytest.fixture(scope="module")
def network(shared_dir):
    if not (shared_dir / WEIGHTS).is_file():
        pytest.skip(f"../shared/{WEIGHTS} is absent")
    network = keras.applications.MobileNetV2(include_top=False, pooling="avg", weights=None, input_shape=(224, 224, 3))
    network.load_weights(shared_dir / WEIGHTS)
    return network


def test_mobilenet_v2_gives_the_same_features_from_keras_savedmodel_and_onnx(network, shared_dir, tmp_path):
    pytest.importorskip("tf2onnx", reason="no tf2onnx. Run: pip install -r requirements/export.txt")
    pytest.importorskip("openvino", reason="no OpenVINO. Run: pip install -r requirements/cpu.txt")
    network.export(tmp_path / "saved_model", verbose=False)
    with warnings.catch_warnings():  # Keras looks up np.object, which NumPy warns about
        warnings.simplefilter("ignore", FutureWarning)
        network.export(tmp_path / "mobilenet.onnx", format="onnx", verbose=False)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8).repeat(28, axis=1).repeat(28, axis=2)
    expected = np.asarray(network(images.repeat(3, axis=-1).astype(np.float32) / 127.5 - 1))
    load = {"record_size": 224, "normalization": "extractor"}
    by_keras = load_network({"source": "keras", "name": "MobileNetV2", "weights": str(shared_dir / WEIGHTS)}, **load)
    saved_model = {"source": "hub", "handle": str(tmp_path / "saved_model"), "range": [-1, 1]}
    by_hub = load_network(saved_model, **load)
    onnx_file = {"source": "onnx", "path": str(tmp_path / "mobilenet.onnx"), "range": [-1, 1]}
    by_onnx = onnx_extractor(onnx_file, "net", record_size=224, crop_size=224, normalization="extractor")
    assert expected.shape == (2, 1280)
    assert expected.max() > 1
    step = {"atol": 1e-4, "rtol": 2**-10}  # a step of float16, in which features are cached
    np.testing.assert_allclose(by_keras.model({"image": images}), expected, **step)
    np.testing.assert_allclose(by_hub.model({"image": images}), expected, **step)
    np.testing.assert_allclose(runtime.prepare(by_onnx.model, "openvino", "float32")(images), expected, **step)
