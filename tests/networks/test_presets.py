"""Presets of KerasHub: small random backbones of the classes that people use, saved and loaded offline."""

import re
import sys

import keras
import numpy as np
import pytest
from support.hugging_face import MEAN, STD, write_dinov2

from cxr.networks import cam, conversion, quantization, runtime
from cxr.networks.extractors import load_network
from cxr.networks.precision import layers_in
from cxr.networks.presets import preset_network
from cxr.records.dataset import open_dataset

keras_hub = pytest.importorskip("keras_hub", reason="no keras-hub. Run: pip install -r requirements/hub.txt")
SIZE = 32
VISION = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}
DINO = {"num_register_tokens": 2, "position_embedding_shape": (SIZE, SIZE)}
TEXT = {"vocabulary_size": 16, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}


def backbones() -> dict[str, keras.Model]:
    models = keras_hub.models
    square = {"image_shape": (SIZE, SIZE, 3)}
    vision = models.SigLIPVisionEncoder(**VISION, **square, intermediate_dim=32)
    return {
        "resnet": models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64],
            stackwise_num_blocks=[1],
            stackwise_num_strides=[1],
            block_type="basic_block",
        ),
        "vit": models.ViTBackbone(**VISION, **square, mlp_dim=32),
        "dinov2": models.DINOV2Backbone(**VISION, **square, **DINO, intermediate_dim=32),
        "siglip": models.SigLIPBackbone(vision, models.SigLIPTextEncoder(**TEXT, intermediate_dim=32)),
    }


CONVERTERS = {"resnet": "ResNet", "vit": "ViT", "dinov2": "DINOV2", "siglip": "SigLIP"}
SCALE = [1 / 51, 1 / 102, 1 / 255]  # per channel, so that a range that mixes up channels fails
TOKENS = {"vit": "cls", "dinov2": "cls"}


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A folder of presets, and their backbones by name."""
    folder = tmp_path_factory.mktemp("presets")
    keras.utils.set_random_seed(230)
    networks = backbones()
    for name, network in networks.items():
        network.save_to_preset(str(folder / name))
        converter = getattr(keras_hub.layers, f"{CONVERTERS[name]}ImageConverter")
        converter(image_size=(SIZE, SIZE), scale=SCALE, offset=[-1, 0, 0.5]).save_to_preset(str(folder / name))
    return folder, networks


def spec_of(presets, name: str, **keys) -> dict:
    token = {"token": TOKENS[name]} if name in TOKENS else {}
    return {"source": "keras_hub", "preset": str(presets[0] / name)} | token | keys


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1), np.uint8)


def theirs(presets, name: str, images: np.ndarray) -> np.ndarray:
    """The output of the backbone itself, after the preset's own image converter."""
    folder, networks = presets
    converter = keras_hub.layers.ImageConverter.from_preset(str(folder / name))
    pixels = np.asarray(converter(images.repeat(3, axis=-1).astype(np.float32)))
    network = getattr(networks[name], "vision_encoder", networks[name])
    return np.asarray(network({"images": pixels} if isinstance(network.input, dict) else pixels))


def features_of(presets, spec: dict, images: np.ndarray) -> np.ndarray:
    network, to_range, size = preset_network(spec)
    assert size == SIZE
    return np.asarray(network(to_range(images.repeat(3, axis=-1).astype(np.float32))))


@pytest.mark.parametrize(
    ("name", "keys", "pool"),
    [
        ("resnet", {}, lambda out: out.mean(axis=(1, 2))),
        ("vit", {}, lambda out: out[:, 0]),
        ("vit", {"token": "mean"}, lambda out: out[:, 1:].mean(axis=1)),
        ("dinov2", {}, lambda out: out[:, 0]),
        ("dinov2", {"token": "mean"}, lambda out: out[:, 3:].mean(axis=1)),  # after the class and two register tokens
        ("siglip", {}, lambda out: out),
    ],
)
def test_features_are_those_of_the_library(presets, images, name, keys, pool):
    spec = spec_of(presets, name, **keys)
    expected = pool(theirs(presets, name, images))
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(features_of(presets, spec, images), expected, atol=1e-4)
    extractor = load_network(spec, record_size=SIZE, normalization="extractor")
    assert (extractor.dimension, extractor.fed) == (
        expected.shape[1],
        "32 x 32 pixels, black is [-1, 0, 0.5], white is [4, 2.5, 1.5]",
    )
    np.testing.assert_allclose(extractor.model({"image": images}), expected, atol=1e-4, rtol=1e-3)  # float16


def test_a_stated_range_replaces_that_of_the_preset(presets, images):
    spec = spec_of(presets, "siglip", range=[0, 1])
    pixels = images.repeat(3, axis=-1).astype(np.float32) / 255
    extractor = load_network(spec, record_size=SIZE, normalization="extractor")
    expected = presets[1]["siglip"].vision_encoder({"images": pixels})
    np.testing.assert_allclose(extractor.model({"image": images}), expected, atol=1e-4, rtol=1e-3)
    own = load_network(spec_of(presets, "siglip"), record_size=SIZE, normalization="extractor")
    assert own.sha256 != extractor.sha256


def test_a_folder_of_hugging_face_has_its_range_and_size_in_its_preprocessor_config(images, tmp_path):
    folder = write_dinov2(tmp_path / "rad-dino", SIZE)
    spec = {"source": "keras_hub", "preset": str(folder), "token": "cls"}
    network, to_range, size = preset_network(spec)
    pixels = images.repeat(3, axis=-1).astype(np.float32)
    theirs = keras_hub.models.DINOV2Backbone.from_preset(str(folder))
    expected = np.asarray(theirs({"images": (pixels / 255 - MEAN) / STD}))[:, 0]
    assert size == SIZE
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(network(to_range(pixels)), expected, atol=1e-4)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(
        ValueError, match=r'rad-dino does not state the range of its images; add "range", or "mean" and'
    ):
        preset_network(spec)


def test_the_size_may_be_another_one_where_the_network_allows_it(presets):
    network, _, size = preset_network(spec_of(presets, "dinov2", image_size=48))
    assert (size, network.input.shape, network.output.shape) == (48, (None, 48, 48, 3), (None, 16))
    network, _, size = preset_network(spec_of(presets, "resnet", image_size=64))
    assert (size, network.input.shape) == (64, (None, 64, 64, 3))
    with pytest.raises(
        ValueError, match=r"KerasHub could not load .*siglip with images of 48 pixels: it takes images of 32"
    ):
        preset_network(spec_of(presets, "siglip", image_size=48))


@pytest.mark.parametrize(
    ("name", "keys", "text"),
    [
        ("vit", {"token": None}, 'vit returns 17 tokens; add "token": "cls" or "mean" to the extractor'),
        ("resnet", {"token": "cls"}, 'not a sequence of tokens; leave out "token"'),
        ("siglip", {"token": "mean"}, 'returns [None, 16], not a sequence of tokens; leave out "token"'),
        ("absent", {}, "KerasHub could not load "),
    ],
)
def test_what_does_not_fit_is_an_error_in_one_line(presets, name, keys, text):
    spec = spec_of(presets, name, **keys)
    spec = {key: value for key, value in spec.items() if value is not None}
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        preset_network(spec)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("error", [OSError("no route to host"), ValueError("it has no config.json.\nsee above")])
def test_a_preset_that_cannot_be_downloaded(monkeypatch, error):
    def offline(*arguments, **options):
        raise error

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", offline)
    text = r"could not download hf://microsoft/rad-dino: .*\. It is published at https://huggingface\.co/microsoft/rad-dino"
    with pytest.raises(ConnectionError, match=text) as caught:
        preset_network({"source": "keras_hub", "preset": "hf://microsoft/rad-dino", "token": "cls"})
    assert len(str(caught.value).splitlines()) == 1


def test_a_text_model_is_rejected(tmp_path):
    text = keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8, max_sequence_length=4
    )
    text.save_to_preset(str(tmp_path / "bert"))
    with pytest.raises(ValueError, match="it is a BertBackbone, which takes no images"):
        preset_network({"source": "keras_hub", "preset": str(tmp_path / "bert")})


def test_without_keras_hub_the_error_has_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"need KerasHub\. Run: pip install -r requirements/hub\.txt"):
        preset_network({"source": "keras_hub", "preset": "vit_base_patch16_224_imagenet"})


def test_layers_compute_in_the_precision_of_the_experiment(presets):
    with layers_in("bfloat16"):
        network, _, _ = preset_network(spec_of(presets, "vit"))
    backbone = network.layers[-1] if isinstance(network.layers[-1], keras.Model) else network.layers[1]
    assert {layer.compute_dtype for layer in backbone.layers if layer.weights} == {"bfloat16"}


@pytest.mark.parametrize("name", ["resnet", "vit", "dinov2", "siglip"])
def test_openvino_computes_the_same_features_in_all_precisions(presets, images, built_dataset, name):
    extractor = load_network(spec_of(presets, name), record_size=SIZE, normalization="extractor")
    expected = np.asarray(extractor.model({"image": images}))
    network = conversion.to_openvino(extractor.model, name)
    np.testing.assert_allclose(runtime.prepare(network, "openvino", "float32")(images), expected, atol=1e-4, rtol=2e-3)
    in_bfloat16 = runtime.prepare(network, "openvino", "bfloat16")(images)
    assert np.linalg.norm(in_bfloat16 - expected) < 0.05 * np.linalg.norm(expected)
    quantized = quantization.quantize(network, open_dataset(built_dataset), name)
    in_int8 = runtime.prepare(quantized, "openvino", "int8")(images)
    distances = np.linalg.norm(in_int8[:, None] - expected, axis=-1)  # [int8, float32]
    assert (distances.argmin(axis=1) == np.arange(len(images))).all()  # each image is nearest to itself
    assert distances.diagonal().min() > 0


@pytest.mark.parametrize(("name", "method"), [("resnet", "grad_cam"), ("dinov2", "occlusion"), ("siglip", "occlusion")])
def test_heat_maps_of_networks_without_a_feature_map_are_occlusion_maps(presets, images, name, method):
    extractor = load_network(spec_of(presets, name), record_size=SIZE, normalization="extractor")
    image = keras.Input((SIZE, SIZE, 1), dtype="uint8", name="image")
    logits = keras.layers.Dense(14)(keras.layers.Dense(4, activation="relu")(extractor.model({"image": image})))
    mapper = cam.HeatMapper(keras.Model({"image": image}, logits))
    assert mapper.method == method
    maps = mapper(images[:1], [0, 3])
    assert maps.shape[:2] == (1, 2)
    assert np.isfinite(maps).all()
