import csv

import numpy as np
import pytest
from etils import epath

from cxr.evaluation import experts
from cxr.evaluation.agreement import kappa, kappa_between, reader_points
from cxr.evaluation.experts import ExpertLabels, combined, compare_with_experts
from cxr.evaluation.experts_table import experts_table
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS, parse_findings
from cxr.release.expert_labels import read_expert_labels

NAN = float("nan")
IDS = np.array([f"{n}.png" for n in range(16)])


def test_combinations_by_hand():
    labels, probabilities = np.zeros((2, 14), np.int64), np.zeros((2, 14))
    labels[1, FINDINGS.index("Mass")] = 1
    probabilities[0, [FINDINGS.index("Mass"), FINDINGS.index("Nodule")]] = 0.5, 0.2
    assert combined(labels, "Nodule or mass").tolist() == [0, 1]
    assert combined(probabilities, "Nodule or mass") == pytest.approx([0.6, 0])  # 1 - 0.5 * 0.8
    assert combined(labels, "Abnormal").tolist() == [0, 1]
    assert combined(labels, "Mass").tolist() == [0, 1]
    assert combined(labels, "Airspace opacity").tolist() == [0, 0]
    assert combined(labels, "Fracture") is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 1, 0, 0], [1, 0, 1, 0], 0.0),  # agreed on half, as by chance
        ([1, 1, 1, 0], [1, 1, 0, 0], 0.5),  # agreed 3/4; by chance 3/4 * 1/2 + 1/4 * 1/2 = 1/2
        ([0, 0], [0, 0], NAN),
        ([], [], NAN),
    ],
)
def test_kappa_by_hand(one, other, expected):
    assert kappa(np.array(one), np.array(other)) == pytest.approx(expected, nan_ok=True)


def test_kappa_between_readers_is_over_the_images_that_both_read():
    readings = np.array([[1, 1, NAN], [1, 0, NAN], [1, 1, NAN], [0, 0, NAN]])
    assert kappa_between(readings) == pytest.approx(kappa(readings[:, 0], readings[:, 1]))
    assert np.isnan(kappa_between(readings[:, :1]))


def test_readers_are_judged_by_the_majority_of_the_others():
    readings = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, NAN, NAN]], float)
    points = reader_points(readings, ["a", "b", "c"])
    # Others of a agree in rows 0 to 3: 1 1 0 0; a says 1 0 1 0. Row 4 is a tie, row 5 has no other.
    assert points["a"] == {"sensitivity": 0.5, "specificity": 0.5, "images": 4}


def made(labels, probabilities) -> Predictions:
    count = len(labels)
    return Predictions(
        image_ids=np.array([f"{n}.png" for n in range(count)]),
        patient_ids=np.arange(count),
        labels=labels,
        probabilities=probabilities,
        ages=np.full(count, NAN),
        sexes=np.full(count, ""),
        view_positions=np.full(count, ""),
        groups=np.full(count, ""),
    )


def test_a_model_against_both_labels_by_hand():
    truth = np.r_[np.ones(8, int), np.zeros(8, int)]
    labels, probabilities = np.zeros((16, 14), int), np.zeros((16, 14))
    mass = FINDINGS.index("Mass")
    labels[:4, mass] = labels[8, mass] = 1  # NIH finds half of the eight, and one that the experts do not see
    probabilities[:, mass] = np.linspace(1, 0, 16)
    readings = np.repeat(truth[:, None, None].astype(float), 3, axis=1)
    experts = ExpertLabels("all_findings", ["Mass", "Fracture"], IDS, np.stack([truth, truth], axis=1), ["a", "b", "c"],
                           np.repeat(readings, 2, axis=2))  # fmt: skip
    found = compare_with_experts(made(labels, probabilities), experts)
    assert list(found["findings"]) == ["Mass"]  # NIH has no label of fractures
    values = found["findings"]["Mass"]
    assert (values["nih_sensitivity"], values["nih_ppv"], values["positives_expert"]) == (0.5, 0.8, 8)
    assert values["kappa_nih"] == pytest.approx((11 / 16 - 0.5) / 0.5)  # 4 + 7 agreed; by chance 5/16/2 + 11/16/2
    assert (values["auroc_expert"]["value"], values["kappa_readers"]) == (1.0, 1.0)
    assert values["auroc_nih"]["value"] == pytest.approx((4 * 11 + 7) / 55)  # four at the top, one below four negatives
    assert found["mean_auroc_expert"]["findings"] == found["mean_auroc_nih"]["findings"] == 1


def test_few_expert_positives_are_null():
    truth = np.r_[np.ones(7, int), np.zeros(9, int)][:, None]
    experts = ExpertLabels("all_findings", ["Mass"], IDS, truth, [], np.zeros((16, 0, 1)))
    found = compare_with_experts(made(np.zeros((16, 14), int), np.zeros((16, 14))), experts)
    values = found["findings"]["Mass"]
    assert (values["positives_expert"], values["kappa_nih"], values["auroc_expert"]["value"]) == (7, None, None)
    assert found["mean_auroc_expert"] == {"value": None, "low": None, "high": None, "findings": 0}


PUBLISHED = {  # sensitivity and PPV of NIH's labels, kappa with the experts, mean kappa between the readers
    "Pneumothorax": (0.56, 0.67, 0.54, 0.66),
    "Mass": (0.33, 0.57, 0.36, 0.57),
    "Effusion": (0.38, 0.64, 0.34, 0.57),
    "Atelectasis": (0.22, 0.67, 0.18, 0.33),
    "Consolidation": (0.14, 0.32, 0.15, 0.30),
    "Infiltration": (0.21, 0.12, 0.07, 0.17),
    "Edema": (0.0, 0.0, -0.01, 0.20),
}


@pytest.mark.usefixtures("few_resamples")
def test_what_nih_labels_are_worth_on_the_810_images(shared_dir):
    study = read_expert_labels(epath.Path(shared_dir / "expert"))[0]
    with (shared_dir / "nih-128/Data_Entry_2017_v2020.csv").open(newline="") as file:
        nih = {row["Image Index"]: parse_findings(row["Finding Labels"]) for row in csv.DictReader(file)}
    labels = np.array([nih[image_id] for image_id in study.image_ids])
    experts = ExpertLabels(*study)
    found = compare_with_experts(made(labels, labels.astype(float)), experts)["findings"]
    for name, expected in PUBLISHED.items():
        keys = ("nih_sensitivity", "nih_ppv", "kappa_nih", "kappa_readers")
        assert [round(found[name][key], 2) for key in keys] == list(expected), name
    assert (found["Pneumonia"]["positives_expert"], found["Pneumonia"]["kappa_nih"]) == (2, None)
    healthy = labels.sum(axis=1) == 0
    assert (healthy.sum(), study.labels[healthy, study.findings.index("Abnormal")].sum()) == (348, 169)


def test_only_the_images_of_the_split_are_compared_in_any_order():
    truth = np.r_[np.ones(8, int), np.zeros(8, int)]
    labels, probabilities = np.zeros((16, 14), int), np.zeros((16, 14))
    probabilities[:, FINDINGS.index("Mass")] = np.linspace(1, 0, 16)
    shuffled = made(labels, probabilities).rows(np.random.default_rng(1).permutation(16))
    readings = np.full((18, 2, 1), NAN)
    readings[:16, 0, 0] = truth
    study = ExpertLabels("all_findings", ["Mass"], np.r_[["x.png"], IDS, ["y.png"]], np.r_[1, truth, 0][:, None],
                         ["a", "b"], np.roll(readings, 1, axis=0))  # fmt: skip
    elsewhere = study._replace(study="four_findings", image_ids=np.array([f"z{n}.png" for n in range(18)]))
    found = experts.of_images([study, elsewhere], shuffled.image_ids, whose="test of records", folder="expert")
    assert [(one.study, len(one.image_ids)) for one in found] == [("all_findings", 16)]
    report = experts.compare_with_studies(shuffled, found)
    assert list(report) == ["all_findings"]
    values = report["all_findings"]
    assert (values["images"], values["findings"]["Mass"]["positives_expert"]) == (16, 8)
    assert values["findings"]["Mass"]["readers"] == {}  # no image has two readers
    assert values["mean_auroc_expert"]["value"] is None  # NIH's labels have one class: neither mean has it
    assert values["findings"]["Mass"]["roc_expert"] == [1.0] * 101
    assert values["findings"]["Mass"]["nih_specificity"] == 1.0


def test_no_image_of_the_split_has_expert_labels():
    study = ExpertLabels("all_findings", ["Mass"], IDS, np.zeros((16, 1), int), [], np.zeros((16, 0, 1)))
    text = (
        r"^none of the 1 images in val of records is among the 16 with radiologists' labels in expert; "
        r"expected images of the NIH release, such as 0\.png, in this --split$"
    )
    with pytest.raises(ValueError, match=text):
        experts.of_images([study], np.array(["other.png"]), whose="val of records", folder="expert")


def test_the_roc_curve_by_hand():
    # From the highest score: positive, negative, positive, negative. Sensitivity 0.5 up to a rate of 0.5, then 1.
    found = experts._roc(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6]))
    assert (found[0], found[25], found[49], found[51], found[100]) == (0.5, 0.5, 0.5, 1.0, 1.0)
    assert experts._roc(np.array([1, 1]), np.array([0.9, 0.8])) is None


def test_the_table_of_a_study():
    truth = np.r_[np.ones(8, int), np.zeros(8, int)]
    labels, probabilities = np.zeros((16, 14), int), np.zeros((16, 14))
    mass = FINDINGS.index("Mass")
    labels[:4, mass] = 1
    probabilities[:, mass] = np.linspace(1, 0, 16)
    findings = np.stack([truth, np.zeros(16, int)], axis=1)
    study = ExpertLabels("all_findings", ["Mass", "Nodule"], IDS, findings, ["a"], findings[:, None].astype(float))
    one_patient = made(labels, probabilities)._replace(patient_ids=np.full(16, 3))
    seen = {"networks": {"chexnet": ["nih_test"]}, "scored": {"chexnet": ["nih_test"]}}
    no_leak = {"patients": 0, "unknown": []}
    result = {"split": "test", "leak": no_leak, "seen": seen}
    lines = experts_table(experts.compare_with_studies(one_patient, [study]), result).splitlines()
    assert lines[0] == "all_findings: 16 images of 1 patients"
    assert [line.split() for line in lines[2:5]] == [
        ["Mass", "4", "8", "1.000", "1.000", "0.50", "1.00", "0.50"],  # kappa: 12 of 16 agree, 8 by chance
        ["Nodule", "0", "0"],
        ["mean", "of", "1", "1.000", "1.000"],
    ]
    assert lines[-3:] == [
        "these are test images: do not choose a model by them",
        "image sets that the pretrained networks have seen: chexnet: nih_test",
        "SEEN: chexnet was pretrained on nih_test; the scores may be too good",
    ]
    [line] = experts_table({}, {"split": "val", "leak": no_leak, "seen": None}).splitlines()
    assert line.startswith("sens., PPV, kappa: of NIH's labels")
