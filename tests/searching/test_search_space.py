import json

import optuna
import pytest

from cxr.params import Params
from searching import space as search_space
from searching.space import read_space

KERAS = {"source": "keras", "name": "MobileNet", "weights": None}


@pytest.fixture
def space_of(tmp_path):
    """space_of({...}, base): the result of read_space for this search.json and params.json."""

    def read(wanted: object, base: dict | None = None):
        (tmp_path / "search.json").write_text(wanted if isinstance(wanted, str) else json.dumps(wanted))
        return read_space(tmp_path, base or {})

    return read


def suggested(space: dict) -> dict:
    """The values of the first trial of a study."""
    return search_space.suggest(space, optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask())


def test_every_value_has_the_type_of_its_parameter(space_of):
    space = space_of({
        "optimizer": ["adamw"],
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "dropout": {"low": 0, "high": 0.5},
        "batch_size": {"low": 8, "high": 64},
        "hidden_units": [[512, 256]],
    }, {"model": "feature_extractor", "extractors": [KERAS]})  # fmt: skip
    values = suggested(space)
    assert values == {
        "optimizer": "adamw",
        "learning_rate": pytest.approx(3e-4, rel=33),  # 1e-5 to 1e-2
        "dropout": pytest.approx(0.25, abs=0.25),
        "batch_size": values["batch_size"],
        "hidden_units": [512, 256],
    }
    assert values["batch_size"] in range(8, 65)
    assert [type(values[name]) for name in ("dropout", "batch_size")] == [float, int]  # although dropout's low is 0
    assert search_space.combinations(space) is None


def test_a_range_with_log_draws_all_powers_of_ten_equally_often(space_of):
    space = space_of({"learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [search_space.suggest(space, study.ask())["learning_rate"] for _ in range(200)]
    assert sum(value < 1e-4 for value in drawn) == pytest.approx(100, abs=20)  # without log it would be 2


def test_a_grid_has_the_product_of_its_lists(space_of):
    assert search_space.combinations(space_of({"learning_rate": [1e-4, 1e-3], "dropout": [0, 0.2, 0.5]})) == 6


def test_a_dot_leads_into_an_object(space_of):
    base = {"model": "feature_extractor", "extractors": [KERAS], "fine_tune": {"epochs": 2}}
    values = {"fine_tune.learning_rate": 1e-4, "dropout": 0.5}
    assert search_space.merged(base, values) == {
        **base,
        "fine_tune": {"epochs": 2, "learning_rate": 1e-4},
        "dropout": 0.5,
    }
    assert base["fine_tune"] == {"epochs": 2}  # the base is unchanged
    assert search_space.merged({"fine_tune": None}, {"fine_tune.epochs": 3}) == {"fine_tune": {"epochs": 3}}
    values = suggested(space_of({"fine_tune.epochs": {"low": 1, "high": 4}}, base))
    assert values["fine_tune.epochs"] in (1, 2, 3, 4)


def test_every_parameter_can_be_searched():
    names = search_space.searchable()
    assert {"learning_rate", "fine_tune", "fine_tune.epochs", "fine_tune.unfreeze"} <= set(names)
    assert set(Params.__dataclass_fields__) <= set(names)


def test_values_are_described_briefly():
    values = {"learning_rate": 0.000123456, "optimizer": "sgd", "hidden_units": [512], "fine_tune": None}
    assert search_space.describe(values) == "learning_rate 0.0001235, optimizer sgd, hidden_units [512], fine_tune null"


def test_the_error_without_search_json_shows_an_example(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'^no .*/search\.json; it says what to search, for example \{"learn'):
        read_space(tmp_path, {})


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("{", "is not valid JSON"),
        ("[]", r"must hold a JSON object \{\.\.\.\}, not list"),
        ({}, "names no parameter to search; expected for example"),
        ({"learning_rte": [1]}, r"unknown parameter 'learning_rte'\. Did you mean 'learning_rate'\?"),
        ({"fine_tune.epoch": [1]}, r"unknown parameter 'fine_tune\.epoch'\. Did you mean 'fine_tune\.epochs'\?"),
        ({"seed.low": [1]}, r"unknown parameter 'seed\.low'\. Did you mean '\w+'\?"),
        ({"fine_tune": [None], "fine_tune.epochs": [1]}, r"searches both 'fine_tune' and its part 'fine_tune\.epochs'"),
        ({"dropout": 0.5}, r"dropout is 0\.5; expected a list of values, or \{\"low\": \.\.\., \"high\": \.\.\.\}"),
        ({"dropout": []}, "dropout is an empty list; expected one value or more"),
        ({"dropout": [0.5, 0, 0.5]}, r"dropout lists 0\.5 twice"),
        ({"dropout": {}}, "dropout has nothing; expected low, high and perhaps log"),
        ({"dropout": {"low": 0, "hihg": 1}}, "dropout has low, hihg; expected low, high and perhaps log"),
        ({"dropout": {"low": 0.5, "high": 0.1}}, r"dropout: the range from 0\.5 to 0\.1 is empty; low must be below"),
        ({"dropout": {"low": 0.5, "high": 0.5}}, r"dropout: the range from 0\.5 to 0\.5 is empty"),
        ('{"dropout": {"low": 0, "high": NaN}}', "dropout: the range from 0 to nan is empty"),
        ({"dropout": {"low": 0, "high": 0.5, "log": True}}, "dropout: low is 0; a range with log must start above 0"),
        ({"dropout": {"low": 0, "high": 0.5, "log": 1}}, "dropout: log is 1; expected true or false"),
        ({"dropout": {"low": "0", "high": 0.5}}, "dropout: '0' cannot be the end of a range; expected a number"),
        (
            {"batch_size": {"low": 1, "high": 8.5}},
            r"batch_size: 8\.5 cannot be the end of a range; expected an integer",
        ),
        (
            {"batch_size": {"low": True, "high": 8}},
            "batch_size: True cannot be the end of a range; expected an integer",
        ),
        (
            {"optimizer": {"low": 0, "high": 1}},
            r"optimizer is not a number and cannot have a range; list its values: \[\.\.\.",
        ),
        ({"hidden_units": {"low": 1, "high": 9}}, "hidden_units is not a number and cannot have a range"),
        ({"dropout": [0, 2]}, r"with dropout 2 over params\.json: dropout is 2; expected 0 to 0\.95"),
        ({"dropout": {"low": 0, "high": 2}}, r"with dropout 2 over params\.json: dropout is 2; expected 0 to 0\.95"),
        (
            {"num_blocks": [3, 7], "image_size": [224, 32]},  # each value is valid, one pair is not
            r"with num_blocks 7, image_size 32 over params\.json: num_blocks 7 halves 32 pixels to none",
        ),
    ],
)
def test_an_impossible_search_is_rejected(space_of, wanted, text):
    with pytest.raises(ValueError, match=rf"search\.json:? {text}"):
        space_of(wanted)
