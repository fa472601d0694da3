import numpy as np
import pytest

from cxr.images.appearance import LENGTH, appearance_of

HALVES = np.repeat(np.array([50, 150], np.uint8), 32)[None].repeat(64, axis=0)  # dark left half, bright right half


def test_layout_and_tones_are_in_standard_deviations_from_the_mean():
    found = appearance_of(HALVES)
    assert found.shape == (LENGTH,) == (73,)
    np.testing.assert_allclose(found[:64].reshape(8, 8), np.tile([-1] * 4 + [1] * 4, (8, 1)), atol=1e-6)
    np.testing.assert_allclose(found[64:69], [-1, -1, 0, 1, 1], atol=1e-6)  # the median is between the halves


def test_texture_is_measured_at_the_octave_that_it_is_in():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 100  # gone after the first halving
    texture = appearance_of(checks.astype(np.uint8))[69:]
    np.testing.assert_allclose(texture, np.log([1.001, 0.001, 0.001, 0.001]), atol=1e-5)


@pytest.mark.parametrize("change", [lambda x: x // 2 + 60, lambda x: np.kron(x, np.ones((3, 3), np.uint8))])
def test_brightness_contrast_and_size_do_not_matter(change):
    image = np.random.default_rng(0).integers(0, 128, (64, 64)).astype(np.uint8) * 2
    np.testing.assert_allclose(appearance_of(change(image)), appearance_of(image), atol=1e-4)


def test_a_blank_image_has_finite_values():
    np.testing.assert_allclose(appearance_of(np.full((40, 90), 7, np.uint8)), [0] * 69 + [np.log(0.001)] * 4, atol=1e-6)
