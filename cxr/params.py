"""Every parameter of an experiment: its name, type, default and meaning, in one list.

params.json in an experiment folder holds only what differs from these defaults. The README's table is made from here.
"""

import dataclasses
import difflib
import pathlib
import types
import typing
from typing import Literal

from cxr import storage

FILE = "params.json"
MODELS = {"simple_cnn": (0, 0), "feature_extractor": (1, 1), "ensemble": (2, 16)}  # extractors each takes, from and to


def _param(default: object, meaning: str, low: float = 0, high: float = 0) -> typing.Any:
    """A field with its meaning and the closed range of its possible numbers."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTune:
    """The second phase of an experiment: its networks train end to end, from the images, after the head has."""

    epochs: int = _param(5, "passes over the training images", 1, 100_000)
    learning_rate: float = _param(1e-5, "peak step size", 1e-8, 10)
    unfreeze: Literal["all"] | int = _param("all", "`all`, or how many of a network's last layers", 1, 10_000)
    batch_norm: Literal["frozen", "trained"] = _param(
        "frozen", "statistics of batch norm: those of pre-training, or anew"
    )
    batch_size: int = _param(32, "images per step", 1, 65_536)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params:
    """Everything that changes the numbers an experiment reports."""

    model: Literal["simple_cnn", "feature_extractor", "ensemble"] = _param("simple_cnn", "architecture")
    image_size: int = _param(224, "pixels a side that simple_cnn sees; records of another size are resized", 32, 2048)
    num_channels: int = _param(16, "simple_cnn: channels of the first block; each block doubles them", 1, 1024)
    num_blocks: int = _param(5, "simple_cnn: convolution blocks, each halving the image", 1, 8)
    extractors: tuple[dict, ...] = _param(
        (), "frozen networks: one for feature_extractor, more for ensemble; see below"
    )
    normalization: Literal["extractor", "per_image"] = _param(
        "extractor", "pixels for an extractor: its own range, or standardised per image whatever it was trained on"
    )
    transition_units: int = _param(
        512, "ensemble: width to which each extractor is brought before they are added", 1, 65_536
    )
    hidden_units: tuple[int, ...] = _param(
        (512, 256), "widths of the fully connected layers over the features", 1, 65_536
    )
    dropout: float = _param(0.0, "share of values dropped before each fully connected layer in training", 0, 0.95)
    batch_size: int = _param(32, "images per step", 1, 65_536)
    num_epochs: int = _param(10, "passes over the training images, at most", 1, 100_000)
    early_stopping_patience: int = _param(5, "epochs without a better val AUROC before training stops", 1, 100_000)
    optimizer: Literal["adamw", "sgd"] = _param("adamw", "AdamW, or SGD with Nesterov momentum 0.9")
    learning_rate: float = _param(1e-3, "peak step size", 1e-8, 10)
    lr_schedule: Literal["constant", "cosine"] = _param(
        "cosine", "after warm-up: keep the peak, or fall to 0 by cosine"
    )
    warmup_epochs: float = _param(0.5, "epochs of linear rise from 0 to the peak", 0, 1000)
    weight_decay: float = _param(1e-4, "decoupled, per step times the step size (Loshchilov & Hutter 2019)", 0, 1)
    precision: Literal["float32", "bfloat16", "mixed_float16"] = _param(
        "float32", "arithmetic of convolutions and matrix products; weights stay float32"
    )
    fine_tune: FineTune | None = _param(None, "second phase that trains the extractors too; see below")  # noqa: RUF009
    seed: int = _param(230, "of initial weights, record order and dropout", 0, 2**32 - 1)

    def last_phase(self) -> "Params":
        """These parameters with batch size, epochs and learning rate of fine-tuning, where there is any."""
        fine_tune = self.fine_tune
        if fine_tune is None:
            return self
        return dataclasses.replace(
            self,
            batch_size=fine_tune.batch_size,
            num_epochs=fine_tune.epochs,
            learning_rate=fine_tune.learning_rate,
        )


def load_params(model_dir: pathlib.Path) -> Params:
    """Read and check params.json of an experiment.

    Raises:
        FileNotFoundError: there is none.
        ValueError: an unknown key, a wrong type or an impossible value; file, key and expectation are named.
    """
    path = model_dir / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}; an experiment is a folder with a params.json, which may be empty: {{}}. "
            "Copy one from experiments/simple_cnn."
        )
    return parse_params(storage.read_json(path), where=str(path))


def parse_params(values: dict, *, where: str) -> Params:
    """Check values against the fields of Params, and against one another; `where` names their origin in errors."""
    params = _parse(Params, values, where)
    if params.image_size >> params.num_blocks == 0:
        raise ValueError(f"{where}: num_blocks {params.num_blocks} halves {params.image_size} pixels to nothing")
    low, high = MODELS[params.model]
    if not low <= len(params.extractors) <= high:
        wanted = {0: "no extractors", 1: "one extractor", 2: "two extractors or more"}[low]
        raise ValueError(f"{where}: model {params.model!r} takes {wanted}, not {len(params.extractors)}")
    if params.fine_tune and not params.extractors:
        raise ValueError(f"{where}: fine_tune is for models with extractors; {params.model!r} trains all of itself")
    if params.fine_tune and any(spec.get("source") != "keras" for spec in params.extractors):
        raise ValueError(
            f"{where}: fine_tune is for extractors of source 'keras'; hub modules and experiments stay frozen"
        )
    return params


def _parse(kind: type, values: dict, where: str) -> typing.Any:
    """Make a dataclass of checked values."""
    kinds = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    checked = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0)
            raise ValueError(f"{where}: unknown parameter {key!r}. Did you mean {near[0]!r}?")
        checked[key] = _check(value, kinds[key], fields[key].metadata, f"{where}: {key}")
    return kind(**checked)


def _check(value: object, kind: object, metadata: dict, where: str) -> typing.Any:
    """The value as `kind`; ValueError when it is of another type or out of range."""
    options = typing.get_args(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        if value is None and type(None) in options:
            return None
        if typing.get_origin(options[0]) is Literal and value in typing.get_args(options[0]):
            return value
        plain = next(option for option in options if isinstance(option, type) and option is not type(None))
        if plain is int and type(value) is not int:
            words = " or ".join(map(repr, typing.get_args(options[0])))
            raise ValueError(f"{where} is {value!r}; expected {words} or an integer")
        return _check(value, plain, metadata, where)
    if typing.get_origin(kind) is Literal:
        if value not in options:
            raise ValueError(f"{where} is {value!r}; expected {' or '.join(map(repr, options))}")
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}; expected a list")
        return tuple(_check(item, options[0], metadata, f"{where}[{place}]") for place, item in enumerate(value))
    if kind is dict or dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {value!r}; expected an object {{...}}")
        return value if kind is dict else _parse(kind, value, where)
    if type(value) is not kind and not (kind is float and type(value) is int):  # exactly: True is no int here
        raise ValueError(f"{where} is {value!r}; expected {'an integer' if kind is int else 'a number'}")
    low, high = metadata["low"], metadata["high"]
    if not low <= value <= high:  # so written, nan fails too
        raise ValueError(f"{where} is {value!r}; expected {low:g} to {high:g}")
    return kind(value)


def parameter_table(kind: type = Params) -> str:
    """The fields of Params or FineTune as a Markdown table, for the README."""
    kinds = typing.get_type_hints(kind)
    lines = ["| parameter | values | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        shown = "null" if default is None else default
        values = _describe(kinds[field.name], field.metadata)
        lines.append(f"| `{field.name}` | {values} | `{shown}` | {field.metadata['meaning']} |")
    return "\n".join(lines)


def _describe(kind: object, metadata: dict) -> str:
    """The possible values of a field, in words."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in options)
    if typing.get_origin(kind) is tuple:
        return f"list of {_describe(options[0], metadata)}"
    if options:
        return " or ".join("`null`" if option is type(None) else _describe(option, metadata) for option in options)
    if kind is dict or dataclasses.is_dataclass(kind):
        return "object"
    return f"{kind.__name__}, {metadata['low']:,} to {metadata['high']:,}"
