"""Every parameter of an experiment: its name, type, default and meaning, in one list.

params.json in an experiment folder holds only what differs from these defaults. The README's table is made from here.
"""

import dataclasses
import difflib
import pathlib
import typing
from typing import Literal

from cxr import storage

FILE = "params.json"


def _param(default: object, meaning: str, low: float = 0, high: float = 0) -> typing.Any:
    """A field with its meaning and the closed range of its possible values."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params:
    """Everything that changes the numbers an experiment reports."""

    model: Literal["simple_cnn"] = _param("simple_cnn", "architecture")
    image_size: int = _param(224, "pixels a side that the network sees; records of another size are resized", 32, 2048)
    num_channels: int = _param(16, "channels of the first convolution block; each block doubles them", 1, 1024)
    num_blocks: int = _param(5, "convolution blocks, each halving the image", 1, 8)
    dropout: float = _param(0.0, "share of pooled features dropped in training", 0, 0.95)
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
    seed: int = _param(230, "of initial weights, record order and dropout", 0, 2**32 - 1)


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
    """Check values against the fields of Params; `where` names their origin in errors."""
    kinds = typing.get_type_hints(Params)
    fields = {field.name: field for field in dataclasses.fields(Params)}
    checked = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0)
            raise ValueError(f"{where}: unknown parameter {key!r}. Did you mean {near[0]!r}?")
        checked[key] = _check(value, kinds[key], fields[key].metadata, f"{where}: {key}")
    params = Params(**checked)
    if params.image_size >> params.num_blocks == 0:
        raise ValueError(f"{where}: num_blocks {params.num_blocks} halves {params.image_size} pixels to nothing")
    return params


def _check(value: object, kind: object, metadata: dict, where: str) -> object:
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if value not in allowed:
            raise ValueError(f"{where} is {value!r}; expected {' or '.join(map(repr, allowed))}")
        return value
    if type(value) is not kind and not (kind is float and type(value) is int):  # exactly: True is no int here
        raise ValueError(f"{where} is {value!r}; expected {'an integer' if kind is int else 'a number'}")
    low, high = metadata["low"], metadata["high"]
    if not low <= value <= high:  # so written, nan fails too
        raise ValueError(f"{where} is {value!r}; expected {low:g} to {high:g}")
    return kind(value)


def parameter_table() -> str:
    """The fields of Params as a Markdown table, for the README."""
    kinds = typing.get_type_hints(Params)
    lines = ["| parameter | values | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(Params):
        kind, low, high = kinds[field.name], field.metadata["low"], field.metadata["high"]
        if typing.get_origin(kind) is Literal:
            values = ", ".join(f"`{value}`" for value in typing.get_args(kind))
        else:
            values = f"{kind.__name__}, {low:,} to {high:,}"
        lines.append(f"| `{field.name}` | {values} | `{field.default}` | {field.metadata['meaning']} |")
    return "\n".join(lines)
