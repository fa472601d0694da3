"""Frozen networks that turn an image into a feature vector: keras.applications, hub modules, presets of KerasHub.

Each has its own input size and range. cxr/specs.py lists what params.json can say of them; trained experiments as
extractors are made in cxr/networks/assembly.py.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxr.networks import ranges
from cxr.networks.applications import DEFAULT_SIZE, keras_network
from cxr.networks.pixels import resize, standardize
from cxr.networks.presets import preset_network
from cxr.params import FineTune
from cxr.specs import check_spec, extractor_name

if TYPE_CHECKING:
    import keras
    import openvino


class Extractor(NamedTuple):
    """A network from the pixels of a record to features."""

    name: str  # short, for layer and folder names
    spec: dict  # its object in params.json
    model: "keras.Model | openvino.Model"  # {"image": uint8 [B, H, W, 1]} -> float32 [B, D]
    sha256: str  # hash of its weights, and of a range that its source does not fix
    fed: str = "pixels as in its own training"  # what the network is fed, in words

    @property
    def dimension(self) -> int:
        """D, the number of features."""
        if hasattr(self.model, "get_ops"):  # an openvino.Model
            return self.model.outputs[0].partial_shape[1].get_length()
        return self.model.output.shape[-1]


def load_network(
    spec: dict,
    *,
    name: str | None = None,
    record_size: int,
    normalization: str,
    fine_tune: FineTune | None = None,
) -> Extractor:
    """Load a pretrained network as an extractor for records of `record_size` pixels.

    For source "experiment" see `assembly.load_extractor`.

    Args:
        spec: see cxr/specs.py.
        name: name of the extractor; default `extractor_name(spec)`.
        normalization: "extractor" feeds the range that the network was trained on; "per_image" feeds per-image
            standardised pixels, as the 2018 study did.
        fine_tune: None freezes the network; otherwise it says which layers and batch norms are trained.

    Raises:
        ValueError: the source or network is unknown, or the network rejects its weights or size.
        FileNotFoundError, ConnectionError: the weights cannot be found or downloaded.
        ImportError: the library of the source is not installed.
    """
    import keras

    check_spec(spec)
    name = name or extractor_name(spec)
    network, own_range, size = LOADERS[spec["source"]](spec)
    stated = ranges.stated_range(spec)
    to_range = None if normalization == "per_image" else stated or own_range
    fed = ranges.fed(size, to_range)
    image = keras.Input((record_size, record_size, 1), dtype="uint8", name="image")
    pixels = network_input(image, size, to_range)
    if fine_tune and keras.backend.backend() == "tensorflow":
        from cxr.networks.fast_kernels import with_fast_kernels

        network = with_fast_kernels(network, trains_norms=fine_tune.batch_norm == "trained")
    set_trainable(network, fine_tune)
    inference = {} if fine_tune else {"training": False}
    features = network(pixels, **inference)
    features = keras.ops.cast(features, "float32") if fine_tune else as_cached(features)
    model = keras.Model({"image": image}, features, name=f"{name}_extractor")
    is_own = not stated and spec["source"] in ("keras", "hub")  # the range then follows from the network
    return Extractor(name, spec, model, weights_sha256(network, "" if is_own or to_range is None else fed), fed)


def as_cached(features):
    """Features as float32, rounded to the float16 of the feature cache, so that a head sees the same numbers."""
    from keras import ops

    return ops.cast(ops.cast(features, "float16"), "float32")


def set_trainable(network: "keras.Layer", fine_tune: FineTune | None) -> None:
    """Freeze a network, or unfreeze the layers that fine-tuning trains.

    Raises:
        ValueError: none of the layers to unfreeze has weights to train.
    """
    import keras

    network.trainable = fine_tune is not None
    if fine_tune is None:
        return
    if fine_tune.batch_norm == "frozen":
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # in Keras this also means inference mode
    if fine_tune.unfreeze == "all":
        return
    needed = next((n for n, layer in enumerate(reversed(network.layers), 1) if layer.trainable_weights), 0)
    if fine_tune.unfreeze < needed:
        raise ValueError(
            f"fine_tune: unfreeze {fine_tune.unfreeze} has no effect in params.json: none of the last layers of "
            f"{network.name} has weights to train with batch_norm {fine_tune.batch_norm!r}; unfreeze {needed} or more"
        )
    for layer in network.layers[: -fine_tune.unfreeze]:
        layer.trainable = False


def network_input(image, size: int, to_range: Callable | None):
    """Convert the pixels of records to the input of a network: float32 RGB [B, size, size, 3] in its range.

    Args:
        image: uint8 [B, H, W, 1].
        to_range: maps [0, 255] to the range of the network; None standardises each image.
    """
    import keras

    pixels = resize(keras.ops.cast(image, "float32"), size)
    if to_range is None:
        pixels = standardize(pixels)
    pixels = keras.ops.repeat(pixels, 3, axis=-1)
    return pixels if to_range is None else to_range(pixels)


def _keras_network(spec: dict) -> tuple["keras.Model", Callable, int]:
    """A network of keras.applications, its preprocess_input and its input size."""
    return *keras_network(spec), spec.get("image_size", DEFAULT_SIZE)


def _hub_network(spec: dict) -> tuple["keras.Layer", Callable, int]:
    """A hub module, the map of pixels to [0, 1], the input range of image modules of TensorFlow Hub, and its size."""
    from cxr.networks.hub import HubModule

    size = spec.get("image_size", DEFAULT_SIZE)
    return HubModule(spec["handle"], size), lambda pixels: pixels / 255.0, size


LOADERS = {"keras": _keras_network, "hub": _hub_network, "keras_hub": preset_network}  # by source


def weights_sha256(network, fed: str = "") -> str:
    """SHA-256 of the weights of a network in their order, or of the files of a hub module.

    Args:
        fed: what the network is fed, in words, where neither the source nor the weights decide that.
    """
    if hasattr(network, "sha256"):
        own = network.sha256()
        return hashlib.sha256(f"{own} {fed}".encode()).hexdigest() if fed else own
    digest = hashlib.sha256(fed.encode())
    for variable in network.weights:
        digest.update(np.ascontiguousarray(variable).tobytes())
    return digest.hexdigest()
