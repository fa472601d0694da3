import numpy as np
import pytest

from cxr.findings import FINDINGS
from cxr.networks import patient
from cxr.params import Params
from model_fn import model_fn

INFO = {"findings": list(FINDINGS), "image_size": 32}
INFO |= {"splits": {"train": {"images": 98, "positives": dict.fromkeys(FINDINGS, 9)}}}
NAN = float("nan")


@pytest.fixture(scope="module")
def embedding():
    """A model from age, sex and view position to their concatenated embeddings."""
    import keras

    inputs = patient.patient_inputs()
    return keras.Model(inputs, patient.embed(inputs))


def vectors(embedding, *patients: tuple[float, int, int]) -> np.ndarray:
    ages, sexes, view_positions = zip(*patients, strict=True)
    given = {"age": np.array(ages, np.float32), "sex": np.array(sexes), "view_position": np.array(view_positions)}
    return np.asarray(embedding(given))


@pytest.mark.parametrize(
    ("age", "like"),
    [
        (0, 9.9),  # a decade has one vector
        (50, 59.5),
        (90, 120),  # the last decade is 90 and older
        (NAN, -1),  # unknown
        (NAN, 414),  # above the oldest possible age
        (-0.5, 121),
    ],
)
def test_ages_that_share_a_vector(embedding, age, like):
    first, second = vectors(embedding, (age, 0, 0), (like, 0, 0))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()


def test_eleven_ages_three_sexes_and_three_view_positions_have_different_vectors(embedding):
    found = vectors(embedding, *((decade * 10 + 5, 0, 0) for decade in range(10)), (NAN, 0, 0))
    assert len(np.unique(found[:, :8], axis=0)) == 11
    assert len(np.unique(found[:, 8:], axis=0)) == 1
    found = vectors(embedding, (50, -1, 1), (50, 0, -1), (50, 1, 0))
    assert len(np.unique(found[:, 8:16], axis=0)) == len(np.unique(found[:, 16:], axis=0)) == 3
    assert found.shape == (3, 24)


def model_with_metadata(**changes):
    params = {"metadata": True, "image_size": 32, "num_channels": 4, "num_blocks": 2, **changes}
    return model_fn(Params(**params), INFO)


def images_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 1), np.uint8)


def test_a_model_with_patient_inputs_also_works_with_unknown_patients():
    model = model_with_metadata()
    assert list(model.input) == ["image", "age", "sex", "view_position"]
    images = np.repeat(images_of(1), 3, axis=0)
    patient_inputs = {
        "age": np.array([20, 70, NAN], np.float32),
        "sex": np.array([0, 1, -1]),
        "view_position": np.array([1, 0, -1]),
    }
    logits = np.asarray(model({"image": images, **patient_inputs}))
    assert len(np.unique(logits, axis=0)) == 3
    alone = patient.image_only(model)
    assert list(alone.input) == ["image"]
    np.testing.assert_allclose(alone({"image": images})[:1], logits[2:], atol=1e-6)
    assert alone({"image": images_of(5)}).shape == (5, 14)


def test_a_model_without_patient_inputs_is_returned_unchanged():
    model = model_with_metadata(metadata=False)
    assert list(model.input) == ["image"]
    assert patient.image_only(model) is model


def test_a_head_over_features_adds_patient_inputs_before_its_hidden_layers():
    params = Params(model="feature_extractor", metadata=True, hidden_units=(6,))
    head = model_fn(params, INFO, {"net": 5})
    assert list(head.input) == ["net", "age", "sex", "view_position"]
    kernels = sorted(tuple(weight.shape) for weight in head.trainable_weights if weight.path.endswith("kernel"))
    assert kernels == [(6, 14), (29, 6)]  # 5 features and 24 patient values
