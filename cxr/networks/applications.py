"""Networks of keras.applications, with ImageNet weights, those of a file, or random ones."""

import difflib
import importlib
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from cxr import experiment

if TYPE_CHECKING:
    import keras

RANDOM_WEIGHTS_SEED = 230  # random weights must be the same ones at every load: nobody stores them
DEFAULT_SIZE = 224  # pixels: what almost every ImageNet network was trained on


def keras_network(spec: dict) -> tuple["keras.Model", Callable]:
    """A keras.applications network up to its global average pooling, and its preprocess_input.

    Args:
        spec: of an extractor of source "keras", see cxr/networks/extractors.py.

    Raises:
        ValueError: no such network, options or a size that it refuses, weights of another.
        FileNotFoundError, ConnectionError: weights that are not there.
    """
    import keras

    options = {k: v for k, v in spec.items() if k not in ("source", "name", "weights", "image_size")}
    name, size, weights = spec.get("name", ""), spec.get("image_size", DEFAULT_SIZE), spec.get("weights", "imagenet")
    networks = {key for key, value in vars(keras.applications).items() if callable(value)}
    if name not in networks:
        near = difflib.get_close_matches(name, sorted(networks), n=1, cutoff=0)
        raise ValueError(f"keras.applications has no network {name!r}. Did you mean {near[0]!r}?")
    make = getattr(keras.applications, name)
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
        raise ValueError(f"{name} with {options} refuses images of {size} pixels or these options: {error}") from error
    except Exception as error:  # keras raises a bare Exception for a failed download
        if "URL fetch failure" not in str(error):
            raise
        raise ConnectionError(
            f"could not fetch the ImageNet weights of {name}: {error}. Without a network, put the file of that name "
            f"into {os.environ.get('KERAS_HOME', '~/.keras')}/models, or give its path as weights in params.json."
        ) from error
    if weights not in ("imagenet", None):
        _load_weights(network, name, pathlib.Path(weights))
    module = importlib.import_module(f"keras.applications.{make.__module__.rsplit('.', 1)[-1]}")
    return network, module.preprocess_input


def _load_weights(network: "keras.Model", name: str, path: pathlib.Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f'no weights file {path} for {name}; mend "weights" in params.json')
    try:
        experiment.read_weights(network, path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} does not fit {name} without its top: {reason}") from error
