"""Typed dataclass fields with a meaning and a range: definition, checks and description."""

import dataclasses
import difflib
import types
import typing
from typing import Literal


def param(default: object, meaning: str, low: float = 0, high: float = 0) -> typing.Any:
    """A field with its meaning and, for a number, the closed range of its values."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


def parse(kind: type, values: dict, where: str) -> typing.Any:
    """Check values and make a dataclass of type `kind` from them."""
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
    """The value as `kind`; ValueError if it has another type or is out of range."""
    options = typing.get_args(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return _check_union(value, options, metadata, where)
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
        return value if kind is dict else parse(kind, value, where)
    if type(value) is not kind and not (kind is float and type(value) is int):  # bool is a subclass of int
        wanted = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}[kind]
        raise ValueError(f"{where} is {value!r}; expected {wanted}")
    if kind is str:
        return value
    low, high = metadata["low"], metadata["high"]
    if not low <= value <= high:  # NaN fails this too
        raise ValueError(f"{where} is {value!r}; expected {low:g} to {high:g}")
    return kind(value)


def _check_union(value: object, options: tuple, metadata: dict, where: str) -> typing.Any:
    """The value of a union type: null, one of the words of a Literal, a number or an object."""
    if value is None and type(None) in options:
        return None
    words = [word for option in options for word in typing.get_args(option)]  # of a Literal
    if value in words:
        return value
    plain = next(option for option in options if isinstance(option, type) and option is not type(None))
    if words and type(value) is not plain:
        raise ValueError(f"{where} is {value!r}; expected {' or '.join(map(repr, words))} or an integer")
    return _check(value, plain, metadata, where)


def describe(kind: object, metadata: dict) -> str:
    """The possible values of a field, in words."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in options)
    if typing.get_origin(kind) is tuple:
        return f"list of {describe(options[0], metadata)}"
    if options:
        return " or ".join("`null`" if option is type(None) else describe(option, metadata) for option in options)
    if kind is dict or dataclasses.is_dataclass(kind):
        return "object"
    if kind is bool:
        return "`true` or `false`"
    if kind is str:
        return "string"
    return f"{kind.__name__}, {metadata['low']:,} to {metadata['high']:,}"
