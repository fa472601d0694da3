"""Frozen networks that turn an image into a feature vector: keras.applications, hub modules, trained experiments.

Each extractor has its own input size and range. In params.json it is one of

    {"source": "keras", "name": "ResNet50V2", "weights": "imagenet"}
    {"source": "hub", "handle": "https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5"}
    {"source": "experiment", "model_dir": "experiments/simple_cnn"}

"weights" may also be a weights file, or null for random weights. Further keys of a keras extractor are passed to its
constructor: "alpha": 0.25. "handle" may also be a folder. keras and hub accept "image_size" (default 224).
"""

import difflib
import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxr.networks.applications import DEFAULT_SIZE, keras_network
from cxr.networks.pixels import resize, standardize
from cxr.params import FineTune

if TYPE_CHECKING:
    import keras
    import openvino

KEYS = {  # keys of a spec and their types, by source
    "keras": {"source": str, "name": str, "weights": str | None, "image_size": int},
    "hub": {"source": str, "handle": str, "image_size": int},
    "experiment": {"source": str, "model_dir": str},
}
REQUIRED = ("name", "handle", "model_dir")


class Extractor(NamedTuple):
    """A network from the pixels of a record to features."""

    name: str  # short, for layer and folder names
    spec: dict  # its object in params.json
    model: "keras.Model | openvino.Model"  # {"image": uint8 [B, H, W, 1]} -> float32 [B, D]
    sha256: str  # hash of its weights

    @property
    def dimension(self) -> int:
        """D, the number of features."""
        if hasattr(self.model, "get_ops"):  # an openvino.Model
            return self.model.outputs[0].partial_shape[1].get_length()
        return self.model.output.shape[-1]


def extractor_name(spec: dict) -> str:
    """A short name: that of the network, of the experiment's folder, or the last distinctive word of a hub handle."""
    path = spec.get("name") or spec.get("handle") or spec.get("model_dir") or "extractor"
    words = [word for word in path.split("/") if word and not word.isdigit() and word not in ("feature_vector", "..")]
    return words[-1] if words else "extractor"


def extractor_names(specs: Sequence[dict]) -> dict[str, dict]:
    """Extractors by name; a second one of the same name is called <name>_2."""
    named = {}
    for spec in specs:
        check_spec(spec)
        name = extractor_name(spec)
        numbered = (f"{name}_{count}" for count in itertools.count(2))
        free = next(candidate for candidate in itertools.chain([name], numbered) if candidate not in named)
        named[free] = spec
    return named


def check_spec(spec: dict) -> None:
    """Raise ValueError unless a spec has a known source and all required keys, and no unknown key."""
    source = spec.get("source")
    if source not in KEYS:
        raise ValueError(f"extractor {spec}: source must be {', '.join(map(repr, KEYS))}")
    for key, kind in KEYS[source].items():
        if key not in spec and key in REQUIRED:
            raise ValueError(f"extractor {spec} has no {key!r}")
        if key in spec and not isinstance(spec[key], kind):
            raise ValueError(f"extractor {spec}: {key} is {spec[key]!r}, of the wrong type")
    if source != "keras":  # further keys of a keras extractor are options of the network
        for key in spec.keys() - KEYS[source].keys():
            near = difflib.get_close_matches(key, KEYS[source], n=1, cutoff=0)
            raise ValueError(f"extractor {spec}: unknown key {key!r}. Did you mean {near[0]!r}?")


def load_network(
    spec: dict,
    *,
    name: str | None = None,
    record_size: int,
    normalization: str,
    fine_tune: FineTune | None = None,
) -> Extractor:
    """Load a network of keras.applications or a hub module as an extractor for records of `record_size` pixels.

    For source "experiment" see `assembly.load_extractor`.

    Args:
        spec: see the docstring of this module.
        name: name of the extractor; default `extractor_name(spec)`.
        normalization: "extractor" feeds the range that the network was trained on; "per_image" feeds per-image
            standardised pixels, as the 2018 study did.
        fine_tune: None freezes the network; otherwise it says which layers and batch norms are trained.

    Raises:
        ValueError: the source or network is unknown, or the network rejects its weights or size.
        FileNotFoundError, ConnectionError: the weights cannot be found or downloaded.
    """
    import keras

    check_spec(spec)
    name = name or extractor_name(spec)
    network, to_range = (keras_network if spec["source"] == "keras" else _hub_network)(spec)
    image = keras.Input((record_size, record_size, 1), dtype="uint8", name="image")
    pixels = network_input(image, spec.get("image_size", DEFAULT_SIZE), normalization, to_range)
    if fine_tune and fine_tune.batch_norm == "trained" and keras.backend.backend() == "tensorflow":
        from cxr.networks.batch_norm import with_fused_norms

        network = with_fused_norms(network)
    set_trainable(network, fine_tune)
    inference = {} if fine_tune else {"training": False}
    features = network(pixels, **inference)
    features = keras.ops.cast(features, "float32") if fine_tune else as_cached(features)
    model = keras.Model({"image": image}, features, name=f"{name}_extractor")
    return Extractor(name, spec, model, weights_sha256(network))


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


def network_input(image, size: int, normalization: str, to_range: Callable):
    """Convert the pixels of records to the input of a network: float32 RGB [B, size, size, 3] in its range.

    Args:
        image: uint8 [B, H, W, 1].
        to_range: maps [0, 255] to the range of the network.
    """
    import keras

    pixels = resize(keras.ops.cast(image, "float32"), size)
    if normalization == "per_image":
        pixels = standardize(pixels)
    pixels = keras.ops.repeat(pixels, 3, axis=-1)
    return pixels if normalization == "per_image" else to_range(pixels)


def _hub_network(spec: dict) -> tuple["keras.Layer", Callable]:
    """A hub module, and the map of pixels to [0, 1], the input range of image modules of TensorFlow Hub."""
    from cxr.networks.hub import HubModule

    return HubModule(spec["handle"], spec.get("image_size", DEFAULT_SIZE)), lambda pixels: pixels / 255.0


def weights_sha256(network) -> str:
    """SHA-256 of the weights of a network in their order, or of the files of a hub module."""
    if hasattr(network, "sha256"):
        return network.sha256()
    digest = hashlib.sha256()
    for variable in network.weights:
        digest.update(np.ascontiguousarray(variable).tobytes())
    return digest.hexdigest()
