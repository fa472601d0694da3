"""Reject parameters that have no effect, and name what works instead.

`params` is always a `cxr.params.Params`. That module imports this one, so the type cannot be imported here.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cxr.specs import RANGE_KEYS

PLATEAU_EPOCHS = 2  # lr_schedule "plateau" lowers the learning rate after this many; see training/optimizers.py
# Options of keras.applications for the classification layers, which an extractor does not have.
TOP_OPTIONS = ("classes", "classifier_activation", "dropout", "dropout_rate")

READ_BY_AVERAGE = ("model", "members")


class Unread(NamedTuple):
    """Parameters that nothing reads when a condition holds."""

    names: tuple[str, ...]
    is_unread: Callable[..., bool]  # given Params
    reason: str  # the end of the error text; also says what works instead


UNREAD = (
    Unread(
        ("members",),
        lambda params: params.model != "average",
        'only model "average" has members; set model to "average", or leave them out',
    ),
    Unread(
        ("image_size",),
        lambda params: params.extractors,
        'every extractor has its own input size; set "image_size" in the object of an extractor',
    ),
    Unread(
        ("num_channels", "num_blocks"),
        lambda params: params.extractors,
        'only model "simple_cnn" has convolution blocks; choose another network in extractors',
    ),
    Unread(
        ("hidden_units",),
        lambda params: not params.extractors,
        "simple_cnn has no hidden layers over its features; set num_channels or num_blocks",
    ),
    Unread(
        ("transition_units",),
        lambda params: params.model != "ensemble",
        'only model "ensemble" has transition layers; feature_extractor has hidden_units, simple_cnn num_channels',
    ),
    Unread(
        ("normalization",),
        lambda params: not params.extractors,
        "simple_cnn always standardises each image; leave it out",
    ),
    Unread(
        ("normalization",),
        lambda params: _are_all(params, "experiment"),
        'an extractor of source "experiment" prepares images as in its own training; leave it out',
    ),
    Unread(
        ("precision",),
        lambda params: params.precision == "mixed_float16" and _are_all(params, "hub"),
        'hub modules do not compute in float16; set "bfloat16" on a CPU, or leave it out',
    ),
    Unread(
        ("augmentation", "horizontal_flip"),
        lambda params: params.extractors and not params.fine_tune,
        "the features of frozen extractors are computed once and cached; set fine_tune too",
    ),
    Unread(
        ("lr_schedule",),
        lambda params: params.lr_schedule == "plateau" and params.early_stopping_patience <= PLATEAU_EPOCHS,
        f"after {PLATEAU_EPOCHS} epochs without a better val AUROC training stops instead; "
        f"set early_stopping_patience to {PLATEAU_EPOCHS + 1} or more",
    ),
)


def require_effect(params, where: str) -> None:
    """Raise ValueError for a parameter that differs from its default but has no effect; `where` names the file."""
    defaults = {field.name: field.default for field in dataclasses.fields(params)}
    for unread in (_unread_by_average(defaults), *UNREAD):
        for name in unread.names:
            value = getattr(params, name)
            if value != defaults[name] and unread.is_unread(params):
                text = json.dumps(value, default=dataclasses.asdict)  # fine_tune is a dataclass
                raise ValueError(f"{where}: {name} {text} has no effect: {unread.reason}")
    _require_enough_epochs(params, where)
    for place, spec in enumerate(params.extractors):
        for name in RANGE_KEYS if params.normalization == "per_image" else ():
            if name in spec:
                raise ValueError(
                    f"{where}: extractors[{place}]: {name} has no effect: normalization 'per_image' standardises each "
                    "image; leave one of them out"
                )
        for name in TOP_OPTIONS:
            if name in spec:
                raise ValueError(
                    f"{where}: extractors[{place}]: {name} has no effect: it is for the network's classification "
                    "layers, which are left out; set dropout or hidden_units of the experiment instead"
                )


def _unread_by_average(names: Iterable[str]) -> Unread:
    """Every parameter but those that say what is averaged."""
    return Unread(
        tuple(name for name in names if name not in READ_BY_AVERAGE),
        lambda params: params.model == "average",
        "an average trains nothing; the params.json of its members have their own",
    )


def _require_enough_epochs(params, where: str) -> None:
    """Raise ValueError where a phase ends before the learning rate has warmed up."""
    epochs = {"num_epochs": params.num_epochs}
    if params.fine_tune:
        epochs["fine_tune.epochs"] = params.fine_tune.epochs
    shortest = min(epochs, key=epochs.get)
    if params.warmup_epochs >= epochs[shortest]:
        raise ValueError(
            f"{where}: warmup_epochs {params.warmup_epochs:g} leaves no epoch at the peak learning rate; "
            f"set it below {shortest}, which is {epochs[shortest]}"
        )


def _are_all(params, source: str) -> bool:
    """Whether there are extractors and all have this source."""
    return bool(params.extractors) and all(spec.get("source") == source for spec in params.extractors)
