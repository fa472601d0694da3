import re
from urllib.error import URLError

import keras
import numpy as np
import pytest

from cxr.networks.applications import RANDOM_WEIGHTS_SEED
from cxr.networks.extractors import Extractor, as_cached, load_network
from cxr.params import FineTune

TINY = {"source": "keras", "name": "Tiny", "weights": None, "image_size": 32}
MOBILE = {"source": "keras", "name": "MobileNet", "weights": None, "alpha": 0.25, "image_size": 32}


def tiny_network(*, include_top: bool, pooling: str, input_shape: tuple, weights: None, width: int = 4) -> keras.Model:
    """A tiny network with the interface of keras.applications: 2 * width features."""
    assert (include_top, pooling, weights) == (False, "avg", None)
    image = hidden = keras.Input(input_shape)
    for channels in (width, 2 * width):
        hidden = keras.layers.Conv2D(channels, 3, strides=2, use_bias=False)(hidden)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(hidden), name="tiny")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """keras.applications.Tiny, with the range of MobileNet: [-1, 1]."""
    tiny_network.__module__ = keras.applications.MobileNet.__module__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.applications, "Tiny", tiny_network, raising=False)
        yield


def load(
    spec: dict, *, record_size: int = 32, normalization: str = "extractor", fine_tune: FineTune | None = None
) -> Extractor:
    return load_network(
        spec,
        record_size=record_size,
        normalization=normalization,
        fine_tune=fine_tune,
    )


def random_images(count: int = 3, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)


def hand_built(name: str, **options) -> keras.Model:
    """A network of keras.applications for 32 px, with the random weights that extractors get."""
    keras.utils.set_random_seed(RANDOM_WEIGHTS_SEED)
    make = getattr(keras.applications, name)
    return make(include_top=False, pooling="avg", input_shape=(32, 32, 3), weights=None, **options)


def test_an_extractor_maps_records_to_float32_features():
    extractor = load(TINY)
    assert (extractor.name, extractor.spec, extractor.dimension) == ("Tiny", TINY, 8)
    assert (extractor.model.input["image"].dtype, extractor.model.input["image"].shape) == ("uint8", (None, 32, 32, 1))
    features = extractor.model({"image": random_images(5)})
    assert (features.dtype, features.shape) == ("float32", (5, 8))
    assert extractor.model.trainable_weights == []


def test_batch_norms_of_a_frozen_network_stay_in_inference_mode():
    extractor, images = load(TINY), random_images()
    expected = np.asarray(extractor.model({"image": images}))
    np.testing.assert_array_equal(extractor.model({"image": images}, training=True), expected)


@pytest.mark.parametrize(
    ("name", "options", "to_range"),
    [
        ("MobileNet", {"alpha": 0.25}, lambda rgb: rgb / 127.5 - 1),  # [-1, 1]
        ("VGG16", {}, lambda rgb: rgb[..., ::-1] - [103.939, 116.779, 123.68]),  # BGR minus ImageNet's mean
    ],
)
def test_a_keras_network_gets_its_own_range(name, options, to_range):
    images = random_images()
    rgb = np.repeat(images, 3, axis=-1).astype(np.float32)
    module = {"MobileNet": keras.applications.mobilenet, "VGG16": keras.applications.vgg16}[name]
    np.testing.assert_allclose(module.preprocess_input(rgb.copy()), to_range(rgb), atol=1e-4)
    expected = np.asarray(hand_built(name, **options)(to_range(rgb).astype(np.float32)))
    spec = {"source": "keras", "name": name, "weights": None, "image_size": 32, **options}
    found = load(spec, fine_tune=FineTune())  # a frozen network would round 1e-17 to float16
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found.model({"image": images}), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_per_image_normalization_feeds_standardised_pixels():
    images = random_images()
    pixels = images.astype(np.float64)
    mean, stddev = (f(pixels, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    rgb = np.repeat((pixels - mean) / stddev, 3, axis=-1).astype(np.float32)
    expected = np.asarray(hand_built("Tiny")(rgb))
    found = load(TINY, normalization="per_image").model({"image": images})
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert not np.allclose(found, load(TINY).model({"image": images}), rtol=1e-2)


def test_records_of_another_size_are_resized_with_antialiasing():
    import tensorflow as tf

    images = random_images(2, 80)
    resized = tf.image.resize(tf.cast(images, tf.float32), (32, 32), antialias=True)
    expected = hand_built("Tiny")(tf.repeat(resized, 3, axis=-1) / 127.5 - 1)
    found = load(TINY, record_size=80).model({"image": images})
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_random_weights_are_the_same_at_every_load():
    first = load(TINY)
    keras.utils.set_random_seed(1)
    second = load(TINY)
    for value, again in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, again)
    assert first.sha256 == second.sha256
    assert load({**TINY, "width": 3}).sha256 != first.sha256


def test_the_hash_of_a_weights_file_depends_on_every_weight(tmp_path):
    network = hand_built("Tiny")
    network.save_weights(tmp_path / "same.weights.h5")
    bias = network.layers[2].beta
    bias.assign(bias + 0.5)
    network.save_weights(tmp_path / "other.weights.h5")
    same = load({**TINY, "weights": str(tmp_path / "same.weights.h5")})
    other = load({**TINY, "weights": str(tmp_path / "other.weights.h5")})
    assert same.sha256 == load(TINY).sha256 != other.sha256
    rgb = np.repeat(random_images(), 3, axis=-1) / np.float32(127.5) - 1
    np.testing.assert_allclose(other.model({"image": random_images()}), network(rgb), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"source": "keras", "name": "ResNet50V3"}, "has no network 'ResNet50V3'. Did you mean 'ResNet50V2'?"),
        ({"source": "keras", "name": "densenet121"}, "has no network 'densenet121'. Did you mean 'DenseNet121'?"),
        ({"source": "keras"}, "has no 'name'"),
        ({"source": "torch", "name": "resnet50"}, "source must be 'keras', 'hub', 'keras_hub'"),
        ({"name": "ResNet50"}, "source must be 'keras', 'hub', 'keras_hub'"),
        ({**MOBILE, "image_size": 16}, "rejects images of 16 pixels"),
        ({**MOBILE, "image_size": "large"}, "image_size is 'large', of the wrong type"),
        ({**MOBILE, "alfa": 0.5}, "alfa"),
        ({**MOBILE, "alpha": -1}, "MobileNet rejects images of 32 pixels or the options {'alpha': -1}"),
        ({**MOBILE, "include_top": True}, "include_top"),
        ({"source": "hub", "handle": "x", "imagesize": 160}, "imagesize"),  # DESIGN: unknown keys raise
        ({"source": "experiment", "model_dir": "x", "image_size": 160}, "image_size"),
    ],
)
def test_invalid_extractors_are_rejected(spec, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        load(spec)


def test_a_missing_weights_file(tmp_path):
    text = f'no weights file {tmp_path / "absent.h5"} for Tiny; correct "weights" in params.json'
    with pytest.raises(FileNotFoundError, match=re.escape(text)):
        load({**TINY, "weights": str(tmp_path / "absent.h5")})


@pytest.mark.parametrize("kind", ["another width", "another network", "no weights"])
def test_a_weights_file_that_does_not_fit(tmp_path, kind):
    path = tmp_path / "strange.weights.h5"
    if kind == "another width":
        hand_built("Tiny", width=3).save_weights(path)
    elif kind == "another network":
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    else:
        path.write_text("<html>404</html>")
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(path))} does not fit Tiny without its classification layers: "
    ) as caught:
        load({**TINY, "weights": str(path)})
    assert len(str(caught.value).splitlines()) == 1  # the command prints it as one line


def test_imagenet_weights_offline(tmp_path, monkeypatch):
    def no_network(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", no_network)
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))  # read when Keras is imported
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    spec = {"source": "keras", "name": "MobileNet", "alpha": 0.25}  # weights "imagenet" is the default
    with pytest.raises(ConnectionError) as caught:
        load(spec)
    text = str(caught.value)
    assert "could not download the ImageNet weights of MobileNet: " in text
    assert "mobilenet_2_5_224_tf_no_top.h5" in text  # "the file of that name"
    assert "no route to host" in text
    assert f"into {tmp_path}/models, or give its path as weights in params.json" in text


def test_the_same_network_from_keras_and_from_hub_gives_the_same_features(shared_dir):
    path = str(shared_dir / "hub/mobilenet_2_5_224_tf_no_top.h5")
    images = random_images(2, 128)
    specs = (
        {"source": "keras", "name": "MobileNet", "alpha": 0.25, "weights": path},
        {"source": "hub", "handle": str(shared_dir / "hub/mobilenet_v1_025_224")},
    )
    ours, theirs = (np.asarray(load(spec, record_size=128).model({"image": images})) for spec in specs)
    assert ours.shape == (2, 256)
    assert ours.max() > 0.5
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_features_are_rounded_to_float16_as_in_the_cache():
    found = np.asarray(as_cached(np.array([[0.1, 1 / 3, 2049.0]], np.float32)))
    np.testing.assert_array_equal(found, np.array([[0.1, 1 / 3, 2048.0]]).astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("batch_norm", "unfreeze", "needed"),  # MobileNet ends with a convolution, its batch norm, ReLU and pooling
    [("frozen", 1, 4), ("frozen", 3, 4), ("trained", 2, 3)],
)
def test_unfreezing_layers_without_weights_is_rejected(batch_norm, unfreeze, needed):
    text = (
        rf"^fine_tune: unfreeze {unfreeze} has no effect in params\.json: none of the last layers of "
        rf"mobilenet_0\.25_32 has weights to train with batch_norm '{batch_norm}'; unfreeze {needed} or more$"
    )
    with pytest.raises(ValueError, match=text):
        load(MOBILE, fine_tune=FineTune(batch_norm=batch_norm, unfreeze=unfreeze))
    enough = load(MOBILE, fine_tune=FineTune(batch_norm=batch_norm, unfreeze=needed))
    assert len(enough.model.trainable_weights) == {"frozen": 1, "trained": 2}[batch_norm]  # kernel; gamma and beta
