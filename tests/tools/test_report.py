"""The report of an experiment: its files and its text. test_browser.py tests it in a browser."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from support.ready import write_identity
from support.scored import add_localization, make_experiment, score_split

from cxr.evaluation import comparison, metrics
from tools import report
from tools.reporting import figures, page
from tools.reporting.evaluated import read_evaluated
from tools.reporting.experiment_page import commands, experiment_page, notes, report_path

pytestmark = pytest.mark.usefixtures("few_resamples")
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture(scope="module")
def full(built_dataset, tmp_path_factory):
    """An experiment with everything that a report can show. Shared: tests that change it work on `copy`."""
    folder = make_experiment(tmp_path_factory.mktemp("full") / "experiment", built_dataset)
    add_localization(folder)
    return folder


@pytest.fixture(scope="module")
def full_page(full, built_dataset) -> str:
    report.main(["--model_dir", str(full), "--data_dir", str(built_dataset)])
    return (full / "report_test.html").read_text()


@pytest.fixture
def copy(full, tmp_path):
    return shutil.copytree(full, tmp_path / "copy")


def result_of(folder, split="test") -> dict:
    return json.loads((folder / f"metrics_{split}_best.json").read_text())


def error_of(*flags: object) -> str:
    with pytest.raises(SystemExit) as caught:
        report.main([str(flag) for flag in flags])
    return str(caught.value)


def test_the_page_loads_nothing_and_runs_no_script(full_page):
    assert set(re.findall(r"(?:src|href)=\"(data:image/[a-z+]+|#)", full_page)) == {
        *("data:image/svg+xml", "data:image/jpeg", "#"),
    }
    assert not re.findall(r"(?:src|href)=\"(?!data:image/|#)", full_page)
    assert not re.findall(r"<script|@import|url\(|<link|<iframe", full_page)
    assert '<p class="warning">NOT COMPARABLE: ' in full_page
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in full_page


def test_the_page_has_the_values_of_the_metrics_file(full, full_page):
    result = result_of(full)
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", full_page))
    assert f"Mean AUROC {result['mean_auroc']['value']:.3f}" in text
    for name, values in result["findings"].items():
        positives = f"{values['positives']} of {result['images']} images have it."
        assert f"{page.readable(name)} {positives}" in text
        if values["auroc"] is not None:
            assert f"AUROC {values['auroc']:.3f} [{values['low']:.3f}, {values['high']:.3f}]" in text
    for version in result["library_versions"].values():
        assert version in text
    for fact in (result["dataset_fingerprint"], "NOT COMPARABLE", "labels shuffled", "learning_rate 0.003 0.001"):
        assert fact in text
    assert f"python -m tools.report --model_dir {full} --data_dir" in text


def test_every_hardest_image_is_shown_and_undefined_findings_are_noted(full, full_page):
    undefined = [name for name, values in result_of(full)["findings"].items() if values["auroc"] is None]
    assert 0 < len(undefined) < 14
    assert full_page.count("Without both classes AUROC and curves are undefined.") == len(undefined)
    wrong = re.findall(r"<figure>\s*(<img[^>]+>)?\s*<figcaption>predicted", full_page)
    assert len(wrong) > 3
    assert all(wrong)


def test_the_localization_section_names_the_findings_that_beat_the_controls(full_page):
    assert "The heat maps hit most boxes of\nMass; no control does." in full_page
    assert "Annotated boxes are white and solid" in full_page


def test_the_groups_section_has_pooled_within_and_across(full, full_page):
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", full_page))
    within = result_of(full)["within"]["view_position"]["mean_auroc"]
    assert "finding pooled within view position AP positives against PA negatives" in text  # no PA image has a finding
    assert f"{within['value']:.3f} [{within['low']:.3f}, {within['high']:.3f}]" in text
    assert re.search(r'alt="Dot plot of AUROC by finding. Means: pooled 0\.\d+; within view position ', full_page)


def test_a_shortcut_that_the_last_epoch_has_learned_is_named(copy):
    last = result_of(copy, "val")
    for report_ in last["within"].values():
        for values in (report_["mean_auroc"], *report_["findings"].values()):
            values["excess"]["low"] = -0.01
    pneumonia = last["within"]["view_position"]["findings"]["Pneumonia"]
    pneumonia |= {"auroc": 0.651, "excess": {"pooled": 0.942, "difference": 0.291, "low": 0.2, "high": 0.4}}
    path = copy / "metrics_val_last.json"
    path.write_text(json.dumps(last | {"weights_sha256": "of the last epoch"}))
    line = "Learned later, in the last epoch on val: SHORTCUT? by view position: Pneumonia 0.942 pooled, 0.651 within<"
    assert line in experiment_page(read_evaluated(copy, "test", None), "command")
    path.write_text(json.dumps(last))  # the best epoch is the last one
    assert "Learned later" not in experiment_page(read_evaluated(copy, "test", None), "command")


def test_without_known_groups_nothing_is_within(copy):
    evaluated = read_evaluated(copy, "test", None)
    nothing = dict.fromkeys(("value", "low", "high")) | {"findings": 0}
    for report_ in (evaluated.result["within"], evaluated.result["cross"]):
        for values in report_.values():
            values["mean_auroc"] |= nothing
    text = experiment_page(evaluated, "command")
    assert "No view position and no group of these images is known, so nothing is compared within groups." in text


def test_a_minimal_experiment_names_what_is_missing(built_dataset, tmp_path):
    folder = make_experiment(tmp_path / "least", built_dataset, splits=("val",))
    for name in ("history.csv", "train.log"):
        (folder / name).unlink()
    report.main(["--model_dir", str(folder), "--split", "val"])
    text = (folder / "report_val.html").read_text()
    for line in (
        "No curves: the experiment has no history.csv.",
        "No localization.json. Run python -m tools.localize on this experiment",
        "Add --data_dir to see them.",
        "No train.log.",
        "Thresholds and calibration were fitted to these same images",
        "--data_dir RECORDS",
    ):
        assert line in text
    assert error_of("--model_dir", folder) == (
        f"error: no {folder}/metrics_test_best.json. Run: python evaluate.py --model_dir {folder} --data_dir RECORDS "
        "--split test; or report --split val, which is evaluated"
    )


def test_an_empty_split_still_has_a_page(built_dataset, tmp_path):
    data_dir = shutil.copytree(built_dataset, tmp_path / "records")
    info = json.loads((data_dir / "dataset.json").read_text())
    info["splits"]["test"] |= {"images": 0, "patients": 0, "shards": []}
    (data_dir / "dataset.json").write_text(json.dumps(info))
    folder = make_experiment(tmp_path / "experiment", data_dir)
    report.main(["--model_dir", str(folder), "--data_dir", str(data_dir)])
    text = (folder / "report_test.html").read_text()
    assert "the test split is empty: nothing to score" in text
    assert "Mean AUROC <strong>—</strong>" in text


def test_names_and_ids_cannot_become_markup(copy):
    evaluated = read_evaluated(copy, "test", None)
    ids = np.array([HOSTILE + str(row) for row in range(len(evaluated.predictions.image_ids))])
    history = [row | {"val_mean_auroc": None} for row in evaluated.history]
    evaluated.result["params"]["extractors"] = [HOSTILE]
    evaluated.result["evaluated_on"]["csv"] = HOSTILE
    compared = metrics.none_for_nan(comparison.compare(evaluated.predictions, evaluated.predictions))
    leak = {"patients": 1, "images": 1, "where": [HOSTILE], "unknown": [HOSTILE]}
    evaluated.result["comparison"] = {"model_dir": HOSTILE, "leak": leak, **compared}
    evaluated = evaluated._replace(
        model_dir=copy / HOSTILE,
        predictions=evaluated.predictions._replace(image_ids=ids),
        history=history,
        log=HOSTILE,
    )
    text = experiment_page(evaluated, HOSTILE)
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)") > 7
    assert "Val mean AUROC: best — in epoch 1" in text
    assert "<td>+0.000</td>\n    <td>[+0.000, +0.000]</td><td>1.000</td><td>+0.000</td>" in text  # beside itself


def test_another_dataset_has_its_report_in_external(copy, built_dataset, tmp_path):
    data_dir = shutil.copytree(built_dataset, tmp_path / "other")
    info = json.loads((data_dir / "dataset.json").read_text()) | {"fingerprint": "e" * 64}
    (data_dir / "dataset.json").write_text(json.dumps(info))
    folder = copy / "external" / ("e" * 12)
    assert error_of("--model_dir", copy, "--data_dir", data_dir) == (
        f"error: no {folder}/metrics_test_best.json. "
        f"Run: python evaluate.py --model_dir {copy} --data_dir {data_dir} --split test"
    )
    score_split(copy, data_dir, "test")
    evaluated = read_evaluated(copy, "test", data_dir)
    assert report_path(evaluated) == folder / "report_test.html"
    assert any(note.startswith("EXTERNAL: trained on Data_Entry_2017.csv") for note in notes(evaluated.result))


def test_inconsistent_files_are_named(copy):
    again = f"Run: python evaluate.py --model_dir {copy} --data_dir RECORDS --split test"
    path = copy / "metrics_test_best.json"
    (copy / "history.csv").write_text("epoch,loss\n1,low\n")
    assert error_of("--model_dir", copy) == (
        f"error: {copy}/history.csv is not a table of numbers (could not convert string to float: 'low'); "
        "delete it to leave out the curves"
    )
    path.write_text(json.dumps(result_of(copy) | {"images": 9}))
    assert error_of("--model_dir", copy) == (
        f"error: {path} has 9 images, the predictions beside it 12: they are of different runs. {again}"
    )
    path.write_text(json.dumps({"split": "test"}))
    assert error_of("--model_dir", copy) == (f"error: {path} has no floors: an earlier version wrote it. {again}")
    path.write_text(json.dumps({"split": "test", "floors": {}}))
    assert error_of("--model_dir", copy) == (f"error: {path} has no within: an earlier version wrote it. {again}")


@pytest.mark.parametrize(
    ("library", "use"),
    [
        ("matplotlib", lambda: figures.draw_figure(lambda axes: None, title="a", alt="b")),
        ("jinja2", lambda: page.render("experiment.html")),
    ],
)
def test_a_missing_library_is_named(monkeypatch, library, use):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"^reports need {library}. Run: pip install -r requirements.txt$"):
        use()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "give --model_dir for an experiment, --data_dir for a dataset, or both"),
        (["--data_dir", "records", "--split", "val"], "--split goes with --model_dir"),
    ],
)
def test_missing_flags_exit_with_2(capsys, flags, text):
    with pytest.raises(SystemExit) as caught:
        report.parse_args(flags)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {text}")


def test_the_commands_take_the_dataset_from_the_log(full, built_dataset):
    assert commands(read_evaluated(full, "val", None), "this") == [
        f"python train.py --model_dir {full} --data_dir {built_dataset}",
        f"python evaluate.py --model_dir {full} --data_dir {built_dataset} --split val",
        "this",
    ]


def test_how_it_was_made_names_device_extractors_and_initial_weights(copy):
    start = {"model_dir": "experiments/start", "weights_sha256": "b" * 64}
    write_identity(copy, {"resnet": "a" * 64}, restore_from=start)
    evaluated = read_evaluated(copy, "test", None)
    assert commands(evaluated, "this")[0].endswith(" --restore_from experiments/start")
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", experiment_page(evaluated, "this")))
    for fact in (
        "precision float32",
        "device CPU",
        f"extractor resnet SHA-256 {'a' * 64}, runtime keras",
        f"initial weights best weights of experiments/start, SHA-256 {'b' * 64}",
        f"trained weights best, SHA-256 {evaluated.result['weights_sha256']}",
    ):
        assert fact in text
