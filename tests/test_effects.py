"""Parameters without an effect are rejected; every other set is accepted, also when it is read back."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest

from cxr import effects
from cxr.params import Params, as_json, load_params, parse_params

ROOT = Path(__file__).resolve().parents[1]
CNN = {"model": "simple_cnn"}
NETWORK = {"source": "keras", "name": "MobileNet"}
ONE = {"model": "feature_extractor", "extractors": [NETWORK]}
TWO = {"model": "ensemble", "extractors": [NETWORK] * 2}
HUB = {"model": "feature_extractor", "extractors": [{"source": "hub", "handle": "folder"}]}
TRAINED = {
    "model": "feature_extractor",
    "extractors": [{"source": "experiment", "model_dir": "experiments/simple_cnn"}],
}
AVERAGE = {"model": "average", "members": ["experiments/a", "experiments/b"]}
NO_TRAINING = "an average trains nothing; the params.json of its members have their own"
OWN_SIZE = 'every extractor has its own input size; set "image_size" in the object of an extractor'
NO_BLOCKS = 'only model "simple_cnn" has convolution blocks; choose another network in extractors'
NO_HIDDEN = "simple_cnn has no hidden layers over its features; set num_channels or num_blocks"
NO_TRANSITION = (
    'only model "ensemble" has transition layers; feature_extractor has hidden_units, simple_cnn num_channels'
)
FROZEN = "the features of frozen extractors are computed once and cached; set fine_tune too"


def error_of(values: dict) -> str:
    """The text of the error about a set of parameters, without the file name."""
    with pytest.raises(ValueError, match=r"^p\.json: ") as caught:
        parse_params(values, where="p.json")
    return str(caught.value).removeprefix("p.json: ")


@pytest.mark.parametrize(
    ("model", "values", "reason"),
    [
        (ONE, {"image_size": 512}, OWN_SIZE),
        (TWO, {"image_size": 128}, OWN_SIZE),
        (TRAINED, {"image_size": 128}, OWN_SIZE),
        (ONE, {"num_channels": 8}, NO_BLOCKS),
        (TWO, {"num_channels": 8}, NO_BLOCKS),
        (ONE, {"num_blocks": 8}, NO_BLOCKS),
        (CNN, {"hidden_units": [64]}, NO_HIDDEN),
        (CNN, {"hidden_units": []}, NO_HIDDEN),
        (CNN, {"transition_units": 8}, NO_TRANSITION),
        (ONE, {"transition_units": 8}, NO_TRANSITION),
        (CNN, {"normalization": "per_image"}, "simple_cnn always standardises each image; leave it out"),
        (
            TRAINED,
            {"normalization": "per_image"},
            'an extractor of source "experiment" prepares images as in its own training; leave it out',
        ),
        (
            HUB,
            {"precision": "mixed_float16"},
            'hub modules do not compute in float16; set "bfloat16" on a CPU, or leave it out',
        ),
        (ONE, {"augmentation": "light"}, FROZEN),
        (ONE, {"horizontal_flip": True}, FROZEN),
        (
            CNN,
            {"members": ["experiments/a"]},
            'only model "average" has members; set model to "average", or leave them out',
        ),
        (AVERAGE, {"image_size": 128}, NO_TRAINING),
        (AVERAGE, {"hidden_units": [64]}, NO_TRAINING),
        (AVERAGE, {"metadata": True}, NO_TRAINING),
        (AVERAGE, {"batch_size": 64}, NO_TRAINING),
        (AVERAGE, {"learning_rate": 0.01}, NO_TRAINING),
        (AVERAGE, {"precision": "bfloat16"}, NO_TRAINING),
        (AVERAGE, {"seed": 231}, NO_TRAINING),
        (
            CNN,
            {"lr_schedule": "plateau", "early_stopping_patience": 2},
            "after 2 epochs without a better val AUROC training stops instead; "
            "set early_stopping_patience to 3 or more",
        ),
    ],
)
def test_a_parameter_without_effect_is_rejected(model, values, reason):
    name = next(iter(values))
    assert error_of(model | values) == f"{name} {json.dumps(values[name])} has no effect: {reason}"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (CNN | {"warmup_epochs": 11}, "warmup_epochs 11 {} num_epochs, which is 10"),
        (
            CNN | {"warmup_epochs": 10},
            "warmup_epochs 10 {} num_epochs, which is 10",
        ),  # the peak is reached as the phase ends
        (ONE | {"warmup_epochs": 2, "num_epochs": 2, "fine_tune": {}}, "warmup_epochs 2 {} num_epochs, which is 2"),
        (ONE | {"warmup_epochs": 7.5, "fine_tune": {}}, "warmup_epochs 7.5 {} fine_tune.epochs, which is 5"),
        (ONE | {"warmup_epochs": 5, "fine_tune": {"epochs": 3}}, "warmup_epochs 5 {} fine_tune.epochs, which is 3"),
    ],
)
def test_a_warm_up_as_long_as_its_phase_is_rejected(values, text):
    assert error_of(values) == text.format("leaves no epoch at the peak learning rate; set it below")


@pytest.mark.parametrize("name", ["classes", "classifier_activation", "dropout", "dropout_rate"])
def test_an_option_of_the_classification_layers_of_an_extractor_is_rejected(name):
    values = {"model": "ensemble", "extractors": [NETWORK, NETWORK | {name: 0.5}]}
    assert error_of(values) == (
        f"extractors[1]: {name} has no effect: it is for the network's classification layers, which are left out; "
        "set dropout or hidden_units of the experiment instead"
    )


@pytest.mark.parametrize(
    "values",
    [
        CNN | {"image_size": 64, "num_channels": 4, "num_blocks": 6},
        ONE | {"hidden_units": [], "normalization": "per_image"},
        TWO | {"transition_units": 8},
        {"model": "ensemble", "extractors": [NETWORK, *TRAINED["extractors"]], "normalization": "per_image"},
        HUB | {"precision": "bfloat16"},
        ONE | {"precision": "mixed_float16"},
        CNN | {"precision": "mixed_float16"},
        CNN | {"lr_schedule": "plateau", "early_stopping_patience": 3},
        CNN | {"early_stopping_patience": 99},  # never stops early; with the default of 5 it could
        CNN | {"warmup_epochs": 9.5},
        CNN | {"num_epochs": 1},  # warmup_epochs is 0.5
        ONE | {"crop_size": 64},
        ONE | {"augmentation": "light", "horizontal_flip": True, "fine_tune": {}},
    ],
)
def test_a_parameter_with_an_effect_is_accepted_in_every_phase(values):
    params = parse_params(values, where="")
    for made in (params, params.head_phase(), params.last_phase(), params.head_phase().last_phase()):
        assert parse_params(as_json(made), where="") == made


def test_fine_tuning_of_an_average_is_rejected():
    text = error_of(AVERAGE | {"fine_tune": {"epochs": 3}})
    assert text.startswith('fine_tune {"epochs": 3, ')
    assert text.endswith(f"}} has no effect: {NO_TRAINING}")


@pytest.mark.parametrize("model", [CNN, ONE, TWO, HUB, TRAINED, AVERAGE])
def test_defaults_are_accepted_even_without_effect(model):
    complete = as_json(Params()) | model
    assert as_json(parse_params(complete, where="")) == complete


def test_an_accepted_set_is_accepted_again_when_read_back():
    changes = {
        "augmentation": ["none", "light"],
        "crop_size": [None, 64],
        "num_epochs": [1, 4, 8],
        "warmup_epochs": [0.5, 2],
        "lr_schedule": ["cosine", "plateau"],
        "early_stopping_patience": [2, 5],
        "fine_tune": [None, {"epochs": 1}, {"epochs": 4, "unfreeze": 3}],
    }
    accepted = 0
    for model, values in itertools.product([CNN, ONE, TWO, HUB, TRAINED], itertools.product(*changes.values())):
        try:
            params = parse_params(model | dict(zip(changes, values, strict=True)), where="")
        except ValueError:
            continue
        accepted += 1
        for made in (params, params.head_phase(), params.last_phase()):
            assert parse_params(as_json(made), where="") == made
    assert accepted > 100


def test_every_rule_names_existing_parameters():
    names = {name for unread in effects.UNREAD for name in unread.names}
    assert names <= {field.name for field in dataclasses.fields(Params)}


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/params.json")), ids=lambda path: path.parent.name)
def test_a_complete_set_of_a_shipped_experiment_can_be_read_back(path):
    params = load_params(path.parent)
    assert parse_params(as_json(params), where="") == params


def test_the_error_names_the_file(tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(ONE | {"image_size": 512}))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: image_size 512 has no effect: every extractor"):
        load_params(tmp_path)
