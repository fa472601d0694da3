import math

import numpy as np
import pytest

from cxr.findings import FINDINGS
from cxr.networks import losses
from cxr.networks.losses import effective_number, make_loss, positive_weights
from cxr.params import Params

ALL = ["bce", "batch_balanced", "inverse_frequency", "effective_number", "focal", "asymmetric"]
THIRD = math.log(1 / 3)  # p = 1/4, so -ln p = ln 4 and -ln(1 - p) = ln 4/3


def dataset_info(**positives: int) -> dict:
    counts = dict.fromkeys(FINDINGS, 9) | positives
    return {"findings": list(FINDINGS), "splits": {"train": {"images": 98, "positives": counts}}}


def loss_of(params: Params, labels, logits, info: dict | None = None) -> float:
    """As `fit` computes it."""
    import keras

    model = keras.Sequential([keras.Input((len(labels[0]),))])
    model.compile("sgd", make_loss(params, info or dataset_info()), jit_compile=False)
    return model.evaluate(np.array(logits, np.float32), np.array(labels, np.float32), verbose=0)


@pytest.mark.parametrize(
    ("function", "label", "expected"),
    [
        ("focal", 1, 0.25 * (3 / 4) ** 2 * math.log(4)),  # alpha (1 - p)^2 -ln p
        ("focal", 0, 0.75 * (1 / 4) ** 2 * math.log(4 / 3)),
        ("asymmetric", 1, math.log(4)),  # gamma+ is 0
        ("asymmetric", 0, 0.2**4 * -math.log(0.8)),  # q = 0.25 - 0.05
    ],
)
def test_one_label_at_a_quarter(function, label, expected):
    found = getattr(losses, function)(np.array([[label]], np.float32), np.array([[THIRD]], np.float32))
    assert np.asarray(found) == pytest.approx([expected], rel=1e-5)


def test_positives_weigh_what_their_finding_says():
    labels, logits = np.array([[1, 0], [0, 1]], np.float32), np.full((2, 2), THIRD, np.float32)
    found = losses.weighted(labels, logits, [3.0, 5.0])
    positive, negative = math.log(4), math.log(4 / 3)
    assert np.asarray(found) == pytest.approx([(3 * positive + negative) / 2, (negative + 5 * positive) / 2], rel=1e-5)


def test_batch_balanced_is_the_mean_over_positives_plus_the_mean_over_negatives():
    labels, logits = np.array([[1, 0], [0, 0]], np.float32), np.array([[0, THIRD], [THIRD, 0]], np.float32)
    # Wang's sums: 4 * ln 2 + 4/3 * (2 ln 4/3 + ln 2), over the 4 labels
    expected = (4 * math.log(2) + 4 / 3 * (2 * math.log(4 / 3) + math.log(2))) / 4
    assert float(losses.batch_balanced(labels, logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("label", "expected"), [(0, math.log(4 / 3)), (1, math.log(4))])
def test_a_batch_of_one_side_alone_is_balanced_to_its_own_mean(label, expected):
    labels, logits = np.full((2, 14), label, np.float32), np.full((2, 14), THIRD, np.float32)
    assert float(losses.batch_balanced(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_weights_by_inverse_frequency():
    weights = positive_weights(Params(loss="inverse_frequency"), dataset_info(Hernia=0, Infiltration=49))
    assert weights[FINDINGS.index("Mass")] == 9  # 90 to 10, one image added on each side
    assert weights[FINDINGS.index("Hernia")] == 99  # 99 to 1: finite
    assert weights[FINDINGS.index("Infiltration")] == 1


def test_weights_by_effective_number():
    assert effective_number(1) == pytest.approx(1)
    assert effective_number(2) == pytest.approx(1.9999)  # 1 + beta
    assert effective_number(10**9) == pytest.approx(10_000)  # 1 / (1 - beta): more images add nothing
    weights = positive_weights(Params(loss="effective_number"), dataset_info(Hernia=0))
    assert weights[FINDINGS.index("Mass")] == pytest.approx((1 - 0.9999**90) / (1 - 0.9999**10))
    assert weights[FINDINGS.index("Hernia")] == pytest.approx((1 - 0.9999**99) / (1 - 0.9999))


def test_weights_of_a_batch_like_the_training_images():
    assert positive_weights(Params(loss="batch_balanced"), dataset_info()) == pytest.approx([9] * 14)
    assert positive_weights(Params(loss="focal"), dataset_info()) == [1] * 14


@pytest.mark.parametrize("loss", ALL)
def test_smoothed_labels_are_nearer_to_a_half(loss):
    labels, logits = np.tile([[1, 0]], (2, 7)), np.random.default_rng(0).normal(size=(2, 14))
    softer = labels * 0.8 + 0.1  # s = 0.2: 1 becomes 0.9 and 0 becomes 0.1
    expected = loss_of(Params(loss=loss), softer, logits)
    assert loss_of(Params(loss=loss, label_smoothing=0.2), labels, logits) == pytest.approx(expected, rel=1e-5)
    assert loss_of(Params(loss=loss), labels, logits) != pytest.approx(expected, rel=1e-3)


def test_plain_cross_entropy():
    found = loss_of(Params(), [[1] + [0] * 13], [[THIRD] * 14])
    assert found == pytest.approx((math.log(4) + 13 * math.log(4 / 3)) / 14, rel=1e-5)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_batches_of_one_side_alone_have_a_finite_loss_and_gradient(loss, label, logit):
    import tensorflow as tf

    labels, logits = tf.fill([4, 14], float(label)), tf.Variable(tf.fill([4, 14], logit))
    of = make_loss(Params(loss=loss), dataset_info(Hernia=0, Mass=98))  # one without positives, one without negatives
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(of(labels, logits))
    gradient = tape.gradient(value, logits)
    assert np.isfinite(value.numpy())
    assert np.isfinite(gradient.numpy()).all()


@pytest.mark.parametrize("loss", ALL)
def test_a_step_against_the_gradient_raises_positives_and_lowers_negatives(loss):
    import tensorflow as tf

    labels, logits = np.tile([[1.0, 0.0]], (3, 7)).astype(np.float32), tf.Variable(tf.zeros([3, 14]))
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(make_loss(Params(loss=loss), dataset_info())(labels, logits))
    gradient = tape.gradient(value, logits).numpy()
    assert (gradient[labels == 1] < 0).all()
    assert (gradient[labels == 0] > 0).all()
