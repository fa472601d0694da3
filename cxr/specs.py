"""Extractors in params.json: the keys of each source, their checks, and short names.

    {"source": "keras", "name": "ResNet50V2", "weights": "imagenet"}
    {"source": "hub", "handle": "https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5"}
    {"source": "keras_hub", "preset": "hf://microsoft/rad-dino", "token": "cls"}
    {"source": "onnx", "path": "models/encoder.onnx", "range": [-1, 1]}
    {"source": "experiment", "model_dir": "experiments/simple_cnn"}

"weights" may also be a weights file, or null for random weights. Further keys of a keras extractor are passed to its
constructor: "alpha": 0.25. "handle" and "preset" may also be folders. "token" is "cls" or "mean", for networks that
return a sequence of tokens; "output" is the name or number of one of several outputs. All sources but experiment accept

    "image_size"       pixels per side of the network's input
    "range"            [low, high] that black and white become, or "radimagenet"
    "mean", "std"      (x / 255 - mean) / std instead of a range; one number, or one for each of red, green and blue
    "seen"             the image sets that its weights have seen, see cxr/seen.py
"""

import difflib
import itertools
import pathlib
import re
from collections.abc import Sequence

from cxr import seen

RANGE_KEYS = ("range", "mean", "std")
RADIMAGENET = "radimagenet"  # the range of the RadImageNet networks, see cxr/networks/ranges.py
IMAGES = {"image_size": int, "range": list | str, "mean": list | float | int, "std": list | float | int, "seen": list}
KEYS = {  # keys of a spec and their types, by source
    "keras": {"source": str, "name": str, "weights": str | None, **IMAGES},
    "hub": {"source": str, "handle": str, **IMAGES},
    "keras_hub": {"source": str, "preset": str, "token": str, **IMAGES},
    "onnx": {"source": str, "path": str, "output": str | int, "token": str, **IMAGES},
    "experiment": {"source": str, "model_dir": str},
}
IDENTIFYING = ("name", "handle", "preset", "path", "model_dir")  # what the network is: each source requires one of them
LOCATIONS = ("weights", "handle", "preset", "path", "model_dir")  # they may change: the SHA-256 identifies the network
TOKENS = ("cls", "mean")


def extractor_name(spec: dict) -> str:
    """A short name: that of the network or experiment, or the last distinctive word of a handle or preset."""
    path = next((spec[key] for key in IDENTIFYING if spec.get(key)), "extractor")
    words = [word for word in path.split("/") if word and not word.isdigit() and word not in ("feature_vector", "..")]
    return words[-1].removesuffix(".onnx") if words else "extractor"


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
    """Raise ValueError unless a spec has a known source, all required keys, no unknown key and possible values."""
    source = spec.get("source")
    if source not in KEYS:
        raise ValueError(f"extractor {spec}: source must be {', '.join(map(repr, KEYS))}")
    for key, kind in KEYS[source].items():
        if key not in spec and key in IDENTIFYING:
            raise ValueError(f"extractor {spec} has no {key!r}")
        if key in spec and (not isinstance(spec[key], kind) or isinstance(spec[key], bool)):
            raise ValueError(f"extractor {spec}: {key} is {spec[key]!r}, of the wrong type")
    if source != "keras":  # further keys of a keras extractor are options of the network
        for key in spec.keys() - KEYS[source].keys():
            near = difflib.get_close_matches(key, KEYS[source], n=1, cutoff=0)
            raise ValueError(f"extractor {spec}: unknown key {key!r}. Did you mean {near[0]!r}?")
    if spec.get("token", "cls") not in TOKENS:
        raise ValueError(f"extractor {spec}: token is {spec['token']!r}; expected {' or '.join(map(repr, TOKENS))}")
    _check_range(spec)
    seen.check(spec.get("seen", []), f"extractor {spec}: seen")


def _check_range(spec: dict) -> None:
    """Raise ValueError unless a spec has no range, a possible "range", or possible "mean" and "std"."""
    where = f"extractor {spec}"
    if ("mean" in spec) != ("std" in spec) or ("range" in spec and "mean" in spec):
        raise ValueError(f'{where}: give either "range", or "mean" and "std", or none of them')
    if "range" in spec and spec["range"] != RADIMAGENET:
        numbers = spec["range"]
        if not (_are_numbers(numbers, 2) and numbers[0] != numbers[1]):
            raise ValueError(f"{where}: range is {numbers!r}; expected [low, high] or {RADIMAGENET!r}")
    for key in ("mean", "std"):
        value = spec.get(key, 1)
        if isinstance(value, list) and not _are_numbers(value, 3):
            raise ValueError(f"{where}: {key} is {value!r}; expected a number, or three of them")
    stds = spec.get("std", 1)
    if min(stds if isinstance(stds, list) else [stds]) <= 0:
        raise ValueError(f"{where}: std is {stds!r}; expected more than 0")


def _are_numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(item) in (int, float) for item in value)


def is_radimagenet(spec: dict) -> bool:
    """Whether an extractor has weights of RadImageNet, by the name of their file."""
    weights = spec.get("weights") if spec.get("source") == "keras" else None
    return bool(weights) and re.match(r"radimagenet[-_ ]", pathlib.PurePath(weights).name, re.IGNORECASE) is not None


def without(spec: dict, keys: Sequence[str]) -> dict:
    """A spec without some keys."""
    return {key: value for key, value in spec.items() if key not in keys}
