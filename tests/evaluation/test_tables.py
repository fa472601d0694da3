import pytest

from cxr.evaluation import literature, tables
from cxr.findings import FINDINGS

WANG = literature.WANG_2017
ORIGIN = {
    "csv": "Data_Entry_2017_v2020.csv",
    "csv_sha256": "0" * 64,
    "split_name": "official",
    "fingerprint": "ab" * 32,
}
NO_LEAK = {"patients": 0, "images": 0, "where": [], "unknown": []}


def result(*, split: str = "test", split_name: str = "official", images: int = 25_596, **changes) -> dict:
    """A hand-made metrics file: Mass as given, Hernia undefined, all others 0.7."""
    one = {"auroc": 0.7, "low": 0.6, "high": 0.8, "average_precision": 0.5, "positives": 9}
    findings = {finding: dict(one) for finding in FINDINGS}
    findings["Mass"] = {"auroc": 0.75, "low": 0.6, "high": 0.9, "average_precision": 0.3333, "positives": 1234}
    findings["Hernia"] = dict.fromkeys(one) | {"positives": 0}
    floors = {
        "metadata": {"images": 9, "mean_auroc": {"value": 0.605, "low": 0.59, "high": 0.62, "findings": 13}},
        "shuffled_labels": {"mean_auroc": {"value": 0.5, "low": 0.48, "high": 0.52, "findings": 13}},
    }
    inside = {name: {"auroc": 0.65, "excess": excess(0.7)} for name in FINDINGS}
    inside["Hernia"] = {"auroc": None, "excess": dict.fromkeys(excess(0))}
    mean = {"value": 0.65, "low": 0.6, "high": 0.68, "findings": 13, "excess": excess(0.704)}
    cross = {"mean_auroc": {"value": 0.9, "low": None, "high": None, "findings": 2}}
    return {
        "within": {"view_position": {"mean_auroc": mean, "findings": inside}},
        "cross": {"AP positives, PA negatives": cross, "PA positives, AP negatives": {"mean_auroc": {"value": None}}},
        **{"split": split, "split_name": split_name, "images": images, "patients": 2797, "loss": 0.125},
        "mean_auroc": {"value": 0.704, "low": 0.61, "high": 0.8, "findings": 13},
        **{"findings": findings, "floors": floors, "leak": NO_LEAK},
        **{"trained_on": ORIGIN, "evaluated_on": ORIGIN | {"split_name": split_name}},
    } | changes


def excess(pooled: float) -> dict:
    """An excess over 0.65 that chance explains."""
    return {"pooled": pooled, "difference": pooled - 0.65, "low": -0.01, "high": 0.1}


def lines_of(result: dict, **options) -> list[str]:
    return tables.results_table(result, **options).splitlines()


def test_the_table_stands_beside_wang():
    lines = lines_of(result())
    heads = ["finding", "positives", "pooled", "AUROC", "95", "%", "interval", "within", "view", "position", "AP"]
    heads += ["Wang", "et", "al.", "diff."]
    assert lines[0].split() == heads
    assert [line.split()[0] for line in lines[1:15]] == list(FINDINGS)
    assert lines[5].split() == ["Mass", "1,234", "0.750", "[0.600,", "0.900]", "0.650", "0.333", "0.693", "+0.057"]
    # Wang et al. without Hernia: (14 x 0.7451 - 0.8717) / 13
    assert lines[15].split() == ["mean", "of", "13", "0.704", "[0.610,", "0.800]", "0.650", "0.735", "-0.031"]


def test_an_undefined_finding_says_so():
    assert lines_of(result())[14].split() == ["Hernia", "0", "undefined", "0.872"]


def test_the_published_numbers_stand_in_one_column():
    published = [f"{value:.3f}" for value in [*WANG.aurocs.values(), 0.735]]
    assert len({line.rindex(value) for line, value in zip(lines_of(result())[1:16], published, strict=True)}) == 1


def test_the_floors_stand_under_the_mean():
    lines = lines_of(result())
    assert lines[16].split("  ")[0] == "age, sex, view position only"
    assert lines[16].split()[-5:] == ["of", "13", "0.605", "[0.590,", "0.620]"]
    assert lines[17].split() == ["labels", "shuffled", "of", "13", "0.500", "[0.480,", "0.520]"]


def test_without_a_train_split_there_is_no_floor_of_metadata():
    floors = {**result()["floors"], "metadata": None}
    assert lines_of(result(floors=floors))[16].startswith("labels shuffled")


def test_the_other_means_of_the_same_split_are_listed():
    lines = lines_of(result())
    assert lines[19].split() == ["also", "published", "split", "pixels", "mean", "diff."]
    # (14 x 0.807 - 0.896) / 13 from the unrounded row: 0.7998
    assert " ".join(lines[21].split()) == "Guendel et al. 2018 (DenseNet-121) official 1024 0.800 -0.096"
    assert not any("random" in line for line in lines)


def test_all_splits_adds_the_rows_of_other_splits_and_marks_them():
    lines = lines_of(result(), all_splits=True)
    chexnet = next(line for line in lines if line.startswith("CheXNet"))
    assert "random, NOT COMPARABLE" in chexnet
    assert sum("official" in line and "NOT COMPARABLE" in line for line in lines) == 0


def test_a_random_split_stands_beside_random_splits():
    lines = lines_of(result(split_name="random"))
    assert lines[1].split()[-2:] == ["0.716", "-0.016"]  # Wang et al. as quoted by CheXNet
    assert [line.split()[0] for line in lines[20:22]] == ["Yao", "CheXNet"]
    assert not any("official" in line for line in lines[:-2])
    assert lines[-1].startswith("NOT COMPARABLE: Wang et al. 2017 (as quoted by CheXNet): it is on another random")


def test_a_split_without_published_rows_has_no_column_of_wang():
    lines = lines_of(result(split_name="csv"))
    assert lines[0].split()[-1] == "AP"
    assert lines[-1] == "no published row has a split 'csv'; --literature all prints those of other splits"
    lines = lines_of(result(split_name="csv"), all_splits=True)
    assert lines[5].split()[-2:] == ["0.693", "+0.057"]
    assert lines[-1].startswith(
        "NOT COMPARABLE: Wang et al. 2017 (arXiv:1705.02315v5, ResNet-50): it is on the official"
    )


@pytest.mark.parametrize(
    ("split", "images", "comparable"), [("test", 25_596, True), ("test", 25_595, False), ("val", 25_596, False)]
)
def test_only_the_whole_official_test_split_is_comparable(split, images, comparable):
    assert lines_of(result(split=split, images=images))[-1].startswith("NOT COMPARABLE: Wang") != comparable


def test_the_notes_name_the_dataset():
    assert lines_of(result())[-4:] == [
        "test, official split: 25,596 images of 2,797 patients, loss 0.1250",
        "evaluated on Data_Entry_2017_v2020.csv, fingerprint abababababab",
        "within one view position: mean AUROC of 13 0.650 [0.600, 0.680]",
        "AP positives against PA negatives: mean AUROC of 2 0.900",
    ]


def test_an_external_validation_names_both_datasets():
    lines = lines_of(result(trained_on=ORIGIN | {"csv": "other.csv", "fingerprint": "cd" * 32}))
    assert lines[-4:-2] == [
        "evaluated on Data_Entry_2017_v2020.csv, fingerprint abababababab",
        "EXTERNAL: trained on other.csv, split official, fingerprint cdcdcdcdcdcd",
    ]


def test_a_leak_is_marked():
    leak = {"patients": 2, "images": 1500, "where": ["experiments/a", "experiments/b"], "unknown": ["experiments/c"]}
    assert lines_of(result(leak=leak))[-2:] == [
        "LEAK: 2 of these patients (1,500 images) were in training or validation of experiments/a and experiments/b; "
        "the scores are too good",
        "LEAK UNKNOWN: experiments/c has no patients.json to compare with",
    ]


def test_one_class_or_one_patient_is_noted():
    nothing = {"value": None, "low": None, "high": None, "findings": 0}
    findings = {name: dict.fromkeys(values) | {"positives": 0} for name, values in result()["findings"].items()}
    lines = lines_of(result(mean_auroc=nothing, findings=findings))
    assert lines[15].split() == ["mean", "of", "0", "undefined", "0.650", "0.745"]
    assert lines[-1] == "no finding has both classes among these images, so no AUROC is defined"
    alone = lines_of(result(patients=1, mean_auroc={"value": 0.704, "low": None, "high": None, "findings": 13}))
    assert alone[15].split() == ["mean", "of", "13", "0.704", "0.650", "0.735", "-0.031"]
    assert alone[-1] == "only one patient, so no intervals: they are over patients"


def test_an_empty_split_has_no_table():
    assert lines_of(result(images=0, loss=None)) == ["the test split is empty: nothing to score"]


def test_the_comparison_is_a_table():
    comparison = {
        "model_dir": "experiments/other",
        "leak": {"patients": 2, "images": 5, "where": ["experiments/other"], "unknown": []},
        "mean_auroc": {"difference": 0.0123, "low": -0.001, "high": 0.02, "p": 0.0719, "findings": 13},
        "findings": {
            "Mass": {"difference": -0.04, "low": -0.06, "high": -0.02, "p": 0.002},
            "Hernia": dict.fromkeys(("difference", "low", "high", "p")),
        },
    }
    inside = {"mean_auroc": comparison["mean_auroc"] | {"findings": 1}, "findings": dict(comparison["findings"])}
    inside["findings"]["Mass"] = {"difference": 0.01, "low": -0.02, "high": 0.04, "p": 0.5}
    comparison["within"] = {"view_position": {}, "group": inside}
    lines = tables.comparison_table(comparison).splitlines()
    assert lines[0] == ("AUROC minus that of experiments/other on the same images (paired bootstrap over patients)")
    assert [line.split() for line in lines[1:-1]] == [
        ["finding", "difference", "95", "%", "interval", "p", "within", "group", "95", "%", "interval", "p"],
        ["Mass", "-0.040", "[-0.060,", "-0.020]", "0.002", "+0.010", "[-0.020,", "+0.040]", "0.500"],
        ["Hernia", "undefined", "undefined"],
        ["mean", "of", "13", *["+0.012", "[-0.001,", "+0.020]", "0.072"] * 2],
    ]
    assert lines[-1] == (
        "LEAK: 2 of these patients (5 images) were in training or validation of experiments/other; "
        "the scores of experiments/other are too good"
    )


def test_unknown_view_positions_have_no_column_within():
    nothing = {"view_position": {"mean_auroc": {"value": None}, "findings": {f: {"auroc": None} for f in FINDINGS}}}
    for report in nothing.values():
        report["mean_auroc"]["excess"] = dict.fromkeys(excess(0))
        for values in report["findings"].values():
            values["excess"] = dict.fromkeys(excess(0))
    lines = lines_of(result(within=nothing))
    assert "within" not in "".join(lines)
    assert lines[5].split() == ["Mass", "1,234", "0.750", "[0.600,", "0.900]", "0.333", "0.693", "+0.057"]
