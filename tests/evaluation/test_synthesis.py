import json
import tempfile
from pathlib import Path

import pytest

from cxr.evaluation import synthesis, synthesis_tables


def metrics(value: float | None = 0.75, **changes) -> dict:
    mean = {"value": value, "low": value and value - 0.125, "high": value and value + 0.125, "findings": 14}
    found = {"mean_auroc": mean, "images": 100, "split_name": "official", "dataset_fingerprint": "a" * 64}
    return found | {"params": {"learning_rate": 1e-3, "fine_tune": None}, "leak": None} | changes


@pytest.fixture
def put(tmp_path):
    """put("a/metrics_val_best.json", metrics() or text): write a file below tmp_path."""

    def write(name: str, content: dict | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def collect(folder: Path, checkpoint: str = "best") -> tuple[list[synthesis.Row], list[str]]:
    warnings = []
    return synthesis.collect(folder, checkpoint, warnings.append), warnings


def test_every_experiment_below_is_a_row_except_runs_moved_aside(put, tmp_path):
    put("b/metrics_test_best.json", metrics())
    put("a/metrics_val_best.json", metrics())
    put("a/metrics_val_last.json", metrics(0.5))
    put("a/old/001/metrics_val_best.json", metrics())
    put("tuned/head/metrics_val_best.json", metrics())
    put("search/trial_0003/metrics_val_best.json", metrics())
    put("a/external/aaaaaaaaaaaa/metrics_test_best.json", metrics())
    put("untrained/params.json", {})
    rows, warnings = collect(tmp_path)
    assert [(row.name, list(row.scores)) for row in rows] == [
        ("a", ["val"]),
        ("a/external/aaaaaaaaaaaa", ["test"]),
        ("b", ["test"]),
        ("search/trial_0003", ["val"]),
        ("tuned/head", ["val"]),
    ]
    assert warnings == []
    assert [(row.name, row.scores["val"].value) for row in collect(tmp_path, "last")[0]] == [("a", 0.5)]
    assert [row.name for row in collect(tmp_path / "b")[0]] == ["b"]  # itself an experiment


def test_a_parent_folder_named_old_is_not_left_out(put, tmp_path):
    put("old/a/metrics_val_best.json", metrics())
    assert [row.name for row in collect(tmp_path / "old")[0]] == ["a"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", r"is not valid JSON: Expecting property name"),
        ("[]", r"must hold a JSON object \{\.\.\.\}, not list"),
        ("{}", "is not a metrics file: it has no mean_auroc with a value"),
        ({"mean_auroc": 0.75}, "is not a metrics file: it has no mean_auroc with a value"),
        ({"mean_auroc": {"value": "high"}}, "is not a metrics file: value of mean_auroc is 'high', expected 0 to 1 or"),
        (
            '{"mean_auroc": {"value": NaN}}',
            "is not a metrics file: value of mean_auroc is nan, expected 0 to 1 or",
        ),
        ({"mean_auroc": {"value": 0.5, "low": -1}}, "is not a metrics file: low of mean_auroc is -1, expected 0 to 1"),
    ],
)
def test_a_file_that_is_not_a_metrics_file_is_named_and_left_out(put, tmp_path, content, text):
    path = put("a/metrics_val_best.json", content)
    put("a/metrics_test_best.json", metrics())
    put("b/metrics_val_best.json", content)
    rows, warnings = collect(tmp_path)
    assert [(row.name, list(row.scores)) for row in rows] == [("a", ["test"])]
    assert len(warnings) == 2
    with pytest.raises(ValueError, match=f"^{path} {text}"):
        synthesis.read_split_score(path)
    assert warnings[0].startswith(f"left out: {path} ")


def test_a_file_of_a_version_with_fewer_fields_is_read(put):
    score = synthesis.read_split_score(put("metrics_val_best.json", {"mean_auroc": {"value": 0.75}}))
    assert (score.value, score.low, score.findings, score.fingerprint, score.params) == (0.75, None, None, None, {})


def test_tta_is_a_column_where_it_differs():
    rows = rows_of(("a", {"val": metrics(tta=1)}), ("b", {"val": metrics(tta=5)}))
    assert synthesis.differing_params(rows, "val") == {"evaluate --tta": ["1", "5"]}
    assert synthesis.differing_params(rows[:1], "val") == {}


def test_minutes_are_those_of_the_history_and_of_the_head(put, tmp_path):
    warnings = []
    assert synthesis.read_minutes(tmp_path, warnings.append) is None
    put("history.csv", "epoch,seconds\n1,60\n2,30.0\n")
    put("head/history.csv", "epoch,seconds\n1,15\n")
    assert synthesis.read_minutes(tmp_path, warnings.append) == 1.75
    assert warnings == []
    put("history.csv", "epoch\n1\n")
    assert synthesis.read_minutes(tmp_path, warnings.append) is None
    assert warnings == [
        f"no minutes: not every row of {tmp_path}/history.csv has a number of seconds (KeyError('seconds'))"
    ]


def rows_of(*found: tuple[str, dict[str, dict]]) -> list[synthesis.Row]:
    """Rows from (name, {split: metrics}), through files as they are."""
    rows = []
    for name, splits in found:
        with tempfile.TemporaryDirectory() as folder:
            for split, content in splits.items():
                (Path(folder) / f"metrics_{split}_best.json").write_text(json.dumps(content))
            row = synthesis.collect(Path(folder), "best", pytest.fail)[0]
        rows.append(synthesis.Row(name, row.scores, None))
    return rows


def test_the_best_row_is_first_and_rows_without_the_split_are_last():
    rows = rows_of(
        ("only val", {"val": metrics(0.875)}),
        ("undefined", {"test": metrics(None), "val": metrics(0.5)}),
        ("better", {"test": metrics(0.75)}),
        ("worse", {"test": metrics(0.5)}),
        ("also better", {"test": metrics(0.75)}),
    )
    names = [row.name for row in synthesis.best_first(rows, "test")]
    assert names == ["also better", "better", "worse", "only val", "undefined"]
    assert synthesis.best_first(rows, "val")[0].name == "only val"


def test_rows_that_are_not_comparable_with_most_name_what_differs():
    mean = metrics()["mean_auroc"]
    rows = rows_of(
        ("a", {"val": metrics()}),
        ("b", {"val": metrics(0.5)}),
        ("c", {"val": metrics(dataset_fingerprint="b" * 64, images=99)}),
        ("d", {"val": metrics(split_name="random")}),
        ("e", {"val": metrics(mean_auroc=mean | {"findings": 13})}),
        ("f", {"val": metrics(leak={"patients": 3, "images": 5})}),
        ("g", {"val": metrics(leak={"patients": 0, "images": 0})}),
        ("s", {"val": metrics(seen={"networks": {"x": ["nih_train_val"]}, "scored": {"x": ["nih_train_val"]}})}),
        ("h", {"val": {"mean_auroc": {"value": 0.5}}}),
        ("i", {"test": metrics()}),
    )
    assert synthesis.not_comparable(rows, "val") == {
        "c": ["fingerprint", "images"],
        "d": ["split"],
        "e": ["findings"],
        "f": ["leak"],
        "s": ["seen"],
        "h": ["fingerprint", "split", "images", "findings"],
    }
    assert synthesis.not_comparable(rows, "test") == {}
    assert synthesis.not_comparable(rows[:2], "test") == {}


def test_a_leak_is_marked_also_where_all_rows_have_one():
    leaking = metrics(leak={"patients": 3, "images": 5})
    rows = rows_of(("a", {"test": leaking}), ("b", {"test": leaking}))
    assert synthesis.not_comparable(rows, "test") == {"a": ["leak"], "b": ["leak"]}


def test_what_the_networks_have_seen_is_a_column_where_there_are_networks():
    rad = {"rad-dino": ["nih_test_unlabeled", "mimic"], "own": None}
    rows = rows_of(
        ("cnn", {"test": metrics(seen={"networks": {}, "scored": {}})}),
        ("rad", {"test": metrics(seen={"networks": rad, "scored": {"rad-dino": ["nih_test_unlabeled"]}})}),
        ("random", {"test": metrics(seen={"networks": {"MobileNet": []}, "scored": {}})}),
        ("old", {"test": metrics()}),
    )
    lines = [
        [cell.strip() for cell in line.split("|")] for line in synthesis_tables.to_markdown(rows, "test").splitlines()
    ]
    column = lines[0].index("networks have seen")
    assert [line[column] for line in lines[2:]] == ["", "nih_test_unlabeled, mimic, not stated", "nothing", ""]
    assert lines[3][lines[0].index("test mean AUROC")] == f"0.750 [0.625, 0.875] {synthesis_tables.MARK}"
    assert "networks have seen" not in synthesis_tables.to_markdown(rows[:1], "test")


def test_parameters_that_differ_are_columns_nested_ones_with_dots():
    tuned = {"learning_rate": 1e-3, "fine_tune": {"epochs": 5, "learning_rate": 1e-5}, "seed": 230, "dropout": 0}
    rows = rows_of(
        ("a", {"val": metrics(params={"learning_rate": 1e-3, "fine_tune": None, "seed": 230, "new": 1})}),
        ("b", {"val": metrics(params=tuned)}),
        ("c", {"val": metrics(params=tuned | {"seed": 231})}),
        ("old", {"val": metrics(params={"fine_tune": None, "seed": 230})}),
    )
    assert synthesis.differing_params(rows, "val") == {
        "seed": ["230", "230", "231", "230"],
        "fine_tune.epochs": ["null", "5", "5", "null"],
        "fine_tune.learning_rate": ["null", "1e-05", "1e-05", "null"],
    }


def test_the_markdown_table_is_aligned_and_marks_rows_that_are_not_comparable():
    keras = {"source": "keras", "name": "MobileNet"}
    rows = rows_of(
        ("a|b", {"val": metrics(), "test": metrics(0.5)}),
        ("c", {"val": metrics(None, params={"learning_rate": 0.5, "extractors": [keras, keras], "model": "ensemble"})}),
        ("d", {"val": metrics(images=99, params={"extractors": [], "model": "simple_cnn"})}),
    )
    assert synthesis_tables.to_markdown(rows, "val").splitlines() == [
        "| experiment | val mean AUROC         | test mean AUROC      | findings | minutes | split    | dataset      "
        "| learning_rate | extractors                        | model      |",
        "|------------|------------------------|----------------------|----------|---------|----------|--------------"
        "|---------------|-----------------------------------|------------|",
        "| a\\|b       | 0.750 [0.625, 0.875]   | 0.500 [0.375, 0.625] | 14       |         | official | aaaaaaaaaaaa "
        "| 0.001         |                                   |            |",
        "| c          | undefined              |                      | 14       |         | official | aaaaaaaaaaaa "
        "| 0.5           | keras MobileNet + keras MobileNet | ensemble   |",
        "| d          | 0.750 [0.625, 0.875] † |                      | 14       |         | official | aaaaaaaaaaaa "
        "|               | []                                | simple_cnn |",
    ]


def test_the_csv_has_every_number_in_full():
    rows = rows_of(
        ("a", {"val": metrics(1 / 3)}),
        ("b", {"val": metrics(images=99, split_name="random", params={"learning_rate": 0.5})}),
    )
    fingerprint = "a" * 64
    assert synthesis_tables.to_csv(rows, "val").splitlines() == [
        "experiment,val_mean_auroc,val_low,val_high,val_differs_in,test_mean_auroc,test_low,test_high,test_differs_in,"
        "images,findings,minutes,split_name,dataset_fingerprint,seen,learning_rate",
        f"a,0.3333333333333333,{1 / 3 - 0.125},{1 / 3 + 0.125},,,,,,100,14,,official,{fingerprint},,0.001",
        f"b,0.75,0.625,0.875,split images,,,,,99,14,,random,{fingerprint},,0.5",
    ]
