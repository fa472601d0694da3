import math

import numpy as np
import pytest

from cxr.findings import FINDINGS
from cxr.params import Params
from model_fn import model_fn, output_bias, prevalence_logits

SMALL = {"image_size": 32, "num_channels": 4, "num_blocks": 2}


def dataset_info(*, image_size: int = 32, images: int = 98, positives: int = 9) -> dict:
    counts = dict.fromkeys(FINDINGS, positives)
    return {
        "findings": list(FINDINGS),
        "image_size": image_size,
        "splits": {"train": {"images": images, "positives": counts}},
    }


def random_images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)


def random_batch(count: int = 3, size: int = 32) -> dict:
    return {"image": random_images(count, size)}


def test_logits_are_float32_with_one_per_finding():
    model = model_fn(Params(**SMALL), dataset_info())
    assert (model.name, list(model.input)) == ("simple_cnn", ["image"])
    assert (model.input["image"].dtype, model.input["image"].shape) == ("uint8", (None, 32, 32, 1))
    logits = model(random_batch())
    assert (logits.dtype, logits.shape) == ("float32", (3, 14))


def test_every_block_doubles_the_channels():
    model = model_fn(Params(image_size=32, num_channels=4, num_blocks=3), dataset_info())
    assert model.get_layer("pooled").output.shape == (None, 16)


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_exposure_does_not_change_the_logits(scale):
    model = model_fn(Params(**SMALL), dataset_info())
    image = random_images(2, 32) // 4 * 4  # divisible, so that scaling is exact
    faint = (image * scale).astype(np.uint8)
    np.testing.assert_allclose(model({"image": faint}), model({"image": image}), atol=1e-4)


def test_a_blank_image_has_finite_logits():
    logits = model_fn(Params(**SMALL), dataset_info())({"image": np.zeros((1, 32, 32, 1), np.uint8)})
    assert np.isfinite(np.asarray(logits)).all()


def test_logits_do_not_depend_on_the_rest_of_the_batch():
    model = model_fn(Params(**SMALL), dataset_info())
    batch = random_batch(3)
    np.testing.assert_allclose(model({"image": batch["image"][:1]}), model(batch)[:1], atol=1e-5)


def test_records_of_another_size_are_resized_with_antialiasing():
    import keras
    import tensorflow as tf

    model = model_fn(Params(**SMALL), dataset_info(image_size=64))
    assert model.input["image"].shape == (None, 64, 64, 1)
    [resizing] = [layer for layer in model.layers if isinstance(layer, keras.layers.Resizing)]
    batch = random_batch(2, 64)
    found = keras.Model(model.input, resizing.output)(batch)
    expected = tf.image.resize(tf.cast(batch["image"], tf.float32), (32, 32), antialias=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert model(batch).shape == (2, 14)


def test_records_of_the_right_size_are_not_resized():
    model = model_fn(Params(**SMALL), dataset_info())
    assert not [layer for layer in model.layers if "resizing" in layer.name]


@pytest.mark.parametrize(
    ("images", "positives", "expected"),
    [
        (98, 9, math.log(10 / 90)),  # (9 + 1) of (98 + 2)
        (98, 49, 0.0),  # half of the images
        (98, 0, math.log(1 / 99)),  # none: finite
        (98, 98, math.log(99 / 1)),  # all: finite
    ],
)
def test_prevalence_logits(images, positives, expected):
    found = prevalence_logits(dataset_info(images=images, positives=positives))
    assert found == pytest.approx([expected] * 14)


def test_initial_probabilities_are_the_prevalences():
    info = dataset_info()
    info["splits"]["train"]["positives"]["Hernia"] = 0
    bias = model_fn(Params(**SMALL), info).get_layer("logits").bias
    assert np.asarray(bias) == pytest.approx([math.log(10 / 90)] * 13 + [math.log(1 / 99)])


def test_the_bias_follows_the_names_of_the_findings():
    info = dataset_info()
    positives = info["splits"]["train"]["positives"]
    positives["Hernia"] = 0
    info["splits"]["train"]["positives"] = dict(sorted(positives.items()))  # as a JSON tool may order them
    assert prevalence_logits(info)[FINDINGS.index("Hernia")] == pytest.approx(math.log(1 / 99))
    assert prevalence_logits(info)[FINDINGS.index("Mass")] == pytest.approx(math.log(10 / 90))


def test_the_seed_decides_the_weights():
    first, same, other = (model_fn(Params(seed=seed, **SMALL), dataset_info()).get_weights() for seed in (1, 1, 2))
    for value, again in zip(first, same, strict=True):
        np.testing.assert_array_equal(value, again)
    assert not np.array_equal(first[0], other[0])


def test_dropout_is_active_in_training_only():
    model = model_fn(Params(dropout=0.5, **SMALL), dataset_info())
    batch = random_batch()
    np.testing.assert_array_equal(model(batch), model(batch))
    assert not np.array_equal(model(batch, training=True), model(batch, training=True))


@pytest.mark.parametrize(
    ("precision", "computes_in"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("mixed_float16", "float16")]
)
def test_convolutions_compute_in_the_precision_and_logits_in_float32(precision, computes_in):
    import keras

    model = model_fn(Params(precision=precision, **SMALL), dataset_info())
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in convolutions} == {computes_in}
    assert {str(weight.dtype) for weight in model.trainable_weights} == {"float32"}
    assert {layer.input.dtype for layer in convolutions[:1]} == {"float32"}  # standardised in float32
    assert model(random_batch()).dtype == "float32"


HEAD = {"hidden_units": (8, 4), "transition_units": 6}
WIDTHS = {"a": 3, "b": 5}


def features_of(widths: dict[str, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=(4, width)).astype(np.float32) for name, width in widths.items()}


@pytest.mark.parametrize(
    ("model", "widths", "denses"),
    [
        ("feature_extractor", {"a": 3}, [(3, 8), (8, 4), (4, 14)]),
        ("ensemble", WIDTHS, [(3, 6), (5, 6), (6, 8), (8, 4), (4, 14)]),  # each to one width, then their sum
    ],
)
def test_a_head_over_features(model, widths, denses):
    import keras

    head = model_fn(Params(model=model, **HEAD), dataset_info(), widths)
    assert (head.name, list(head.input)) == (model, list(widths))
    found = [tuple(layer.kernel.shape) for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    assert sorted(found) == sorted(denses)
    logits = head(features_of(widths))
    assert (logits.dtype, logits.shape) == ("float32", (4, 14))


def test_an_ensemble_adds():
    import keras

    head = model_fn(Params(model="ensemble", **HEAD), dataset_info(), WIDTHS)
    [added] = [layer for layer in head.layers if isinstance(layer, keras.layers.Add)]
    first, second, total = keras.Model(head.input, [*added.input, added.output])(features_of(WIDTHS))
    np.testing.assert_allclose(total, np.asarray(first) + np.asarray(second), rtol=1e-6)
    assert total.shape == (4, 6)


def test_initial_logits_under_weighted_positives():
    info = dataset_info()
    assert output_bias(Params(loss="inverse_frequency"), info) == pytest.approx([0.0] * 14)  # both sides weigh the same
    assert output_bias(Params(loss="batch_balanced"), info) == pytest.approx([0.0] * 14)  # equal prevalences
    for loss in ("bce", "focal"):
        assert output_bias(Params(loss=loss), info) == prevalence_logits(info)


def test_the_model_sees_the_centre_of_larger_records():
    whole = model_fn(Params(**SMALL), dataset_info())
    cropped = model_fn(Params(crop_size=32, **SMALL), dataset_info(image_size=40))
    assert cropped.input["image"].shape == (None, 40, 40, 1)
    assert not [layer for layer in cropped.layers if "resizing" in layer.name]
    images = random_images(2, 40)
    np.testing.assert_allclose(cropped({"image": images}), whole({"image": images[:, 4:36, 4:36]}), atol=1e-5)


def test_a_crop_larger_than_the_records_is_rejected():
    with pytest.raises(ValueError, match=r"^crop_size 64 is larger than the records, which have 32 pixels per side"):
        model_fn(Params(crop_size=64, **SMALL), dataset_info())
