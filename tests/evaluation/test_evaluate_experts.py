"""evaluate.py --expert_labels, with a trained network, on the twelve test images of the tiny release."""

import json
import re
import shutil

import pytest

import evaluate
from cxr.findings import FINDINGS
from cxr.records import dataset
from tools import report

pytestmark = pytest.mark.usefixtures("few_resamples")
READERS = ("7", "8", "9")


@pytest.fixture(scope="module")
def trained(one_epoch, tmp_path_factory):
    return shutil.copytree(one_epoch, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def labels_dir(built_dataset, tmp_path):
    """All_findings of the test images and one unknown image: the first eight have Effusion, and nothing else."""
    images = evaluate.split_index(dataset.open_dataset(built_dataset), "test").image_ids.tolist()
    names = [finding.replace("_", " ") for finding in FINDINGS]
    head = ",".join(["Image ID", "Patient ID", "Abnormal", *names, "Other"])
    rows = {}
    for place, image_id in enumerate([*images, "99999999_000.png"]):
        answers = ["YES" if place < 8 and name in ("Abnormal", "Effusion") else "NO" for name in ["Abnormal", *names]]
        rows[image_id] = ",".join([image_id, "1", *answers, "NO"])
    folder = tmp_path / "expert"
    folder.mkdir()
    (folder / "all_labels.csv").write_text("\n".join([head, *rows.values()]) + "\n")
    readings = [row.replace(",1,", f",1,{reader},", 1) for row in rows.values() for reader in READERS]
    head = head.replace("Patient ID", "Patient ID,Reader ID")
    (folder / "all_individual_readers.csv").write_text("\n".join([head, *readings, readings[0]]) + "\n")
    return folder


def run(model_dir, data_dir, *flags: object) -> None:
    evaluate.main([str(flag) for flag in ("--model_dir", model_dir, "--data_dir", data_dir, *flags)])


def test_the_experts_file_the_table_and_the_report(trained, built_dataset, labels_dir, capsys):
    run(trained, built_dataset, "--expert_labels", labels_dir)
    printed = capsys.readouterr().out.splitlines()
    assert "all_findings: 12 images of 4 patients" in printed
    assert f"written: {trained / 'experts_test_best.json'}" in printed
    found = json.loads((trained / "experts_test_best.json").read_text())
    assert list(found) == ["all_findings"]
    study = found["all_findings"]
    assert (study["images"], list(study["findings"])) == (12, ["Abnormal", *FINDINGS])  # NIH has no Other
    effusion = study["findings"]["Effusion"]
    assert (effusion["positives_expert"], effusion["kappa_readers"]) == (8, 1.0)
    assert effusion["readers"] == {key: {"sensitivity": 1.0, "specificity": 1.0, "images": 12} for key in READERS}
    assert study["findings"]["Mass"]["auroc_expert"] == {"value": None, "low": None, "high": None}
    report.main(["--model_dir", str(trained)])
    text = (trained / "report_test.html").read_text()
    assert 'id="experts"' in text
    assert "these are test images: do not choose a model by them" in text


def test_a_report_with_experts_of_other_weights(trained, built_dataset, labels_dir, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    run(copy, built_dataset, "--expert_labels", labels_dir)
    path = copy / "experts_test_best.json"
    path.write_text(path.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    with pytest.raises(SystemExit, match=rf"^error: {re.escape(str(path))} is of other weights than the metrics"):
        report.main(["--model_dir", str(copy)])


def test_no_image_of_the_split_is_in_the_studies(trained, built_dataset, labels_dir):
    text = (
        f"error: none of the 15 images in val of {built_dataset} is among the 13 with radiologists' labels in "
        f"{labels_dir}; expected images of the NIH release, such as "
    )
    before = (trained / "metrics_val_best.json").read_text()
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}"):
        run(trained, built_dataset, "--split", "val", "--expert_labels", labels_dir)
    assert (trained / "metrics_val_best.json").read_text() == before  # refused before anything is scored


def test_a_folder_without_labels(trained, built_dataset, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: no radiologists' labels \(\*_labels\.csv\) below "):
        run(trained, built_dataset, "--expert_labels", tmp_path)
