"""Networks of keras.applications with ImageNet weights, weights from a file, or random weights."""

import difflib
import importlib
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from cxr import experiment
from cxr.seen import where_published
from cxr.specs import KEYS, is_radimagenet, without

if TYPE_CHECKING:
    import keras

RANDOM_WEIGHTS_SEED = 230  # random weights are not stored, so every load must draw the same ones
DEFAULT_SIZE = 224  # pixels per side, as in the training of almost every ImageNet network


def keras_network(spec: dict) -> tuple["keras.Model", Callable]:
    """A network of keras.applications up to its global average pooling, and its preprocess_input.

    Args:
        spec: an extractor of source "keras", see cxr/specs.py.

    Raises:
        ValueError: the network is unknown, or rejects its options, its size or its weights.
        FileNotFoundError, ConnectionError: the weights cannot be found or downloaded.
    """
    import keras

    options = without(spec, KEYS["keras"])
    name = spec.get("name", "")
    size = spec.get("image_size", DEFAULT_SIZE)
    weights = spec.get("weights", "imagenet")
    make = _constructor(name)
    if weights not in ("imagenet", None) and not pathlib.Path(weights).is_file():
        where = f". {where_published(spec)}" if is_radimagenet(spec) else ""
        raise FileNotFoundError(f'no weights file {weights} for {name}; correct "weights" in params.json{where}')
    if weights is None:
        keras.utils.set_random_seed(RANDOM_WEIGHTS_SEED)
    try:
        network = make(
            include_top=False,
            pooling="avg",
            input_shape=(size, size, 3),
            weights="imagenet" if weights == "imagenet" else None,
            **options,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} rejects images of {size} pixels or the options {options}: {error}") from error
    except Exception as error:  # Keras raises a plain Exception for a failed download
        if "URL fetch failure" not in str(error):
            raise
        raise ConnectionError(
            f"could not download the ImageNet weights of {name}: {error}. Offline, put the file of that name "
            f"into {os.environ.get('KERAS_HOME', '~/.keras')}/models, or give its path as weights in params.json."
        ) from error
    if weights not in ("imagenet", None):
        _load_weights(network, spec)
    module = importlib.import_module(f"keras.applications.{make.__module__.rsplit('.', 1)[-1]}")
    return network, module.preprocess_input


def _constructor(name: str) -> Callable:
    """The function of keras.applications that makes a network; ValueError names the nearest one if it is unknown."""
    import keras

    constructors = {key: value for key, value in vars(keras.applications).items() if callable(value)}
    if name not in constructors:
        near = difflib.get_close_matches(name, sorted(constructors), n=1, cutoff=0)
        raise ValueError(f"keras.applications has no network {name!r}. Did you mean {near[0]!r}?")
    return constructors[name]


def _load_weights(network: "keras.Model", spec: dict) -> None:
    """Load the weights file of a spec; raises as `keras_network`."""
    name = spec["name"]
    path = pathlib.Path(spec["weights"])
    try:
        experiment.read_weights(network, path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} does not fit {name} without its classification layers: {reason}") from error
