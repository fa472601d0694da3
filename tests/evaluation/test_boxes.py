import numpy as np
import pytest

from cxr.evaluation import boxes
from cxr.evaluation.boxes import Placement
from cxr.images.resize import resize_square


def test_a_square_image_in_the_models_frame():
    placement = Placement(1024, 1024, 224)
    nih = np.array([[0, 0, 1024, 1024], [256, 512, 512, 768.0]])
    assert placement.from_nih(nih).tolist() == nih.tolist()
    model = placement.to_model(nih)
    assert model.tolist() == [[0, 0, 224, 224], [56, 112, 112, 168]]  # 224 / 1024 is 7 / 32


def test_a_landscape_image_is_between_black_bars():
    placement = Placement(1000, 500, 100)  # shown as 100 x 50, with 25 pixels of black above and below
    assert (placement.inner, placement.corner) == ((100, 50), (0, 25))
    box = np.array([[100, 100, 300, 500.0]])
    assert placement.to_model(box).tolist() == [[10, 35, 30, 75]]


def test_a_portrait_image_with_an_odd_margin():
    placement = Placement(300, 400, 100)  # shown as 75 x 100: 12 pixels of black on the left, 13 on the right
    assert (placement.inner, placement.corner) == ((75, 100), (12, 0))
    assert placement.to_model(np.array([[0, 0, 300, 400.0]])).tolist() == [[12, 0, 87, 100]]


def test_boxes_of_the_release_follow_a_smaller_copy():
    square, landscape = Placement(256, 256, 96), Placement(512, 256, 96)
    assert square.from_nih(np.array([[4, 8, 12, 1024.0]])).tolist() == [[1, 2, 3, 256]]
    assert landscape.from_nih(np.array([[0, 0, 1024, 512.0]])).tolist() == [[0, 0, 512, 256]]  # by the longer side
    assert landscape.to_nih(np.array([[0, 0, 512, 256.0]])).tolist() == [[0, 0, 1024, 512]]


@pytest.mark.parametrize(
    ("width", "height"), [(1024, 1024), (1000, 500), (300, 400), (97, 61), (333, 1000), (40, 2000)]
)
@pytest.mark.parametrize("size", [96, 128, 224])
def test_the_frame_is_where_resize_square_puts_the_image(width, height, size):
    seen = resize_square(np.full((height, width), 255, np.uint8), size) > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    whole = Placement(width, height, size).to_model(np.array([[0, 0, width, height]]))
    assert whole[0] == pytest.approx([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], abs=1e-9)


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (1200, 800), (500, 1000)])
def test_a_bright_box_is_where_its_box_says_after_resizing(width, height):
    pixels = np.zeros((height, width), np.uint8)
    pixels[200:400, 100:300] = 255
    rows, columns = np.nonzero(resize_square(pixels, 128) > 127)
    box = Placement(width, height, 128).to_model(np.array([[100, 200, 300, 400.0]]))[0]
    assert box == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=0.51)


def test_a_map_over_the_image_is_bilinear_between_the_centres_of_its_cells():
    heat = Placement(4, 4, 4).heat_on_image(np.array([[0.0, 4.0]]))
    assert heat.tolist() == [[0, 1, 3, 4]] * 4  # centres of the cells at 1 and 3, of the pixels at 0.5, 1.5, 2.5, 3.5


def test_a_map_over_an_image_that_is_not_square_leaves_the_black_bars_out():
    rows = np.repeat(np.arange(4.0)[:, None], 4, axis=1)  # cell rows 0 and 3 are bars
    heat = Placement(400, 200, 4).heat_on_image(rows, longer_side=4)
    assert heat.tolist() == [[1] * 4, [2] * 4]
    assert Placement(400, 200, 4).heat_on_image(rows).shape == (200, 400)


def test_a_map_of_only_the_centre_has_its_minimum_outside():
    heat = Placement(8, 8, 8).heat_on_image(np.array([[5.0, 9.0]]), covers=4)  # pixels 2 to 5
    assert heat[2:6].tolist() == [[5, 5, 5, 6, 8, 9, 5, 5]] * 4
    assert (heat[[0, 1, 6, 7]] == 5).all()


A = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("detected", "annotated", "iou", "iobb"),
    [
        (A, A, 1, 1),
        (A, [5, 0, 15, 10], 50 / 150, 0.5),
        ([0, 0, 5, 5], A, 0.25, 1),  # a small box inside counts in full
        (A, [0, 0, 5, 5], 0.25, 0.25),  # a large one around it counts little
        (A, [10, 0, 20, 10], 0, 0),  # touching is not overlapping
        (A, [20, 20, 30, 30], 0, 0),
        ([5, 5, 5, 5], A, 0, 0),  # empty
    ],
)
def test_overlap_of_two_boxes(detected, annotated, iou, iobb):
    detected, annotated = np.array([detected], float), np.array([annotated], float)
    assert boxes.iou(detected, annotated).tolist() == [[pytest.approx(iou)]]
    assert boxes.iobb(detected, annotated).tolist() == [[pytest.approx(iobb)]]


def test_overlap_of_two_empty_boxes_is_0_and_of_no_boxes_is_empty():
    assert boxes.iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0]]
    assert boxes.iobb(np.zeros((0, 4)), np.zeros((2, 4))).shape == (0, 2)


def test_a_box_around_every_region_at_both_cuts():
    heat = np.zeros((10, 10))
    heat[1:4, 1:5] = 100  # above 60 only
    heat[2, 2] = 255  # above 180 too
    heat[7:9, 7:9] = 61
    heat[0, 9] = 60  # not above 60
    assert boxes.detect(heat).tolist() == [[1, 1, 5, 4], [7, 7, 9, 9], [2, 2, 3, 3]]


def test_the_map_is_scaled_to_its_own_range_before_the_cuts():
    heat = np.array([[-2.0, -2.0, -1.4, -1.0]])  # becomes 0, 0, 153, 255
    assert boxes.detect(heat).tolist() == [[2, 0, 4, 1], [3, 0, 4, 1]]
    assert boxes.detect(heat * 1e-9).tolist() == [[2, 0, 4, 1], [3, 0, 4, 1]]


def test_regions_that_touch_at_a_corner_are_one_and_equal_boxes_count_once():
    assert boxes.detect(np.eye(2)).tolist() == [[0, 0, 2, 2]]


def test_a_flat_map_has_no_box():
    assert boxes.detect(np.full((4, 4), 7.0)).shape == (0, 4)


def test_a_map_that_is_not_finite_is_rejected():
    with pytest.raises(ValueError, match="the heat map has NaN or infinite values"):
        boxes.detect(np.array([[0.0, np.nan]]))
