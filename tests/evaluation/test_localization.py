import io

import numpy as np
import pytest
from PIL import Image

from cxr.evaluation import literature, metrics, overlays, tables
from cxr.evaluation import localization as loc
from cxr.evaluation.boxes import Placement
from cxr.evaluation.localization import BoxScore, Detections, ScoredFinding
from cxr.findings import FINDINGS

HALF = loc.THRESHOLDS.index(0.5)
ANNOTATED = np.array([[100, 100, 300, 300], [600, 600, 700, 700.0]])


def detections(*boxes_nih: list[float], peak=None) -> Detections:
    return Detections(np.array(boxes_nih, float).reshape(-1, 4), peak)


def scored(image_id: str, patient_id: int, finding: str, score: BoxScore) -> ScoredFinding:
    return ScoredFinding(image_id, patient_id, finding, dict.fromkeys(loc.SOURCES, score))


def one_box(hit: bool, *, false_positives: float = 0, pointing: float = 0) -> BoxScore:
    return BoxScore(
        1, np.full((2, len(loc.THRESHOLDS)), hit), np.full((2, len(loc.THRESHOLDS)), false_positives), pointing
    )


def test_a_box_is_hit_by_any_detected_box_and_what_hits_none_is_a_false_positive():
    inside, beside, away = [100, 100, 200, 200], [250, 100, 350, 300], [800, 0, 900, 100]
    score = loc.score_boxes(ANNOTATED, [detections(inside, beside, away, peak=(150, 299.9))])
    iobb, iou = (
        dict(zip(loc.THRESHOLDS, zip(hits, false_positives, strict=True), strict=True))
        for hits, false_positives in zip(score.hits.tolist(), score.false_positives.tolist(), strict=True)
    )
    assert iobb[0.4] == (1, 1)  # inside overlaps by 1, beside by half of its own area
    assert iobb[0.5] == (1, 2)  # half is not more than 0.5
    assert (iou[0.2], iou[0.25]) == ((1, 2), (0, 3))  # inside is a quarter of the box, beside 10,000 / 50,000
    assert (score.num_boxes, score.pointing) == (2, 1)


@pytest.mark.parametrize(
    ("peak", "expected"),
    [((100, 100), 1), ((650, 650), 1), ((300, 200), 0), ((200, 650), 0), (None, 0)],
    ids=["its corner", "the second box", "its far edge", "x of one, y of the other", "a flat map"],
)
def test_pointing_game(peak, expected):
    assert loc.score_boxes(ANNOTATED, [detections(peak=peak)]).pointing == expected


def test_a_score_is_the_mean_over_the_maps_of_a_control():
    hit = detections([100, 100, 300, 300], peak=(200, 200))
    miss = detections([0, 0, 50, 50], peak=(1, 1))
    score = loc.score_boxes(ANNOTATED, [hit, miss, miss, miss])
    assert (score.hits[0, HALF], score.false_positives[0, HALF], score.pointing) == (0.25, 0.75, 0.25)


def test_detections_are_in_the_frame_of_the_release():
    heat = np.zeros((128, 256))
    heat[10:20, 40:80] = 1
    heat[10, 40] = 2  # 255, the rest of the box 127
    found = loc.detections_of(heat, Placement(512, 256, 96))
    assert found.boxes_nih.tolist() == [[160, 40, 320, 80], [160, 40, 164, 44]]  # a pixel of the map is 4 of 1,024
    assert found.peak_nih == (162, 42)
    assert loc.detections_of(np.zeros((128, 256)), Placement(512, 256, 96)).peak_nih is None


def test_accuracy_is_over_boxes_false_positives_over_images():
    two = BoxScore(2, np.ones((2, 11)), np.zeros((2, 11)), 1.0)  # one of two boxes hit
    table = [scored("a", 1, "Mass", two), scored("b", 2, "Mass", one_box(False, false_positives=3))]
    result = loc.summarize([*table, scored("b", 2, "Nodule", one_box(True))])
    assert list(result) == ["Mass", "Nodule", "all"]
    mass, whole = result["Mass"], result["all"]
    assert [mass[key] for key in ("boxes", "images", "patients")] == [3, 2, 2]
    assert [whole[key] for key in ("boxes", "images", "patients")] == [4, 2, 2]
    at = mass["heat_map"]["iobb"]["0.5"]
    assert (at["accuracy"], at["false_positives"]) == (pytest.approx(1 / 3), 1.5)
    assert mass["random"]["pointing"]["value"] == 0.5
    assert whole["heat_map"]["iou"]["0.9"]["accuracy"] == 0.5
    assert whole["published"] is None


def interval_of(table: list[ScoredFinding], key: str = "") -> tuple[float, float]:
    at = loc.summarize(table)["Mass"]["heat_map"]["iobb"]["0.5"]
    return at[f"{key}low"], at[f"{key}high"]


def test_the_shares_of_drawn_patients_by_hand():
    two = BoxScore(2, np.full((2, 11), 2), np.full((2, 11), 3), 1.0)  # patient 0: one image, both boxes hit
    scores = [two, one_box(False), one_box(False, false_positives=1)]
    patient = np.array([0, 1, 1])
    draws = np.array([[1, 1], [2, 0], [0, 2.0]])  # each once, patient 0 twice, patient 1 twice
    found = loc.shares(scores, patient, draws)
    assert found["accuracy"].shape == found["false_positives"].shape == (3, 2, 11)
    assert found["accuracy"][:, 0, HALF].tolist() == [2 / 4, 1, 0]
    assert found["false_positives"][:, 1, HALF].tolist() == [4 / 3, 3, 1 / 2]
    assert found["pointing"].tolist() == [1 / 3, 1, 0]


def test_resamples_of_two_patients():
    """Two draws from two patients: a quarter is twice the first, a quarter twice the second."""
    table = [scored("a", 1, "Mass", one_box(True, pointing=1)), scored("b", 2, "Mass", one_box(False))]
    patient, draws = metrics.draw_patients(np.array([1, 2]))
    accuracies = loc.shares([item.scores["heat_map"] for item in table], patient, np.array(draws))["accuracy"][
        :, 0, HALF
    ]
    values, counts = np.unique(accuracies, return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    assert counts / metrics.RESAMPLES == pytest.approx([0.25, 0.5, 0.25], abs=0.05)  # 3.6 standard deviations
    assert interval_of(table) == (0, 1)
    assert loc.summarize(table)["Mass"]["heat_map"]["pointing"] == {"value": 0.5, "low": 0, "high": 1}


def test_the_width_of_an_interval_depends_on_the_patients_and_not_the_boxes():
    def table(patients: int, images_each: int) -> list[ScoredFinding]:
        """Every second patient has all boxes hit and two false positives in each image."""
        return [
            scored(f"{patient}_{image}", patient, "Mass", one_box(patient % 2, false_positives=2 * (patient % 2)))
            for patient in range(patients)
            for image in range(images_each)
        ]

    few = table(40, 1)
    more_images = table(40, 10)
    more_patients = table(400, 1)
    assert interval_of(few) == interval_of(more_images)
    # The standard deviation of a share of n is sqrt(0.25 / n), its interval 1.96 of them to either side.
    assert interval_of(few) == pytest.approx((0.345, 0.655), abs=0.03)
    assert interval_of(more_patients) == pytest.approx((0.451, 0.549), abs=0.01)
    assert interval_of(more_patients, "false_positives_") == pytest.approx((0.902, 1.098), abs=0.02)


def test_one_patient_has_no_interval():
    found = loc.summarize([scored(str(image), 7, "Mass", one_box(True)) for image in range(50)])["Mass"]["heat_map"]
    assert found["iou"]["0.9"] == {
        **{"accuracy": 1, "low": None, "high": None},
        **{"false_positives": 0, "false_positives_low": None, "false_positives_high": None},
    }
    assert found["pointing"] == {"value": 0, "low": None, "high": None}


def test_controls_depend_on_the_name_and_nothing_else():
    heat = np.random.default_rng(0).random((64, 64))
    first, again, other = (
        loc.score_with_controls(heat, Placement(64, 64, 32), ANNOTATED, name=name) for name in ("a", "a", "b")
    )
    for control in loc.CONTROL_NAMES:
        assert np.array_equal(first[control].false_positives, again[control].false_positives)
    assert any(not np.array_equal(first[c].false_positives, other[c].false_positives) for c in loc.CONTROL_NAMES)


def test_a_correct_map_beats_both_controls():
    rows, columns = np.mgrid[:256, :256]
    scores = {source: [] for source in loc.SOURCES}
    for number in range(20):
        y = 60 + 6 * number
        x = 200 - 7 * number
        heat = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 20**2)
        annotated = np.array([[x - 25, y - 25, x + 25, y + 25]]) * 4.0
        for source, score in loc.score_with_controls(
            heat, Placement(1024, 1024, 224), annotated, name=str(number)
        ).items():
            scores[source].append(score.hits[0, HALF])
    assert np.mean(scores["heat_map"]) == 1
    assert np.mean(scores["random"]) < 0.2
    assert np.mean(scores["shifted"]) < 0.2


def test_random_maps_are_smooth_and_give_several_boxes():
    rng = np.random.default_rng(0)
    maps = [loc.random_map((256, 192), rng) for _ in range(20)]
    assert maps[0].shape == (256, 192)
    assert np.abs(np.diff(maps[0], axis=0)).max() < 0.1 * np.ptp(maps[0])
    assert 2 <= np.mean([len(loc.detections_of(heat, Placement(192, 256, 96)).boxes_nih) for heat in maps]) <= 8


def test_published_rows_are_those_of_the_paper():
    rows = {name: literature.published_localization(name) for name in FINDINGS}
    assert rows["Atelectasis"]["iobb"]["0.1"] == {"accuracy": 0.7277, "false_positives": 0.8323}
    assert rows["Pneumothorax"]["iobb"]["0.9"] == {"accuracy": 0.0816, "false_positives": 0.5437}
    assert rows["Infiltration"]["iobb"]["0.5"] == {"accuracy": 0.4227, "false_positives": 0.6585}
    assert rows["Hernia"] is None
    accuracies = np.array([row[0].split() for row in literature.LOCALIZATION.values()], float)
    assert (np.diff(accuracies, axis=0) <= 0).all()  # a stricter T hits no more boxes
    false_positives = np.array([row[1].split() for row in literature.LOCALIZATION.values()], float)
    assert (np.diff(false_positives, axis=0) >= 0).all()


@pytest.fixture
def result() -> dict:
    return {
        "method": "cam",
        "data_dir": "data/nih",
        "boxed_images": 3,
        "absent": 1,
        "broken": {},
        "leak": {"patients": 0, "images": 0, "where": [], "unknown": []},
        "findings": loc.summarize([scored("a", 1, "Mass", one_box(True, false_positives=2, pointing=1))]),
        "published_source": literature.LOCALIZATION_SOURCE,
    }


def test_the_table_has_controls_and_the_published_row_under_each_finding(result):
    lines = [line.split() for line in tables.localization_table(result).splitlines()]
    assert lines[1][:3] == ["Mass", "1", "cam"]
    assert " ".join(lines[1][3:]) == ("1.00 / 2.00 1.00 / 2.00 1.00 / 2.00 1.00 / 2.00 1.00 / 2.00 1.00 / 2.00 1.00")
    assert [line[:2] for line in lines[2:5]] == [["random", "maps"], ["shifted", "maps"], ["Wang", "et"]]
    assert lines[4][3:6] == ["0.44", "/", "0.64"]
    assert lines[5][:2] == ["all", "1"]


def test_the_table_has_intervals_of_the_heat_map_where_there_are_two_patients():
    table = [scored("a", 1, "Mass", one_box(True, false_positives=2, pointing=1))]
    values = loc.summarize([*table, scored("b", 2, "Mass", one_box(False))])["Mass"]["heat_map"]
    found = tables.localization_cells(values, intervals=True)
    assert found[2] == "0.50 [0.00, 1.00] / 1.00 [0.00, 2.00]"
    assert found[0] == "0.50 / 1.00"
    assert found[-1] == "0.50 [0.00, 1.00]"
    assert tables.localization_cells(values, intervals=False)[2:] == ["0.50 / 1.00"] * 4 + ["0.50"]


def test_the_notes_under_the_table(result):
    assert tables.localization_notes(result)[1:] == [
        "1 boxes in 1 images of 1 patients; 1 of the 3 images with boxes are not in data/nih",
        "NOT COMPARABLE: Wang et al. 2017 (CVPR, Table 4; all 984 boxes of the official test set)",
    ]
    result["broken"] = {f"{image}.png": "cut off" for image in "abcd"}
    result["leak"] = {"patients": 2, "images": 3, "where": ["x", "y"], "unknown": ["z"]}
    result["findings"]["all"]["boxes"] = 984
    assert tables.localization_notes(result)[2:] == [
        "4 images are unreadable, such as a.png (cut off), b.png (cut off), c.png (cut off)",
        "LEAK: 2 of these patients (3 images) were in training or validation of x and y; the results are too good",
        "LEAK UNKNOWN: z has no patients.json to compare with",
    ]


def test_an_overlay_shows_the_image_the_heat_map_and_both_kinds_of_boxes():
    heat = np.zeros((128, 256))
    heat[60:70, 120:136] = 1
    picture = overlays.overlay(
        np.full((300, 600), 100, np.uint8),
        heat,
        annotated_nih=np.array([[200, 100, 400, 300.0]]),
        detected_nih=np.array([[600, 100, 900, 400.0]]),
        caption=["one", "two"],
    )
    pixels = np.asarray(Image.open(io.BytesIO(picture)))
    assert pixels.shape == (256 + 3 * 22 + 8, 2 * 512 + 8, 3)
    left, right = pixels[:256, :512], pixels[:256, 520:]
    assert left[20, 20].tolist() == right[20, 20].tolist() == [100, 100, 100]
    for panel in (left, right):
        assert panel[50, 150].tolist() == panel[149, 150].tolist() == [255, 255, 255]  # edges at 100 / 2 and 300 / 2
        assert (panel[50:200, 300] == overlays.ORANGE).all(axis=1).any()
        assert not (panel[50:200, 300] == overlays.ORANGE).all()  # dashed
    red, green, blue = right[130, 256].tolist()
    assert min(red, green) > blue + 50  # yellow where it is hot
    assert left[130, 256].tolist() == [100, 100, 100]


def test_a_flat_heat_map_does_not_change_the_image():
    grey = np.full((8, 8, 3), 50, np.uint8)
    assert np.array_equal(overlays.warmed(grey, np.full((4, 4), 3.0)), grey)
