import re
import sys

import numpy as np
import pytest
from support.onnx_files import SIDE, by_onnxruntime, write_encoder

from cxr.networks import runtime
from cxr.networks.onnx_encoder import onnx_extractor
from cxr.networks.quantization import quantize
from cxr.params import Params, parse_params
from cxr.records.dataset import open_dataset

pytest.importorskip("openvino", reason="no OpenVINO. Run: pip install -r requirements/cpu.txt")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 1), np.uint8)


def load(path, *, record_size: int = SIDE, crop_size: int | None = None, normalization: str = "extractor", **keys):
    spec = {"source": "onnx", "path": str(path)} | ({"range": [-1, 1]} if normalization == "extractor" else {}) | keys
    spec = {key: value for key, value in spec.items() if value is not None}
    sizes = {"record_size": record_size, "crop_size": crop_size or record_size}
    return onnx_extractor(spec, "net", normalization=normalization, **sizes)


def features_of(extractor, images: np.ndarray = IMAGES, precision: str = "float32") -> np.ndarray:
    return runtime.prepare(extractor.model, "openvino", precision)(images)


def expected_of(path, pixels: np.ndarray, output: str = "features", channels: int = 3, layout: str = "NCHW"):
    """Features of float pixels [n, S, S, 1 or 3] by onnxruntime."""
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], channels)).astype(np.float32)
    return by_onnxruntime(path, pixels.transpose(0, 3, 1, 2) if layout == "NCHW" else pixels, output)


IN_RANGE = IMAGES / 127.5 - 1


@pytest.mark.parametrize(
    ("form", "keys", "pool"),
    [
        ({}, {}, lambda out: out),
        ({"channels": 1}, {}, lambda out: out),
        ({"batch": 1}, {}, lambda out: out),  # exported for one image at a time
        ({"side": "side"}, {"image_size": SIDE}, lambda out: out),  # exported for any size
        ({"outputs": ("map",)}, {}, lambda out: out.mean(axis=(2, 3))),
        ({"outputs": ("map",), "layout": "NHWC"}, {}, lambda out: out.mean(axis=(1, 2))),
        ({"outputs": ("tokens",)}, {"token": "cls"}, lambda out: out[:, 0]),
        ({"outputs": ("tokens",)}, {"token": "mean"}, lambda out: out.mean(axis=1)),
        ({"outputs": ("tokens", "features")}, {"output": "features"}, lambda out: out),
        ({"outputs": ("tokens", "features")}, {"output": 1}, lambda out: out),
        ({"external": "encoder.onnx.data"}, {}, lambda out: out),
    ],
)
def test_features_are_those_of_onnxruntime(tmp_path, form, keys, pool):
    path = write_encoder(tmp_path / "encoder.onnx", **form)
    output = keys["output"] if isinstance(keys.get("output"), str) else form.get("outputs", ("features",))[-1]
    where = {key: form[key] for key in ("channels", "layout") if key in form}
    rows = [IN_RANGE[n : n + 1] for n in range(5)] if form.get("batch") == 1 else [IN_RANGE]
    expected = np.concatenate([pool(expected_of(path, one, output, **where)) for one in rows])
    extractor = load(path, **keys)
    assert (extractor.dimension, expected.shape) == (6, (5, 6))
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(features_of(extractor), expected, atol=1e-4, rtol=2**-11)  # half a step of float16


def test_records_are_cropped_and_resized_as_for_keras_networks(tmp_path):
    import tensorflow as tf

    path = write_encoder(tmp_path / "encoder.onnx")
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48, 1), np.uint8)
    inside = images[:, 4:44, 4:44].astype(np.float32)
    resized = tf.image.resize(inside, (SIDE, SIDE), antialias=True).numpy()
    found = features_of(load(path, record_size=48, crop_size=40), images)
    np.testing.assert_allclose(found, expected_of(path, resized / 127.5 - 1), atol=1e-3)


def test_per_image_standardisation(tmp_path):
    path = write_encoder(tmp_path / "encoder.onnx")
    pixels = IMAGES.astype(np.float64)
    mean, stddev = (f(pixels, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    found = load(path, normalization="per_image")
    np.testing.assert_allclose(features_of(found), expected_of(path, (pixels - mean) / stddev), atol=2e-3, rtol=1e-3)
    blank = np.full((1, SIDE, SIDE, 1), 7, np.uint8)
    assert np.isfinite(features_of(found, blank)).all()


def test_each_channel_has_its_own_mean_and_std(tmp_path):
    path = write_encoder(tmp_path / "encoder.onnx")
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = expected_of(path, (IMAGES / 255 - mean) / std)
    found = load(path, range=None, mean=mean, std=std)
    np.testing.assert_allclose(features_of(found), expected, atol=1e-4, rtol=2**-10)
    assert found.fed == "16 x 16 pixels, black is [-2.118, -2.036, -1.804], white is [2.249, 2.429, 2.64]"


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_every_precision_runs_on_openvino(tmp_path, precision):
    params = parse_params(
        {
            "model": "feature_extractor",
            "precision": precision,
            "extractors": [{"source": "onnx", "path": "x", "range": [0, 1]}],
        },
        where="params.json",
    )
    assert runtime.runtime_of(params) == "openvino"
    extractor = load(write_encoder(tmp_path / "encoder.onnx"))
    found = features_of(extractor, precision=precision)
    assert np.abs(found - features_of(extractor)).max() < 0.05


def test_an_encoder_is_quantised_to_int8(tmp_path, built_dataset):
    extractor = load(write_encoder(tmp_path / "encoder.onnx"), record_size=32)
    quantised = extractor._replace(model=quantize(extractor.model, open_dataset(built_dataset), "net"))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), np.uint8)
    expected = features_of(extractor, images)
    found = features_of(quantised, images, precision="int8")
    distances = np.linalg.norm(found[:, None] - expected, axis=-1)  # [int8, float32]
    assert (distances.argmin(axis=1) == np.arange(5)).all()  # each image is nearest to itself
    assert distances.diagonal().min() > 0


def test_the_hash_covers_weights_in_other_files_the_range_and_the_output(tmp_path):
    path = write_encoder(tmp_path / "encoder.onnx", external="encoder.onnx.data", outputs=("tokens", "features"))
    first = load(path, output="features").sha256
    assert load(path, output="features").sha256 == first
    assert load(path, output="features", range=[0, 1]).sha256 != first
    assert load(path, output="tokens", token="mean").sha256 != first
    weights = bytearray((tmp_path / "encoder.onnx.data").read_bytes())
    weights[3] ^= 1
    (tmp_path / "encoder.onnx.data").write_bytes(weights)
    assert load(path, output="features").sha256 != first


@pytest.mark.parametrize(
    ("form", "keys", "text"),
    [
        ({}, {"range": None}, 'does not state the range of its images; add "range", or "mean" and "std"'),
        ({}, {"image_size": 32}, "not images of 32 x 32 pixels; correct"),
        ({"side": "side"}, {}, 'takes images of any size; add the "image_size" of its training'),
        ({"channels": 4}, {}, "which axis has the 1 or 3 channels is not clear"),
        ({"outputs": ("map", "features")}, {}, "has the outputs ['map', 'features']; add \"output\""),
        ({"outputs": ("map", "features")}, {"output": "logits"}, "has the outputs ['map', 'features'], not 'logits'"),
        ({"outputs": ("tokens",)}, {}, 'add "token": "cls" or "mean" to the extractor'),
        ({"outputs": ("map",)}, {"token": "cls"}, 'not a sequence of tokens; leave out "token"'),
        ({"channels": 1}, {"range": None, "mean": [0.4, 0.5, 0.6], "std": 1}, "differs between red, green and blue"),
    ],
)
def test_what_does_not_fit_is_an_error_in_one_line(tmp_path, form, keys, text):
    path = write_encoder(tmp_path / "encoder.onnx", **form)
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        load(path, **keys)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_absent_or_not_onnx(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no ONNX file .*absent\.onnx; correct \"path\" in params\.json\. docs/enc"
    ):
        load(tmp_path / "absent.onnx")
    text = (
        'no ONNX file models/densenet121-res224-chex.onnx; correct "path" in params.json. It is published at '
        "https://github.com/mlmed/torchxrayvision; docs/encoders.md says how to get and export encoders"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(text)):
        load("models/densenet121-res224-chex.onnx")
    (tmp_path / "page.onnx").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"OpenVINO cannot read .*page\.onnx: "):
        load(tmp_path / "page.onnx")


def test_without_openvino_the_error_has_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"need OpenVINO\. Run: pip install -r requirements/cpu\.txt"):
        load("x.onnx")


def test_mixed_float16_is_rejected():
    extractors = [{"source": "onnx", "path": "x", "range": [0, 1]}]
    with pytest.raises(ValueError, match="run on the CPU, in 'float32', 'bfloat16' or 'int8'"):
        parse_params(
            {"model": "feature_extractor", "precision": "mixed_float16", "extractors": extractors}, where="params.json"
        )
    assert Params(model="feature_extractor", extractors=tuple(extractors)).precision == "float32"
