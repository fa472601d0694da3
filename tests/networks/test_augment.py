import numpy as np
import pytest

from cxr.networks import augment
from cxr.params import Params

STRONG = Params(augmentation="strong")
UNTOUCHED = Params()


def some_images(count: int = 6, size: int = 32) -> np.ndarray:
    """Smooth images: a small rotation or shift changes their pixels a little."""
    y, x = np.mgrid[:size, :size] / size
    hills = [128 + 100 * np.sin(3 * x + place) * np.cos(2 * y - place) for place in range(count)]
    return np.stack(hills).astype(np.uint8)[..., None]


def changed(images: np.ndarray, params: Params, *seed: int) -> np.ndarray:
    return augment.augment(images.copy(), params, np.random.default_rng(seed))


def test_augmentation_depends_on_seed_epoch_and_step():
    images = some_images()
    first = changed(images, STRONG, 230, 0, 5)
    np.testing.assert_array_equal(first, changed(images, STRONG, 230, 0, 5))
    for other in ((231, 0, 5), (230, 1, 5), (230, 0, 6)):  # seed, epoch, step
        assert not np.array_equal(first, changed(images, STRONG, *other))
    assert (first.dtype, first.shape) == (np.uint8, images.shape)


def test_every_image_of_a_batch_is_changed_differently():
    same_images = np.repeat(some_images(1), 6, axis=0)
    assert len({image.tobytes() for image in changed(same_images, STRONG, 1)}) == 6


def test_the_input_images_are_not_modified():
    images = some_images()
    before = images.copy()
    augment.change_batch({"image": images}, np.zeros((6, 14), np.float32), STRONG, seed=(1,))
    np.testing.assert_array_equal(images, before)


def test_no_augmentation_changes_nothing():
    images = some_images()
    np.testing.assert_array_equal(changed(images, UNTOUCHED, 1), images)


def test_a_stronger_preset_changes_more():
    images = some_images(32)
    found = [
        np.abs(changed(images, Params(augmentation=name), 1).astype(int) - images).mean() for name in augment.STRENGTHS
    ]
    assert found[0] == 0 < found[1] < found[2] < found[3]


def test_images_are_mirrored_only_with_horizontal_flip():
    images = some_images(40)
    flipped = changed(images, Params(horizontal_flip=True), 1)
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 10 < mirrored.sum() < 30  # expected 20 of 40; 10 or fewer have a probability of 0.001
    linear = augment.draw_matrices(STRONG, 200, 32, random=np.random.default_rng(0))[:, :, :2]
    assert (np.linalg.det(linear) > 0).all()


def test_rotation_and_zoom_stay_within_their_limits():
    matrices = augment.draw_matrices(STRONG, 500, 100, random=np.random.default_rng(0))
    angles = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 1, 1]))
    zooms = 1 / np.hypot(matrices[:, 1, 0], matrices[:, 1, 1])
    assert 11 < np.abs(angles).max() <= 12  # 3 times 4 degrees
    assert 0.85 <= zooms.min() < 0.86 < 1.14 < zooms.max() <= 1.15  # 3 times 5 %


@pytest.mark.parametrize(
    ("light", "grey", "expected"),
    [
        ((1.0, 1.0, 0.0), 100, 100),
        ((1.0, 1.0, 20.0), 100, 120),
        ((1.0, 1.0, 20.0), 250, 255),  # clipped, not wrapped around
        ((1.0, 0.5, 0.0), 0, 64),  # half way to 127.5
        ((2.0, 1.0, 0.0), 51, 10),  # 0.2 ** 2 * 255 = 10.2
    ],
)
def test_gamma_contrast_and_brightness(light, grey, expected):
    images = np.full((1, 4, 4, 1), grey, np.uint8)
    found = augment.relight(images, augment.Light(*(np.array([value]) for value in light)))
    assert found.shape == images.shape
    assert set(found.ravel()) == {expected}


def test_noise_has_the_given_standard_deviation_and_mean_zero():
    images = np.full((3, 128, 128, 1), 128, np.uint8)
    found = augment.add_noise(images, np.array([0.0, 4.0, 8.0]), np.random.default_rng(0)).astype(float)
    assert found.mean(axis=(1, 2, 3)) == pytest.approx([128] * 3, abs=0.2)
    assert found.std(axis=(1, 2, 3)) == pytest.approx([0, 4, 8], abs=0.15)


def test_a_rectangle_is_erased_in_the_chosen_images_only():
    images = np.zeros((40, 50, 50, 1), np.uint8)
    chosen = np.arange(40) % 2 == 0
    erased = augment.erase(images, chosen, np.random.default_rng(1)) > 0
    assert not erased[~chosen].any()
    for image in erased[chosen, :, :, 0]:
        rows, across = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        assert image[rows[0] : rows[-1] + 1, across[0] : across[-1] + 1].all()  # without holes
        assert {5 <= len(side) <= 15 for side in (rows, across)} == {True}  # a tenth to three tenths


def test_mixup_mixes_row_i_with_row_b_minus_1_minus_i():
    images = np.array([[[[100]]], [[[0]]], [[[200]]]], np.uint8)
    labels = np.array([[1.0], [0.0], [0.0]], np.float32)
    share = np.array([0.25, 0.5, 1.0], np.float32)
    assert augment.mix(images, share).ravel().tolist() == [175, 0, 200]  # 25 + 150; the middle row is mixed with itself
    assert augment.mix(labels, share).ravel().tolist() == [0.25, 0.0, 0.0]
    assert augment.mix(images, share).dtype == np.uint8


def test_mixup_changes_features_and_labels_by_the_same_share():
    features, labels = np.eye(4, dtype=np.float32), np.eye(4, 14, dtype=np.float32)
    columns, mixed = augment.change_batch({"net": features}, labels, Params(mixup=0.5), seed=(7,))
    np.testing.assert_allclose(columns["net"], mixed[:, :4])
    assert mixed.sum(axis=1) == pytest.approx([1] * 4)
    assert ((mixed > 0).sum(axis=1) == 2).all()


def test_all_inputs_of_some_patients_are_withheld():
    columns = {
        "age": np.full(2000, 50, np.float32),
        "sex": np.ones(2000, np.int64),
        "view_position": np.zeros(2000, np.int64),
    }
    labels = np.zeros((2000, 14), np.float32)
    found, _ = augment.change_batch(columns, labels, Params(metadata=True), seed=(1,))
    unknown = np.isnan(found["age"])
    assert 150 < unknown.sum() < 250  # a tenth
    np.testing.assert_array_equal(found["sex"], np.where(unknown, -1, 1))
    np.testing.assert_array_equal(found["view_position"], np.where(unknown, -1, 0))
    assert {name: value.dtype for name, value in found.items()} == {name: v.dtype for name, v in columns.items()}
    again, _ = augment.change_batch(columns, labels, Params(), seed=(1,))
    assert not np.isnan(again["age"]).any()


def test_a_random_crop_is_a_shift_of_the_image_under_the_centre_crop():
    image = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 1), np.uint8)
    crops = {image[0, y : y + 6, x : x + 6].tobytes() for y in range(4) for x in range(4)}
    moved = changed(np.repeat(image, 300, axis=0), Params(crop_size=6), 1)
    assert {each[1:7, 1:7].tobytes() for each in moved} == crops  # exactly the sixteen crops


def test_copies_of_a_crop_are_the_centre_and_the_corners():
    image = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 1), np.uint8)
    copies = [augment.tta_images(image, number, 6)[:, 1:7, 1:7] for number in range(6)]
    corners = [(1, 1), (0, 0), (0, 3), (3, 0), (3, 3)]  # row, column
    for copy, (y, x) in zip(copies[:5], corners, strict=True):
        np.testing.assert_array_equal(copy, image[:, y : y + 6, x : x + 6])
    assert not any(np.array_equal(copies[5], copy) for copy in copies[:5])


def test_copies_for_test_time_augmentation_differ_a_little_and_are_reproducible():
    images = some_images()
    copies = [augment.tta_images(images, number, None) for number in range(4)]
    np.testing.assert_array_equal(copies[0], images)
    assert len({copy.tobytes() for copy in copies}) == 4
    for number, copy in enumerate(copies[1:], 1):
        assert 0 < np.abs(copy.astype(int) - images).mean() < 20
        np.testing.assert_array_equal(copy, augment.tta_images(images, number, None))
