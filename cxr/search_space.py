"""What a search varies: search.json names parameters of params.json, each with a list of values or a range.

    {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": true}, "dropout": [0, 0.2, 0.5], "fine_tune.epochs": [2, 4]}

A dot leads into a parameter that is an object. Lists alone are a grid: every combination once.
"""

import dataclasses
import difflib
import itertools
import json
import pathlib
import types
import typing

from cxr import storage
from cxr.params import FILE as PARAMS_FILE
from cxr.params import Params, parse_params

FILE = "search.json"
EXAMPLE = '{"learning_rate": [1e-4, 1e-3]} or {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": true}}'


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of these values, as JSON has them."""

    values: tuple

    @property
    def labels(self) -> list:
        """The values, each by its label."""
        return [label(value) for value in self.values]

    @property
    def extremes(self) -> tuple:
        """Values by which the domain as a whole can be checked."""
        return self.values


@dataclasses.dataclass(frozen=True)
class Range:
    """A number from low to high, both included; `log` draws its logarithm evenly."""

    low: float
    high: float
    log: bool
    integer: bool

    @property
    def extremes(self) -> tuple:
        """Values by which the domain as a whole can be checked."""
        return self.low, self.high


Space = dict[str, Choices | Range]


def read_space(parent_dir: pathlib.Path, base: dict) -> Space:
    """Read search.json of a folder and check it against the fields of Params and its params.json.

    Args:
        base: params.json as it stands, which every trial starts from.

    Raises:
        FileNotFoundError: there is no search.json.
        ValueError: an unknown parameter, an empty list or range, a value that Params refuses: file and key are named.
    """
    path = parent_dir / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; it says what to search, for example {EXAMPLE}")
    wanted, kinds = storage.read_json(path), searchable()
    if not wanted:
        raise ValueError(f"{path} names no parameter to search; expected for example {EXAMPLE}")
    for name in wanted:
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1, cutoff=0)
            raise ValueError(f"{path}: unknown parameter {name!r}. Did you mean {near[0]!r}?")
        parent = name.rpartition(".")[0]
        if parent in wanted:
            raise ValueError(f"{path} searches {parent!r} and {name!r}, which is a part of it; keep one of them")
    space = {name: _domain(value, kinds[name], f"{path}: {name}") for name, value in wanted.items()}
    for values in combinations(space) if is_grid(space) else _probes(space):
        parse_params(merged(base, values), where=f"{path} with {describe(values)} over {PARAMS_FILE}")
    return space


def searchable(kind: type = Params, prefix: str = "") -> dict[str, object]:
    """Every parameter's type by its name; those of an object after its own, with a dot between."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        found[prefix + name] = hint
        for inner in filter(dataclasses.is_dataclass, _options(hint)):
            found |= searchable(inner, f"{prefix}{name}.")
    return found


def is_grid(space: Space) -> bool:
    """Whether lists alone are searched, so that there is a number of combinations."""
    return all(isinstance(domain, Choices) for domain in space.values())


def combinations(space: Space) -> list[dict]:
    """Every combination of a grid's values by parameter; the last parameter changes fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*(d.values for d in space.values()))]


def merged(base: dict, values: dict) -> dict:
    """The contents of a trial's params.json: base with these values; a dot leads into an object, made where absent."""
    result = dict(base)
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        result[outer] = merged(result.get(outer) or {}, {inner: value}) if inner else value
    return result


def label(value: object) -> object:
    """A value as a database of trials can hold it: lists and objects as their JSON text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def shown(value: object) -> str:
    """A value for a table or a log: four digits of a fraction."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def describe(values: dict) -> str:
    """Values by parameter, for a log or an error."""
    return ", ".join(f"{name} {shown(value)}" for name, value in values.items())


def _options(hint: object) -> tuple:
    """The types of which a value may be."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def _probes(space: Space) -> list[dict]:
    """Every extreme of every domain, the others at their first: not every corner, whose number doubles with each."""
    first = {name: domain.extremes[0] for name, domain in space.items()}
    return [first | {name: value} for name, domain in space.items() for value in domain.extremes]


def _domain(value: object, hint: object, where: str) -> Choices | Range:
    """A list as Choices, an object as Range; ValueError when there is nothing in it to choose from."""
    if isinstance(value, dict):
        return _range(value, hint, where)
    if not isinstance(value, list):
        raise ValueError(f'{where} is {value!r}; expected a list of values, or {{"low": ..., "high": ...}}')
    if not value:
        raise ValueError(f"{where} is an empty list; expected one value or more")
    for place, item in enumerate(value):
        if item in value[:place]:
            raise ValueError(f"{where} lists {item!r} twice")
    return Choices(tuple(value))


def _range(value: dict, hint: object, where: str) -> Range:
    """A checked range of a number."""
    numeric = [option for option in (float, int) if option in _options(hint)]
    if not numeric:
        raise ValueError(f"{where} is not a number and has no range; list its values: [...]")
    unknown = sorted(value.keys() - {"low", "high", "log"})
    if unknown or not {"low", "high"} <= value.keys():
        raise ValueError(f"{where} has {', '.join(value) or 'nothing'}; expected low, high and perhaps log")
    low, high, log = value["low"], value["high"], value.get("log", False)
    if type(log) is not bool:
        raise ValueError(f"{where}: log is {log!r}; expected true or false")
    integer = numeric[0] is int
    for end in (low, high):
        if type(end) is not int and (integer or type(end) is not float):
            expected = "an integer" if integer else "a number"
            raise ValueError(f"{where}: {end!r} is no end of a range; expected {expected}")
    if not low < high:  # so written, nan fails too
        raise ValueError(f"{where}: the range from {low!r} to {high!r} is empty; low must be below high")
    if log and low <= 0:
        raise ValueError(f"{where}: low is {low!r}; a range with log must begin above 0")
    return Range(low, high, log, integer)
