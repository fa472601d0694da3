"""A tiny network like those of keras.applications, for tests in which any network will do."""

from pathlib import Path

import keras

TINY = {"source": "keras", "name": "Tiny", "weights": None, "image_size": 32}


def tiny_network(*, include_top: bool, pooling: str, input_shape: tuple, weights: None) -> keras.Model:
    """A tiny network like those of keras.applications: image, conv, bn, relu, conv, bn, relu, mean."""
    assert (include_top, pooling, weights) == (False, "avg", None)
    image = hidden = keras.Input(input_shape)
    for place, channels in enumerate((4, 8), 1):
        hidden = keras.layers.Conv2D(channels, 3, strides=2, use_bias=False, name=f"conv{place}")(hidden)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"bn{place}")(hidden))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(hidden), name="tiny")


def register_tiny() -> None:
    """Register it as keras.applications.Tiny, with the range of MobileNet: [-1, 1]."""
    tiny_network.__module__ = keras.applications.MobileNet.__module__
    keras.applications.Tiny = tiny_network


def save_tiny(path: Path, seed: int = 0) -> dict:
    """A Tiny as an extractor of params.json, with kernels so large that its features differ."""
    register_tiny()
    keras.utils.set_random_seed(seed)
    network = tiny_network(include_top=False, pooling="avg", input_shape=(32, 32, 3), weights=None)
    network.set_weights([weight * 5 if weight.ndim == 4 else weight for weight in network.get_weights()])
    network.save_weights(path)
    return TINY | {"weights": str(path)}
