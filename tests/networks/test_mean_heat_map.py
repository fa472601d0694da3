"""The mean of heat maps, with numbers worked by hand."""

import numpy as np
import pytest

from cxr.networks.mean_heat_map import CELLS, MeanHeatMapper, on_whole_image, shares


class Fixed:
    """A heat map that is the same for every image and finding."""

    def __init__(self, values: np.ndarray, method: str, covers: int) -> None:
        self.values = values.astype(np.float32)
        self.method = method
        self.covers = covers

    def __call__(self, images: np.ndarray, columns: list[int]) -> np.ndarray:
        return np.tile(self.values, (len(images), len(columns), 1, 1))


def test_a_map_is_divided_by_the_sum_of_what_is_above_0():
    np.testing.assert_allclose(shares(np.array([[3.0, -5.0], [1.0, 0.0]])), [[0.75, 0], [0.25, 0]])
    np.testing.assert_array_equal(shares(np.array([[-3.0, -5.0], [-1.0, 0.0]])), np.zeros((2, 2)))


def test_a_map_of_a_crop_is_0_around_it():
    whole = on_whole_image(np.ones((1, 2, 4, 4), np.float32), 0.75)  # an eighth of 32 cells is left out on each side
    assert whole.shape == (1, 2, CELLS, CELLS)
    expected = np.zeros((32, 32))
    expected[4:28, 4:28] = 1
    np.testing.assert_allclose(whole[0, 1], expected, atol=1e-6)


def test_every_member_has_the_same_weight_whatever_the_scale_of_its_map():
    rows, columns = np.indices((CELLS, CELLS))
    left = Fixed(columns < 16, "cam", 64)
    top = Fixed(1000.0 * (rows < 16), "occlusion", 64)
    mapper = MeanHeatMapper([left, top, left], 64)
    assert (mapper.method, mapper.covers) == ("mean of cam, occlusion", 64)
    maps = mapper(np.zeros((2, 64, 64, 1), np.uint8), [0, 3])
    assert maps.shape == (2, 2, CELLS, CELLS)
    one = 1 / 512  # of 32 x 16 cells, in each map
    corners = maps[1, 1][[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners == pytest.approx([one, one / 3, 2 * one / 3, 0])  # in both halves; top; left; neither
