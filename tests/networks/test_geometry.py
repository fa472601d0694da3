import numpy as np
import pytest

from cxr.networks.geometry import affine, move_boxes, warp


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
        ({"flipped": True}, (6, 5), (2, 5)),  # left and right are exchanged
        ({"flipped": True, "shift": (1, 0)}, (6, 5), (3, 5)),  # mirrored, then shifted
        ({"angle": 90, "shift": (1, 0)}, (6, 4), (5, 2)),  # rotated, then shifted
    ],
)
def test_a_pixel_and_its_box_move_to_the_same_place(change, start, end):
    warped = warp(dot(*start), matrix(**change))
    y, x = np.unravel_index(warped[0, :, :, 0].argmax(), (9, 9))
    assert (x, y) == end
    box = np.array([[start[0], start[1], start[0] + 1, start[1] + 1]])  # the pixel itself
    [moved] = move_boxes(box, matrix(**change)[0], size=9)
    size = change.get("zoom", 1.0)
    assert ((moved[0] + moved[2]) / 2 - 0.5, (moved[1] + moved[3]) / 2 - 0.5) == pytest.approx(end)
    assert moved[2:] - moved[:2] == pytest.approx([size, size])


def test_the_identity_changes_no_pixel():
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 1), np.uint8)
    np.testing.assert_array_equal(warp(images, np.repeat(matrix(), 3, axis=0)), images)


def test_pixels_beyond_the_edge_repeat_the_edge():
    image = np.full((1, 9, 9, 1), 77, np.uint8)
    assert set(warp(image, matrix(angle=30, shift=(3, 2))).ravel()) == {77}


def test_a_rotated_box_becomes_the_smallest_upright_box_and_is_clipped():
    boxes = np.array([[3.5, 3.5, 5.5, 5.5], [0, 0, 2, 2]])  # 2 pixels per side about the centre; the top left corner
    rotated = move_boxes(boxes, matrix(angle=45)[0], size=9)
    half = 2**0.5  # half the diagonal
    assert rotated[0] == pytest.approx([4.5 - half, 4.5 - half, 4.5 + half, 4.5 + half])
    assert rotated[1] == pytest.approx([0, 4.5 - half, 4.5 - 2.5 * half, 4.5 + half])
    assert move_boxes(boxes, matrix(shift=(-3, 0))[0], size=9)[1] == pytest.approx([0, 0, 0, 2])  # outside the image
