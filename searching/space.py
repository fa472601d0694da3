"""The search space: search.json names parameters of params.json, each with a list of values or a range.

    {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": true}, "dropout": [0, 0.2, 0.5], "fine_tune.epochs": [2, 4]}

A dot leads into a parameter that is an object. Lists alone are a grid, in which every combination is tried once.
"""

import dataclasses
import difflib
import itertools
import json
import math
import pathlib
import types
import typing

from cxr import storage
from cxr.params import FILE as PARAMS_FILE
from cxr.params import Params, parse_params

if typing.TYPE_CHECKING:
    import optuna

FILE = "search.json"
EXAMPLE = '{"learning_rate": [1e-4, 1e-3]} or {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": true}}'
Space = dict[str, list | dict]  # the checked content of search.json


def read_space(parent_dir: pathlib.Path, base: dict) -> Space:
    """Read search.json of a folder and check it against the fields of Params and its params.json.

    Args:
        base: the content of params.json, to which every trial applies its values.

    Raises:
        FileNotFoundError: search.json is missing.
        ValueError: an unknown parameter, an empty list or range, or a value that Params rejects; names file and key.
    """
    path = parent_dir / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; it says what to search, for example {EXAMPLE}")
    space = storage.read_json(path)
    kinds = searchable()
    if not space:
        raise ValueError(f"{path} names no parameter to search; expected for example {EXAMPLE}")
    for name, domain in space.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1, cutoff=0)
            raise ValueError(f"{path}: unknown parameter {name!r}. Did you mean {near[0]!r}?")
        parent = name.rpartition(".")[0]
        if parent in space:
            raise ValueError(f"{path} searches both {parent!r} and its part {name!r}; keep one of them")
        check = _check_range if isinstance(domain, dict) else _check_list
        check(domain, kinds[name], f"{path}: {name}")
    for values in _probes(space):
        parse_params(merged(base, values), where=f"{path} with {describe(values)} over {PARAMS_FILE}")
    return space


def searchable(kind: type = Params, prefix: str = "") -> dict[str, object]:
    """The type of every parameter by its name; parameters of an object are named with a dot: "fine_tune.epochs"."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        found[prefix + name] = hint
        for inner in filter(dataclasses.is_dataclass, _options(hint)):
            found |= searchable(inner, f"{prefix}{name}.")
    return found


def combinations(space: Space) -> int | None:
    """Number of combinations of a grid; None if a range is searched."""
    return math.prod(map(len, space.values())) if is_grid(space) else None


def is_grid(space: Space) -> bool:
    """Whether all domains are lists."""
    return not any(isinstance(domain, dict) for domain in space.values())


def labels(values: list) -> list:
    """Values in the form that Optuna can store: lists and objects as JSON text."""
    return [json.dumps(value) if isinstance(value, list | dict) else value for value in values]


def suggest(space: Space, trial: "optuna.Trial") -> dict:
    """The values of a trial, by parameter; repeated calls return the same values."""
    kinds = searchable()
    values = {}
    for name, domain in space.items():
        if isinstance(domain, list):
            chosen = trial.suggest_categorical(name, labels(domain))
            values[name] = domain[labels(domain).index(chosen)]
        elif float in _options(kinds[name]):
            values[name] = trial.suggest_float(name, **domain)
        else:
            values[name] = trial.suggest_int(name, **domain)
    return values


def merged(base: dict, values: dict) -> dict:
    """The content of a trial's params.json: base with these values; a dot leads into an object, created if absent."""
    result = dict(base)
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        result[outer] = merged(result.get(outer) or {}, {inner: value}) if inner else value
    return result


def shown(value: object) -> str:
    """A value as text for a table or a log; floats have four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def describe(values: dict) -> str:
    """Values by parameter as text for a log or an error."""
    return ", ".join(f"{name} {shown(value)}" for name, value in values.items())


def _options(hint: object) -> tuple:
    """The types of a union, or the single type of a hint."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def _probes(space: Space) -> list[dict]:
    """Sets of values to check a space with.

    All combinations of a grid. With ranges, one parameter varies at a time, over its values or both ends of its range,
    and the others have their first value: the number of corners doubles with each range.
    """
    domains = {name: [d["low"], d["high"]] if isinstance(d, dict) else d for name, d in space.items()}
    if is_grid(space):
        return [dict(zip(domains, values, strict=True)) for values in itertools.product(*domains.values())]
    first = {name: values[0] for name, values in domains.items()}
    return [first | {name: value} for name, values in domains.items() for value in values]


def _check_list(values: object, hint: object, where: str) -> None:
    """Raise ValueError unless this is a list of different values."""
    if not isinstance(values, list):
        raise ValueError(f'{where} is {values!r}; expected a list of values, or {{"low": ..., "high": ...}}')
    if not values:
        raise ValueError(f"{where} is an empty list; expected one value or more")
    for place, item in enumerate(values):
        if item in values[:place]:
            raise ValueError(f"{where} lists {item!r} twice")


def _check_range(domain: dict, hint: object, where: str) -> None:
    """Raise ValueError unless this is a range of numbers from low to high."""
    options = _options(hint)
    if float not in options and int not in options:
        raise ValueError(f"{where} is not a number and cannot have a range; list its values: [...]")
    if domain.keys() - {"low", "high", "log"} or not {"low", "high"} <= domain.keys():
        raise ValueError(f"{where} has {', '.join(domain) or 'nothing'}; expected low, high and perhaps log")
    low, high, log = domain["low"], domain["high"], domain.get("log", False)
    if type(log) is not bool:
        raise ValueError(f"{where}: log is {log!r}; expected true or false")
    for end in (low, high):
        if type(end) is not int and (float not in options or type(end) is not float):
            expected = "a number" if float in options else "an integer"
            raise ValueError(f"{where}: {end!r} cannot be the end of a range; expected {expected}")
    if not low < high:  # NaN fails this too
        raise ValueError(f"{where}: the range from {low!r} to {high!r} is empty; low must be below high")
    if log and low <= 0:
        raise ValueError(f"{where}: low is {low!r}; a range with log must start above 0")
