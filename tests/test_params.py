import dataclasses
import json
import re
from pathlib import Path

import pytest

from cxr.params import FineTune, Params, load_params, parameter_table, parse_params

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted(ROOT.glob("experiments/*/params.json"))


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


def write_params(folder: Path, text: str) -> Path:
    (folder / "params.json").write_text(text)
    return folder


def test_an_empty_object_gives_the_defaults(tmp_path):
    params = load_params(write_params(tmp_path, "{}"))
    assert params == Params()
    assert (params.model, params.image_size, params.batch_size, params.seed) == ("simple_cnn", 224, 32, 230)


def test_values_keep_their_types(tmp_path):
    params = load_params(write_params(tmp_path, '{"image_size": 64, "dropout": 0.25, "lr_schedule": "constant"}'))
    assert (params.image_size, params.dropout, params.lr_schedule) == (64, 0.25, "constant")


def test_an_integer_is_accepted_as_a_float():
    weight_decay = parse_params({"weight_decay": 0}, where="here").weight_decay
    assert weight_decay == 0.0
    assert type(weight_decay) is float


def test_parameters_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Params().seed = 1


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learning_rte", "learning_rate"),  # a missing letter
        ("lerning_rate", "learning_rate"),
        ("batchsize", "batch_size"),
        ("Seed", "seed"),  # names are lower case
        ("epochs", "num_epochs"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(tmp_path, key, nearest):
    text = f"{tmp_path / 'params.json'}: unknown parameter {key!r}. Did you mean {nearest!r}?"
    with pytest.raises(ValueError, match=exactly(text)):
        load_params(write_params(tmp_path, json.dumps({key: 1})))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"batch_size": true}', "batch_size is True; expected an integer"),  # although True == 1
        ('{"batch_size": "3"}', "batch_size is '3'; expected an integer"),
        ('{"batch_size": 3.0}', "batch_size is 3.0; expected an integer"),
        ('{"batch_size": null}', "batch_size is None; expected an integer"),
        ('{"learning_rate": "1e-3"}', "learning_rate is '1e-3'; expected a number"),
        ('{"learning_rate": true}', "learning_rate is True; expected a number"),
        ('{"dropout": [0.5]}', "dropout is [0.5]; expected a number"),
        ('{"batch_size": 0}', "batch_size is 0; expected 1 to 65536"),
        ('{"image_size": 16}', "image_size is 16; expected 32 to 2048"),
        ('{"image_size": 4096}', "image_size is 4096; expected 32 to 2048"),
        ('{"dropout": -0.1}', "dropout is -0.1; expected 0 to 0.95"),
        ('{"dropout": 1}', "dropout is 1; expected 0 to 0.95"),
        ('{"learning_rate": 0}', "learning_rate is 0; expected 1e-08 to 10"),
        ('{"learning_rate": NaN}', "learning_rate is nan; expected 1e-08 to 10"),
        ('{"warmup_epochs": NaN}', "warmup_epochs is nan; expected 0 to 1000"),
        ('{"optimizer": "adam"}', "optimizer is 'adam'; expected 'adamw' or 'sgd'"),
        ('{"lr_schedule": true}', "lr_schedule is True; expected 'constant' or 'cosine' or 'plateau'"),
        (
            '{"model": "resnet"}',
            "model is 'resnet'; expected 'simple_cnn' or 'feature_extractor' or 'ensemble' or 'average'",
        ),
        (
            '{"precision": "float16"}',
            "precision is 'float16'; expected 'float32' or 'bfloat16' or 'int8' or 'mixed_float16'",
        ),
        ('{"hidden_units": 512}', "hidden_units is 512; expected a list"),
        ('{"hidden_units": [512, "256"]}', "hidden_units[1] is '256'; expected an integer"),
        ('{"hidden_units": [0]}', "hidden_units[0] is 0; expected 1 to 65536"),
        ('{"extractors": {"source": "keras"}}', "extractors is {'source': 'keras'}; expected a list"),
        ('{"extractors": ["ResNet50V2"]}', "extractors[0] is 'ResNet50V2'; expected an object {...}"),
        ('{"members": "experiments/a"}', "members is 'experiments/a'; expected a list"),
        ('{"members": ["experiments/a", 2]}', "members[1] is 2; expected a string"),
        ('{"model": "average"}', "model 'average' takes two members or more, not 0"),
        ('{"model": "average", "members": ["experiments/a"]}', "model 'average' takes two members or more, not 1"),
        ('{"fine_tune": true}', "fine_tune is True; expected an object {...}"),
        ('{"metadata": 1}', "metadata is 1; expected true or false"),
        ('{"crop_size": 1.5}', "crop_size is 1.5; expected an integer"),
        ('{"crop_size": 16}', "crop_size is 16; expected 32 to 2048"),
        ('{"ema_decay": 1}', "ema_decay is 1; expected 0.5 to 0.99999"),
        ('{"gradient_clip_norm": "1"}', "gradient_clip_norm is '1'; expected a number"),
        ('{"fine_tune": {"epochs": 0}}', "fine_tune: epochs is 0; expected 1 to 100000"),
        ('{"fine_tune": {"unfreeze": "some"}}', "fine_tune: unfreeze is 'some'; expected 'all' or an integer"),
        ('{"fine_tune": {"unfreeze": 0}}', "fine_tune: unfreeze is 0; expected 1 to 10000"),
        ('{"fine_tune": {"epoch": 5}}', "fine_tune: unknown parameter 'epoch'. Did you mean 'epochs'?"),
        (
            '{"precision": "int8"}',
            "precision 'int8' is for frozen networks, and simple_cnn trains all of its layers; "
            "take 'bfloat16', or 'float32'",
        ),
        ('{"fine_tune": {}}', "fine_tune needs extractors; 'simple_cnn' trains all of its layers anyway"),
    ],
)
def test_a_wrong_type_or_value_is_named_with_what_was_expected(tmp_path, text, message):
    with pytest.raises(ValueError, match=exactly(f"{tmp_path / 'params.json'}: {message}")):
        load_params(write_params(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        '{"warmup_epochs": Infinity}',  # no step would ever reach the peak learning rate
        '{"learning_rate": 1' + "0" * 400 + "}",  # larger than any float
        '{"seed": 4294967296}',  # numpy takes seeds below 2 ** 32
    ],
)
def test_a_value_that_could_only_fail_later_fails_now(tmp_path, text):
    with pytest.raises(ValueError, match=r"params\.json: (warmup_epochs|learning_rate|seed) is .*; expected "):
        load_params(write_params(tmp_path, text))


def test_too_many_blocks_for_the_image_size_are_rejected(tmp_path):
    assert load_params(write_params(tmp_path, '{"image_size": 32, "num_blocks": 5}')).num_blocks == 5
    with pytest.raises(ValueError, match=r"params\.json: .*num_blocks"):
        load_params(write_params(tmp_path, '{"image_size": 32, "num_blocks": 6}'))  # 32 px are halved five times


NETWORK = {"source": "keras", "name": "ResNet50V2"}


@pytest.mark.parametrize(
    ("model", "count", "wanted"),
    [
        ("simple_cnn", 1, "no extractors"),
        ("feature_extractor", 0, "one extractor"),
        ("feature_extractor", 2, "one extractor"),
        ("ensemble", 0, "two extractors or more"),
        ("ensemble", 1, "two extractors or more"),
        ("average", 1, "no extractors"),
    ],
)
def test_a_wrong_number_of_extractors_is_rejected(model, count, wanted):
    with pytest.raises(ValueError, match=exactly(f"here: model {model!r} takes {wanted}, not {count}")):
        parse_params({"model": model, "extractors": [NETWORK] * count}, where="here")


def test_a_right_number_of_extractors_is_accepted():
    assert parse_params({"model": "feature_extractor", "extractors": [NETWORK]}, where="").extractors == (NETWORK,)
    assert parse_params({"model": "ensemble", "extractors": [NETWORK] * 3}, where="").extractors == (NETWORK,) * 3


def test_defaults_of_fine_tuning():
    one = {"model": "feature_extractor", "extractors": [NETWORK]}
    assert parse_params(one, where="").fine_tune is None
    assert parse_params({**one, "fine_tune": None}, where="").fine_tune is None
    assert parse_params({**one, "fine_tune": {}}, where="").fine_tune == FineTune()
    tuned = parse_params({**one, "fine_tune": {"unfreeze": 20, "learning_rate": 1}}, where="").fine_tune
    assert (tuned.unfreeze, tuned.learning_rate, tuned.batch_norm) == (20, 1.0, "frozen")


def test_mixup_with_metadata_is_rejected():
    text = "here: mixup cannot average two sexes or view positions; leave out mixup or metadata"
    with pytest.raises(ValueError, match=exactly(text)):
        parse_params({"metadata": True, "mixup": 0.2}, where="here")


def test_the_phases_of_fine_tuning():
    changes = {"augmentation": "light", "horizontal_flip": True, "batch_size": 4, "fine_tune": {"batch_size": 8}}
    params = parse_params({"model": "feature_extractor", "extractors": [NETWORK]} | changes, where="")
    head = params.head_phase()
    assert (head.fine_tune, head.augmentation, head.horizontal_flip, head.batch_size) == (None, "none", False, 4)
    last = params.last_phase()
    assert (last.augmentation, last.batch_size, last.num_epochs, last.learning_rate) == ("light", 8, 5, 1e-5)
    assert head.last_phase() == head


def test_invalid_json_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))}/params\.json is not valid JSON: .*line 2"):
        load_params(write_params(tmp_path, '{"seed": 1,\n}'))


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ('"seed"', "str"), ("null", "NoneType")])
def test_json_that_is_not_an_object_is_rejected(tmp_path, text, kind):
    with pytest.raises(
        ValueError, match=exactly(f"{tmp_path / 'params.json'} must hold a JSON object {{...}}, not {kind}")
    ):
        load_params(write_params(tmp_path, text))


def test_a_folder_without_params_json_is_not_an_experiment(tmp_path):
    text = (
        f"no {tmp_path / 'params.json'}; an experiment is a folder with a params.json, which may be empty: {{}}. "
        "Copy one from experiments/simple_cnn."
    )
    with pytest.raises(FileNotFoundError, match=exactly(text)):
        load_params(tmp_path)


def test_the_experiment_that_the_error_recommends_exists():
    assert ROOT / "experiments/simple_cnn/params.json" in SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_a_shipped_experiment_lists_only_changes_from_the_defaults(path):
    load_params(path.parent)
    values = json.loads(path.read_text())
    assert {key for key, value in values.items() if value == getattr(Params(), key)} == set()


@pytest.mark.parametrize("kind", [Params, FineTune])
def test_the_parameter_table_has_a_row_for_every_field(kind):
    header, rule, *rows = parameter_table(kind).splitlines()
    assert (header, rule) == ("| parameter | values | default | meaning |", "|---|---|---|---|")
    assert [row.split("`")[1] for row in rows] == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        (Params, "| `dropout` | float, 0 to 0.95 | `0.0` | "),
        (Params, "| `batch_size` | int, 1 to 65,536 | `32` | images per step |"),
        (Params, "| `hidden_units` | list of int, 1 to 65,536 | `[512, 256]` | "),
        (Params, "| `extractors` | list of object | `[]` | "),
        (Params, "| `metadata` | `true` or `false` | `false` | "),
        (Params, "| `crop_size` | int, 32 to 2,048 or `null` | `null` | "),
        (Params, "| `fine_tune` | object or `null` | `null` | "),
        (FineTune, "| `unfreeze` | `all` or int, 1 to 10,000 | `all` | "),
        (FineTune, "| `learning_rate` | float, 1e-08 to 10 | `1e-05` | "),
    ],
)
def test_the_parameter_table_shows_types_and_ranges(kind, start):
    assert any(row.startswith(start) for row in parameter_table(kind).splitlines())
