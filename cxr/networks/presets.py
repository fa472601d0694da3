"""Image backbones of KerasHub: presets by name, from Hugging Face or Kaggle, or in a local folder. Frozen."""

import json
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cxr.seen import where_published

if TYPE_CHECKING:
    import keras

PREPROCESSOR = "preprocessor_config.json"  # of Hugging Face: rescale_factor, image_mean, image_std, crop_size, size
NOT_INSTALLED = "extractors of source 'keras_hub' need KerasHub. Run: pip install -r requirements/hub.txt"


def preset_network(spec: dict) -> tuple["keras.Model", Callable, int]:
    """A preset's image backbone as a model [B, size, size, 3] to [B, D], the map to its range, and its input size.

    Args:
        spec: an extractor of source "keras_hub", see cxr/specs.py.

    Raises:
        ImportError: KerasHub is not installed.
        ConnectionError: the preset cannot be downloaded.
        ValueError: the preset does not exist, rejects the size, states no range or size, or has another output.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(NOT_INSTALLED) from error
    preset = spec["preset"]
    try:
        backbone = image_backbone(keras_hub, preset, spec.get("image_size"))
        to_range, converter_size = preprocessing(keras_hub, preset)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _load_error(spec, error) from error
    if to_range is None and "range" not in spec and "mean" not in spec:
        raise ValueError(
            f'{preset} does not state the range of its images; add "range", or "mean" and "std", to the extractor'
        )
    size = spec.get("image_size") or _fixed_size(backbone) or converter_size
    if size is None:
        raise ValueError(f'{preset} does not state the size of its images; add "image_size" to the extractor')
    return pooled(backbone, size, spec), to_range, size


def image_backbone(keras_hub, preset: str, size: int | None) -> "keras.Model":
    """The backbone of a preset; of one for images and text the vision encoder."""
    import keras

    options = {"image_shape": (size, size, 3)} if size else {}
    backbone = keras_hub.models.Backbone.from_preset(preset, dtype=keras.config.dtype_policy(), **options)
    backbone = getattr(backbone, "vision_encoder", backbone)
    if not hasattr(backbone, "image_shape"):
        raise ValueError(f"it is a {type(backbone).__name__}, which takes no images")
    if size and _fixed_size(backbone) not in (None, size):
        raise ValueError(f"it takes images of {_fixed_size(backbone)} pixels only")
    return backbone


def preprocessing(keras_hub, preset: str) -> tuple[Callable | None, int | None]:
    """The map of RGB pixels [0, 255] to a preset's range, and its size; each None if the preset does not state it."""
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except (OSError, ValueError):  # its file is absent
        converter = None
    if converter is None:  # KerasHub reads none of Hugging Face's for most networks
        return _hugging_face_preprocessing(preset)
    size = converter.image_size and converter.image_size[0]
    if converter.scale is None and converter.offset is None:
        return None, size
    scale = np.asarray(1 if converter.scale is None else converter.scale, np.float32)
    offset = np.asarray(0 if converter.offset is None else converter.offset, np.float32)
    return lambda pixels: pixels * scale + offset, size


def _hugging_face_preprocessing(preset: str) -> tuple[Callable | None, int | None]:
    """As `preprocessing`, from the preprocessor_config.json of a Hugging Face repository or folder."""
    if preset.startswith("hf://"):
        import huggingface_hub

        try:
            path = pathlib.Path(huggingface_hub.hf_hub_download(preset.removeprefix("hf://"), PREPROCESSOR))
        except huggingface_hub.utils.EntryNotFoundError:
            return None, None
    else:
        path = pathlib.Path(preset) / PREPROCESSOR
    if not path.is_file():
        return None, None
    config = json.loads(path.read_text())
    mean, std = (np.asarray(config[key], np.float32) for key in ("image_mean", "image_std"))
    factor = config.get("rescale_factor", 1 / 255)
    sizes = config.get("crop_size") or config.get("size") or {}
    size = sizes if isinstance(sizes, int) else sizes.get("height") or sizes.get("shortest_edge")
    return lambda pixels: (pixels * factor - mean) / std, size


def pooled(backbone: "keras.Model", size: int, spec: dict) -> "keras.Model":
    """A backbone from images [B, size, size, 3] to features [B, D]: pooled over space, or one or all of its tokens.

    Raises:
        ValueError: the spec's token does not suit the output of the backbone.
    """
    import keras

    preset, token = spec["preset"], spec.get("token")
    images = keras.Input((size, size, 3), name="images")
    output = backbone({"images": images} if isinstance(backbone.input, dict) else images, training=False)
    shape = getattr(output, "shape", ())
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"{preset} returns {output}, expected features [B, D], tokens [B, T, D] or a map [B, h, w, D]")
    if len(shape) != 3:
        if token:
            raise ValueError(f'{preset} returns {list(shape)}, not a sequence of tokens; leave out "token"')
        features = output if len(shape) == 2 else keras.layers.GlobalAveragePooling2D()(output)
    elif token is None:
        raise ValueError(f'{preset} returns {shape[1]} tokens; add "token": "cls" or "mean" to the extractor')
    else:
        first = shape[1] - _patches(backbone, size)  # class and register tokens come first
        if token == "cls" and first == 0:
            raise ValueError(f'{preset} has no class token; use "token": "mean"')
        features = output[:, 0] if token == "cls" else keras.ops.mean(output[:, first:], axis=1)
    return keras.Model(images, features, name=backbone.name)


def _patches(backbone: "keras.Model", size: int) -> int:
    """The number of tokens that are patches of the image."""
    patch = backbone.patch_size
    sides = patch if isinstance(patch, list | tuple) else (patch, patch)
    return (size // sides[0]) * (size // sides[1])


def _fixed_size(backbone: "keras.Model") -> int | None:
    return backbone.image_shape[0]


def _load_error(spec: dict, error: Exception) -> Exception:
    """The error of a preset that does not load, in one line."""
    preset = spec["preset"]
    reason = str(error).strip().splitlines()[0].rstrip(".:")
    if not pathlib.Path(preset).exists() and ("://" in preset or isinstance(error, OSError)):
        return ConnectionError(
            f"KerasHub could not download {preset}: {reason}. {where_published(spec)}. Offline, copy its folder from "
            "another machine and give the path as preset"
        )
    size = f" with images of {spec['image_size']} pixels" if "image_size" in spec else ""
    return ValueError(f"KerasHub could not load {preset}{size}: {reason}")
