"""Parameters that a model would not read: refused, with what works instead.

Every function here takes a `cxr.params.Params`; that module imports this one.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import NamedTuple

PLATEAU_EPOCHS = 2  # lr_schedule "plateau" lowers the step size after this many: training/optimizers.py
# Options of keras.applications for the classification layers, which no extractor has.
TOP_OPTIONS = ("classes", "classifier_activation", "dropout", "dropout_rate")


class Unread(NamedTuple):
    """Parameters that nothing reads under some condition."""

    names: tuple[str, ...]
    is_unread: Callable[..., bool]  # of Params
    reason: str  # and what works instead


UNREAD = (
    Unread(
        ("image_size",),
        lambda params: params.extractors,
        'every extractor resizes to a size of its own; set "image_size" in the object of a keras or hub extractor',
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
        "simple_cnn standardises every image in any case; leave it out",
    ),
    Unread(
        ("normalization",),
        lambda params: _are_all(params, "experiment"),
        'an extractor of source "experiment" prepares images as it was trained on them; leave it out',
    ),
    Unread(
        ("precision",),
        lambda params: params.precision == "mixed_float16" and _are_all(params, "hub"),
        'hub modules do not compute in float16; set "bfloat16" on a CPU, or leave it out',
    ),
    Unread(
        ("augmented_copies",),
        lambda params: not params.extractors,
        "simple_cnn sees newly augmented images in every epoch; set augmentation alone",
    ),
    Unread(
        ("augmented_copies",),
        lambda params: not (params.sees_changed_images() or params.crop_size),
        "the copies would all be the same; set augmentation, horizontal_flip or crop_size too",
    ),
    Unread(
        ("augmentation", "horizontal_flip"),
        lambda params: params.extractors and not params.fine_tune and not params.augmented_copies,
        "the features of frozen extractors are cached once; set augmented_copies, or fine_tune",
    ),
    Unread(
        ("lr_schedule",),
        lambda params: params.lr_schedule == "plateau" and params.early_stopping_patience <= PLATEAU_EPOCHS,
        f"after {PLATEAU_EPOCHS} epochs without a better val AUROC training stops instead; "
        f"set early_stopping_patience to {PLATEAU_EPOCHS + 1} or more",
    ),
)


def require_effect(params, where: str) -> None:
    """Raise ValueError for a parameter that differs from its default although nothing would read it.

    Args:
        where: names the file in errors.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(params)}
    for unread in UNREAD:
        for name in unread.names:
            value = getattr(params, name)
            if value != defaults[name] and unread.is_unread(params):
                raise ValueError(f"{where}: {name} {json.dumps(value)} has no effect: {unread.reason}")
    _require_enough_epochs(params, where)
    for place, spec in enumerate(params.extractors):
        for name in TOP_OPTIONS:
            if name in spec:
                raise ValueError(
                    f"{where}: extractors[{place}]: {name} has no effect: it is for the network's classification "
                    "layers, which are left out; set the experiment's own dropout or hidden_units"
                )


def _require_enough_epochs(params, where: str) -> None:
    """Raise ValueError where the epochs end before the warm-up does, or before every augmented copy was seen."""
    epochs = {"num_epochs": params.num_epochs}
    if params.fine_tune:
        epochs["fine_tune.epochs"] = params.fine_tune.epochs
    shortest = min(epochs, key=epochs.get)
    if params.warmup_epochs >= epochs[shortest]:
        raise ValueError(
            f"{where}: warmup_epochs {params.warmup_epochs:g} leaves no epoch at the peak learning rate; "
            f"set it below {shortest}, which is {epochs[shortest]}"
        )
    if params.augmented_copies >= params.num_epochs:
        raise ValueError(
            f"{where}: augmented_copies {params.augmented_copies} is more than num_epochs {params.num_epochs} can use: "
            "one epoch sees the images as they are, each other epoch one set of copies; "
            f"set it to {params.num_epochs - 1} or less"
        )


def _are_all(params, source: str) -> bool:
    """Whether there are extractors, all of this source."""
    return bool(params.extractors) and all(spec.get("source") == source for spec in params.extractors)
