import csv
import json
from pathlib import Path

import pytest

import synthesize_results


def put(path: Path, value: float | None, **changes) -> None:
    """A metrics file as evaluate.py leaves it, as far as the table reads it."""
    mean = {"value": value, "low": value and value - 0.125, "high": value and value + 0.125, "findings": 14}
    found = {"mean_auroc": mean, "images": 100, "split_name": "official", "dataset_fingerprint": "a" * 64}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found | {"params": {"seed": 230}} | changes))


def synthesize(folder: Path, *flags: str) -> None:
    synthesize_results.main(["--parent_dir", str(folder), *flags])


def test_the_table_is_printed_and_written(tmp_path, capsys):
    put(tmp_path / "worse/metrics_test_best.json", 0.5)
    put(tmp_path / "better/metrics_test_best.json", 0.75, params={"seed": 231})
    put(tmp_path / "better/metrics_val_best.json", 0.875)
    (tmp_path / "better/history.csv").write_text("epoch,seconds\n1,90\n")
    synthesize(tmp_path)
    output, errors = capsys.readouterr()
    table = (
        "| experiment | val mean AUROC       | test mean AUROC      | findings | minutes | split    | dataset      "
        "| seed |\n"
        "|------------|----------------------|----------------------|----------|---------|----------|--------------"
        "|------|\n"
        "| better     | 0.875 [0.750, 1.000] | 0.750 [0.625, 0.875] | 14       | 1.5     | official | aaaaaaaaaaaa "
        "| 231  |\n"
        "| worse      |                      | 0.500 [0.375, 0.625] | 14       |         | official | aaaaaaaaaaaa "
        "| 230  |\n"
    )
    base = tmp_path / "results_test_best"
    assert (output, errors) == (f"{table}\nwritten: {base}.md, {base}.csv\n", "")
    assert Path(f"{base}.md").read_text() == table
    with Path(f"{base}.csv").open(newline="") as file:
        assert [(row["experiment"], row["test_mean_auroc"], row["seed"]) for row in csv.DictReader(file)] == [
            ("better", "0.75", "231"),
            ("worse", "0.5", "230"),
        ]
    synthesize(tmp_path)  # its own output is not a row of the next table
    assert capsys.readouterr() == (output, "")


def test_warnings_beside_the_table(tmp_path, capsys):
    for name in ("a", "b"):
        put(tmp_path / name / "metrics_val_last.json", 0.5)
    put(tmp_path / "c/metrics_val_last.json", 0.75, images=99, dataset_fingerprint="b" * 64)
    put(tmp_path / "d/metrics_test_last.json", 0.75)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/metrics_val_last.json").write_text("{")
    synthesize(tmp_path, "--split", "val", "--checkpoint", "last")
    output, errors = capsys.readouterr()
    assert [line.split()[1] for line in output.splitlines()[2:6]] == ["c", "a", "b", "d"]
    first, *rest = errors.splitlines()
    assert first.startswith(f"warning: left out: {tmp_path}/broken/metrics_val_last.json is not valid JSON: ")
    assert rest == [
        "warning: val scores marked † are not comparable with the others: c (fingerprint, images)",
        "warning: no metrics of val, so at the end: d",
    ]
    assert (tmp_path / "results_val_last.md").read_text() in output


def test_a_missing_folder(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: no folder .*/nowhere; expected one that holds experiments$"):
        synthesize(tmp_path / "nowhere")


def test_a_folder_without_metrics(tmp_path):
    text = r"^error: no metrics of val or test with the best weights below .*\. Run: python train\.py --model_dir EXPER"
    with pytest.raises(SystemExit, match=text):
        synthesize(tmp_path)
    assert list(tmp_path.iterdir()) == []
