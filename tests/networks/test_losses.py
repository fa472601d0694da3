import math

import numpy as np
import pytest

from cxr.findings import FINDINGS
from cxr.networks import losses
from cxr.networks.losses import make_loss, positive_weights
from cxr.params import Params

ALL = ["bce", "batch_balanced", "inverse_frequency", "focal"]
THIRD = math.log(1 / 3)  # p = 1/4, so -ln p = ln 4 and -ln(1 - p) = ln 4/3


def dataset_info(**positives: int) -> dict:
    counts = dict.fromkeys(FINDINGS, 9) | positives
    return {"findings": list(FINDINGS), "splits": {"train": {"images": 98, "positives": counts}}}


def loss_of(params: Params, labels, logits, info: dict | None = None) -> float:
    """The loss as `fit` computes it."""
    import keras

    model = keras.Sequential([keras.Input((len(labels[0]),))])
    model.compile("sgd", make_loss(params, info or dataset_info()), jit_compile=False)
    return model.evaluate(np.array(logits, np.float32), np.array(labels, np.float32), verbose=0)


@pytest.mark.parametrize(
    ("function", "label", "expected"),
    [
        ("focal", 1, 0.25 * (3 / 4) ** 2 * math.log(4)),  # alpha (1 - p)^2 -ln p
        ("focal", 0, 0.75 * (1 / 4) ** 2 * math.log(4 / 3)),
    ],
)
def test_focal_loss_of_one_label_at_a_probability_of_a_quarter(function, label, expected):
    found = getattr(losses, function)(np.array([[label]], np.float32), np.array([[THIRD]], np.float32))
    assert np.asarray(found) == pytest.approx([expected], rel=1e-5)


def test_positives_have_the_weight_of_their_finding():
    labels, logits = np.array([[1, 0], [0, 1]], np.float32), np.full((2, 2), THIRD, np.float32)
    found = losses.weighted_cross_entropy(labels, logits, [3.0, 5.0])
    positive, negative = math.log(4), math.log(4 / 3)
    assert np.asarray(found) == pytest.approx([(3 * positive + negative) / 2, (negative + 5 * positive) / 2], rel=1e-5)


def test_batch_balanced_is_the_mean_over_positives_plus_the_mean_over_negatives():
    labels, logits = np.array([[1, 0], [0, 0]], np.float32), np.array([[0, THIRD], [THIRD, 0]], np.float32)
    # Wang's sums: 4 * ln 2 + 4/3 * (2 ln 4/3 + ln 2), over the 4 labels
    expected = (4 * math.log(2) + 4 / 3 * (2 * math.log(4 / 3) + math.log(2))) / 4
    assert float(losses.batch_balanced(labels, logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("label", "expected"), [(0, math.log(4 / 3)), (1, math.log(4))])
def test_batch_balanced_without_positives_or_negatives_is_the_mean_of_the_others(label, expected):
    labels, logits = np.full((2, 14), label, np.float32), np.full((2, 14), THIRD, np.float32)
    assert float(losses.batch_balanced(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_weights_by_inverse_frequency():
    weights = positive_weights(Params(loss="inverse_frequency"), dataset_info(Hernia=0, Infiltration=49))
    assert weights[FINDINGS.index("Mass")] == 9  # 90 to 10, one image added on each side
    assert weights[FINDINGS.index("Hernia")] == 99  # 99 to 1: finite
    assert weights[FINDINGS.index("Infiltration")] == 1


def test_weights_of_the_other_losses():
    assert positive_weights(Params(loss="batch_balanced"), dataset_info()) == pytest.approx([9] * 14)
    assert positive_weights(Params(loss="focal"), dataset_info()) == [1] * 14


def test_plain_cross_entropy():
    found = loss_of(Params(), [[1] + [0] * 13], [[THIRD] * 14])
    assert found == pytest.approx((math.log(4) + 13 * math.log(4 / 3)) / 14, rel=1e-5)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_the_loss_and_gradient_of_extreme_logits_are_finite(loss, label, logit):
    import tensorflow as tf

    labels, logits = tf.fill([4, 14], float(label)), tf.Variable(tf.fill([4, 14], logit))
    # One finding without positives, one without negatives.
    loss_function = make_loss(Params(loss=loss), dataset_info(Hernia=0, Mass=98))
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss_function(labels, logits))
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
