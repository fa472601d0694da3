import numpy as np
import pytest

from cxr.networks.normalize import standardize


@pytest.mark.parametrize("channels", [1, 3])
def test_standardize_is_that_of_tensorflow(channels):
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, channels)).astype(np.float32)
    images[1] = 57  # blank
    images[2] = images[2] > 250  # dark, all but black
    images[3] = 100
    images[3, 0, 0] = 101  # stddev below 1 / sqrt(N), which then divides
    expected = tf.image.per_image_standardization(images).numpy()
    np.testing.assert_allclose(np.asarray(standardize(images)), expected, atol=1e-5)
    assert not expected[1].any()


def test_a_value_worked_by_hand():
    image = np.array([1, 1, 3, 3], np.float32).reshape(1, 2, 2, 1)  # mean 2, stddev 1 > 1 / sqrt(4)
    assert np.asarray(standardize(image)).ravel().tolist() == [-1, -1, 1, 1]
    assert np.asarray(standardize(image / 10)).ravel() == pytest.approx([-0.2, -0.2, 0.2, 0.2])  # 0.1 / max(0.1, 0.5)
