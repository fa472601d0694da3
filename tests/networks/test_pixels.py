import numpy as np
import pytest

from cxr.networks.pixels import centre_crop, crop_start, resize, standardize


@pytest.mark.parametrize("channels", [1, 3])
def test_standardize_equals_per_image_standardization_of_tensorflow(channels):
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, channels)).astype(np.float32)
    images[1] = 57  # blank
    images[2] = images[2] > 250  # almost black
    images[3] = 100
    images[3, 0, 0] = 101  # stddev below 1 / sqrt(N), which is then the divisor
    expected = tf.image.per_image_standardization(images).numpy()
    np.testing.assert_allclose(np.asarray(standardize(images)), expected, atol=1e-5)
    assert not expected[1].any()


def test_standardize_by_hand():
    image = np.array([1, 1, 3, 3], np.float32).reshape(1, 2, 2, 1)  # mean 2, stddev 1 > 1 / sqrt(4)
    assert np.asarray(standardize(image)).ravel().tolist() == [-1, -1, 1, 1]
    assert np.asarray(standardize(image / 10)).ravel() == pytest.approx([-0.2, -0.2, 0.2, 0.2])  # 0.1 / max(0.1, 0.5)


@pytest.mark.parametrize(("size", "crop_size", "start"), [(256, 224, 16), (9, 6, 1), (7, 7, 0)])
def test_start_of_the_centre_crop(size, crop_size, start):
    assert crop_start(size, crop_size) == start


def test_a_crop_larger_than_the_records_is_rejected():
    text = r"^crop_size 224 is larger than the records, which have 128 pixels per side; lower it, or use records"
    with pytest.raises(ValueError, match=text):
        crop_start(128, 224)


def test_a_centre_crop_and_a_resize():
    images = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
    assert centre_crop(images, None) is images
    cropped = centre_crop(images, 4)
    assert cropped[0, 0, :, 0].tolist() == [7, 8, 9, 10]
    assert resize(cropped, 4) is cropped
    assert np.asarray(resize(np.full((1, 6, 6, 1), 7, np.float32), 3)).ravel() == pytest.approx([7] * 9)
