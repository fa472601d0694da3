import re
import warnings

import keras
import numpy as np
import pytest

from cxr.networks import ranges
from cxr.networks.extractors import load_network

GREY = np.array([0.0, 51.0, 255.0], np.float32).reshape(3, 1, 1, 1).repeat(3, axis=-1)  # [3, 1, 1, 3]
MOBILE = {"source": "keras", "name": "MobileNet", "weights": None, "alpha": 0.25, "image_size": 32}


@pytest.mark.parametrize(
    ("spec", "expected"),  # of the grey levels 0, 51 and 255, the same in every channel
    [
        ({"range": [0, 1]}, [0, 0.2, 1]),
        ({"range": [-1024, 1024]}, [-1024, -614.4, 1024]),
        ({"range": [1, 0]}, [1, 0.8, 0]),  # inverted
        ({"mean": 0.5, "std": 0.25}, [-2, -1.2, 2]),
    ],
)
def test_a_stated_range(spec, expected):
    found = ranges.stated_range(spec)(GREY)
    np.testing.assert_allclose(found[:, 0, 0], np.repeat(np.array(expected)[:, None], 3, axis=1), rtol=1e-6)


def test_a_mean_and_std_of_each_channel():
    found = ranges.stated_range({"mean": [0.2, 0.2, 0.7], "std": [0.5, 1, 0.1]})(GREY)
    np.testing.assert_allclose(found[1, 0, 0], [0, 0, -5], atol=1e-6)  # grey level 51 is 0.2


def test_a_source_keeps_its_own_range_without_one():
    assert ranges.stated_range({"source": "keras", "name": "ResNet50", "weights": "my.h5"}) is None


def radimagenet_generator():
    """The generator of RadImageNet's published training scripts, in the order in which Keras applies its parts."""
    from keras.src.applications.imagenet_utils import preprocess_input
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(rescale=1.0 / 255, preprocessing_function=preprocess_input)


@pytest.mark.parametrize(
    "spec",
    [
        {"source": "keras", "name": "DenseNet121", "weights": "RadImageNet-DenseNet121_notop.h5"},
        {"source": "keras", "name": "ResNet50", "weights": "renamed.h5", "range": "radimagenet"},
    ],
)
def test_radimagenet_gets_the_range_of_its_training(spec):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        generator = radimagenet_generator()
    expected = np.stack([generator.standardize(image.copy()) for image in pixels])
    np.testing.assert_allclose(ranges.stated_range(spec)(pixels), expected, atol=1e-6)
    assert expected.min() < -0.4  # black is -0.41 to -0.49, not -0.408 * 255


def test_another_range_for_a_radimagenet_file_can_be_asked_for():
    spec = {"source": "keras", "weights": "RadImageNet-ResNet50_notop.h5", "range": [0, 1]}
    assert ranges.stated_range(spec)(GREY)[1, 0, 0, 0] == pytest.approx(0.2)


def test_what_a_network_is_fed_in_words():
    assert ranges.fed(224, lambda pixels: pixels / 127.5 - 1) == "224 x 224 pixels, black is -1, white is 1"
    assert ranges.fed(32, ranges.radimagenet_range) == (
        "32 x 32 pixels, black is [-0.4076, -0.458, -0.485], white is [0.5924, 0.542, 0.515]"
    )
    assert ranges.fed(96, None) == "96 x 96 pixels, standardised per image"


def test_a_network_is_fed_the_stated_range_and_its_hash_tells_it_apart():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    load = lambda **keys: load_network(MOBILE | keys, record_size=32, normalization="extractor")  # noqa: E731
    own = load()
    same = load(range=[-1, 1])
    other = load(mean=0.5, std=0.25)
    np.testing.assert_allclose(same.model({"image": images}), own.model({"image": images}), rtol=1e-3, atol=1e-6)
    network = other.model.get_layer("mobilenet_0.25_32")
    expected = network((images.repeat(3, axis=-1).astype(np.float32) / 255 - 0.5) / 0.25)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(other.model({"image": images}), expected, rtol=1e-3, atol=1e-6)
    assert len({own.sha256, same.sha256, other.sha256}) == 3
    assert other.fed == "32 x 32 pixels, black is -2, white is 2"


def test_a_file_of_radimagenet_is_recognised_when_it_is_loaded(tmp_path):
    network = keras.applications.MobileNet(
        include_top=False, alpha=0.25, weights=None, input_shape=(32, 32, 3), pooling="avg"
    )
    path = tmp_path / "RadImageNet-MobileNet_notop.h5"
    network.save(path)  # a whole model in Keras's old format, as RadImageNet's files are
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    spec = {"source": "keras", "name": "MobileNet", "alpha": 0.25, "weights": str(path), "image_size": 32}
    found = load_network(spec, record_size=32, normalization="extractor")
    expected = network(ranges.radimagenet_range(images.repeat(3, axis=-1).astype(np.float32)))
    np.testing.assert_allclose(found.model({"image": images}), expected, rtol=1e-3, atol=1e-6)
    assert "black is [-0.4076, -0.458, -0.485]" in found.fed
    renamed = path.rename(tmp_path / "own.h5")
    other = load_network(spec | {"weights": str(renamed)}, record_size=32, normalization="extractor")
    assert other.sha256 != found.sha256  # run.json compares it, so a renamed file cannot change the range unseen
    assert "black is -1" in other.fed


def test_without_the_file_the_error_says_where_it_is_published():
    spec = {"source": "keras", "name": "ResNet50", "weights": "models/RadImageNet-ResNet50_notop.h5"}
    text = (
        'no weights file models/RadImageNet-ResNet50_notop.h5 for ResNet50; correct "weights" in params.json. '
        "It is published at https://github.com/BMEII-AI/RadImageNet; docs/encoders.md says how to get"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(text)):
        load_network(spec, record_size=32, normalization="extractor")


IMAGES = np.arange(4 * 4, dtype=np.uint8).reshape(4, 2, 2, 1)
WORDS = {"name": "net", "words": "32 x 32 pixels, black is 0, white is 1"}


def test_features_that_do_not_depend_on_the_image_are_an_error():
    features = np.ones((4, 8), np.float16) * np.arange(8, dtype=np.float16)
    text = (
        "the features of net are constant: the same for all 4 different images of the first batch. The network was fed "
        '32 x 32 pixels, black is 0, white is 1; correct "range" (or "mean" and "std"), "image_size" or the weights'
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        ranges.require_live(features, IMAGES, **WORDS)
    ranges.require_live(features, IMAGES[:1].repeat(4, axis=0), **WORDS)  # they are one image
    features[1, 7] = 7.03  # one feature differs by more than the rounding of the cache, 7 / 1024
    ranges.require_live(features, IMAGES, **WORDS)


def test_features_that_are_almost_all_at_their_limits_are_an_error():
    features = np.sign(np.random.default_rng(0).normal(size=(4, 300))).astype(np.float16)
    features[0, :12] = 0.5  # 12 of 1,200 values are not at a limit: exactly 99 % are
    with pytest.raises(ValueError, match=r"saturated: 99\.0 % of them in the first batch are -1 or 1\. The network"):
        ranges.require_live(features, IMAGES, **WORDS)
    features[0, 12] = 0.5
    ranges.require_live(features, IMAGES, **WORDS)
