import numpy as np
import pytest

from cxr.networks.geometry import affine, crop_start, move_boxes, warp


def matrix(angle: float = 0.0, zoom: float = 1.0, shift: tuple = (0, 0), *, size: int = 9, flipped: bool = False):
    values = (np.array([value]) for value in (np.deg2rad(angle), zoom, shift))
    return affine(*values, size=size, flipped=np.array([flipped]))


def dot(x: int, y: int, size: int = 9) -> np.ndarray:
    """A white pixel on black."""
    image = np.zeros((1, size, size, 1), np.uint8)
    image[0, y, x] = 255
    return image


@pytest.mark.parametrize(
    ("change", "start", "end"),
    [
        ({}, (6, 4), (6, 4)),
        ({"shift": (2, 0)}, (4, 4), (6, 4)),  # to the right
        ({"shift": (0, 2)}, (4, 4), (4, 6)),  # down
        ({"angle": 90}, (6, 4), (4, 2)),  # counter-clockwise: from the right to the top
        ({"angle": 180}, (6, 5), (2, 3)),
        ({"zoom": 2.0}, (5, 4), (6, 4)),  # twice as far from the centre
        ({"flipped": True}, (6, 5), (2, 5)),  # left and right change places
        ({"flipped": True, "shift": (1, 0)}, (6, 5), (3, 5)),  # mirrored, then moved
        ({"angle": 90, "shift": (1, 0)}, (6, 4), (5, 2)),  # turned, then moved
    ],
)
def test_a_pixel_goes_where_it_should_and_its_box_with_it(change, start, end):
    warped = warp(dot(*start), matrix(**change))
    y, x = np.unravel_index(warped[0, :, :, 0].argmax(), (9, 9))
    assert (x, y) == end
    box = np.array([[start[0], start[1], start[0] + 1, start[1] + 1]])  # the pixel itself
    [moved] = move_boxes(box, matrix(**change)[0], size=9)
    size = change.get("zoom", 1.0)
    assert ((moved[0] + moved[2]) / 2 - 0.5, (moved[1] + moved[3]) / 2 - 0.5) == pytest.approx(end)
    assert moved[2:] - moved[:2] == pytest.approx([size, size])


def test_no_change_leaves_every_pixel():
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 1), np.uint8)
    np.testing.assert_array_equal(warp(images, np.repeat(matrix(), 3, axis=0)), images)


def test_beyond_the_edge_an_image_goes_on_as_it_ends():
    image = np.full((1, 9, 9, 1), 77, np.uint8)
    assert set(warp(image, matrix(angle=30, shift=(3, 2))).ravel()) == {77}


def test_a_turned_box_is_the_smallest_upright_one_round_it_and_ends_with_the_image():
    boxes = np.array([[3.5, 3.5, 5.5, 5.5], [0, 0, 2, 2]])  # 2 pixels a side about the centre; the top left corner
    turned = move_boxes(boxes, matrix(angle=45)[0], size=9)
    half = 2**0.5  # half a diagonal
    assert turned[0] == pytest.approx([4.5 - half, 4.5 - half, 4.5 + half, 4.5 + half])
    assert turned[1] == pytest.approx([0, 4.5 - half, 4.5 - 2.5 * half, 4.5 + half])
    assert move_boxes(boxes, matrix(shift=(-3, 0))[0], size=9)[1] == pytest.approx([0, 0, 0, 2])  # out of sight


@pytest.mark.parametrize(("size", "crop_size", "start"), [(256, 224, 16), (9, 6, 1), (7, 7, 0)])
def test_the_centre_crop_begins(size, crop_size, start):
    assert crop_start(size, crop_size) == start


def test_a_crop_larger_than_the_records_is_refused():
    text = r"^crop_size 224 is larger than the records, which have 128 pixels a side; lower it, or take records"
    with pytest.raises(ValueError, match=text):
        crop_start(128, 224)
