"""Losses on logits for findings that are rare. Pure Keras, any backend.

In all formulas x is a logit, p = 1 / (1 + exp(-x)), y the label, -ln p = softplus(-x) and -ln(1 - p) = softplus(x).
Labels may lie between 0 and 1: smoothed or mixed ones weigh both terms.
"""

import functools
import math
from collections.abc import Callable

from cxr.params import Params

EFFECTIVE_BETA = 0.9999  # Cui et al. 2019 try 0.9 to 0.9999; the last tells findings of 200 and 20,000 images apart
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25  # Lin et al. 2017, table 1
ASYMMETRIC_GAMMA_POSITIVE, ASYMMETRIC_GAMMA_NEGATIVE, ASYMMETRIC_MARGIN = 0.0, 4.0, 0.05  # Ridnik et al. 2021, sec. 3


def make_loss(params: Params, info: dict) -> Callable:
    """The loss of an experiment: a function of labels [B, 14] and logits [B, 14], for `model.compile`.

    With label_smoothing s the labels become y * (1 - s) + s / 2 (Szegedy et al. 2016, section 7, for two classes).

    Args:
        info: dataset.json, whose training positives set the weights of the findings.
    """
    import keras

    smoothing = params.label_smoothing
    if params.loss == "bce":
        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
    if params.loss in ("inverse_frequency", "effective_number"):
        of = functools.partial(weighted, weights=positive_weights(params, info))
    else:
        of = {"batch_balanced": batch_balanced, "focal": focal, "asymmetric": asymmetric}[params.loss]
    return lambda labels, logits: of(labels * (1 - smoothing) + smoothing / 2, logits)


def positive_weights(params: Params, info: dict) -> list[float]:
    """What a positive label of each finding counts beside a negative one under a loss; 1 where the loss has no such.

    inverse_frequency: n_negative / n_positive of the training images, so that both sides weigh the same.
    effective_number: E(n_negative) / E(n_positive) with E(n) = (1 - beta^n) / (1 - beta) (Cui et al. 2019, eq. 2).
    batch_balanced: |N| / |P| over all findings, what its weights are for a batch like the training images.
    One image is added on each side, so that a finding without positives stays finite.
    """
    train = info["splits"]["train"]
    positives = [train["positives"][finding] + 1 for finding in info["findings"]]
    negatives = [train["images"] + 2 - n for n in positives]
    if params.loss == "inverse_frequency":
        return [n / p for n, p in zip(negatives, positives, strict=True)]
    if params.loss == "effective_number":
        return [effective_number(n) / effective_number(p) for n, p in zip(negatives, positives, strict=True)]
    if params.loss == "batch_balanced":
        return [sum(negatives) / sum(positives)] * len(positives)
    return [1.0] * len(positives)


def effective_number(count: int) -> float:
    """Volume that `count` samples cover where each new one overlaps the earlier ones: (1 - beta^n) / (1 - beta)."""
    return -math.expm1(count * math.log(EFFECTIVE_BETA)) / (1 - EFFECTIVE_BETA)


def weighted(labels, logits, weights: list[float]):
    """Mean of -w y ln p - (1 - y) ln(1 - p), w the weight of a finding's positives: [B, 14] to [B]."""
    from keras import ops

    weights = ops.convert_to_tensor(weights, dtype=logits.dtype)
    losses = weights * labels * ops.softplus(-logits) + (1 - labels) * ops.softplus(logits)
    return ops.mean(losses, axis=-1)


def batch_balanced(labels, logits):
    """Weighted cross-entropy W-CEL (Wang et al. 2017, eq. 1): [B, 14] to one number.

    beta_P * sum(-y ln p) + beta_N * sum(-(1 - y) ln(1 - p)), beta_P = (|P| + |N|) / |P| and beta_N = (|P| + |N|) / |N|
    over all labels of the batch; here divided by |P| + |N|, which makes it the mean over the positives plus the mean
    over the negatives. A side without labels adds 0.
    """
    from keras import ops

    total = 0.0
    for share, losses in ((labels, ops.softplus(-logits)), (1 - labels, ops.softplus(logits))):
        count = ops.sum(share)
        total += ops.sum(share * losses) / ops.where(count > 0, count, ops.ones_like(count))
    return total


def focal(labels, logits):
    """Focal loss (Lin et al. 2017, eq. 5), gamma 2 and alpha 0.25: [B, 14] to [B].

    -alpha y (1 - p)^gamma ln p - (1 - alpha) (1 - y) p^gamma ln(1 - p)
    """
    from keras import ops

    missed, false = ops.softplus(-logits), ops.softplus(logits)  # -ln p, -ln(1 - p)
    positive = FOCAL_ALPHA * labels * ops.exp(-FOCAL_GAMMA * false) * missed
    negative = (1 - FOCAL_ALPHA) * (1 - labels) * ops.exp(-FOCAL_GAMMA * missed) * false
    return ops.mean(positive + negative, axis=-1)


def asymmetric(labels, logits):
    """Asymmetric loss ASL (Ridnik et al. 2021, eq. 7), gamma+ 0, gamma- 4, margin m 0.05: [B, 14] to [B].

    -y (1 - p)^gamma+ ln p - (1 - y) q^gamma- ln(1 - q), q = max(p - m, 0): negatives below the margin count nothing.
    """
    from keras import ops

    shifted = ops.maximum(ops.sigmoid(logits) - ASYMMETRIC_MARGIN, 0.0)
    focus = ops.exp(-ASYMMETRIC_GAMMA_POSITIVE * ops.softplus(logits))  # (1 - p)^gamma+
    positive = labels * focus * ops.softplus(-logits)
    negative = (1 - labels) * shifted**ASYMMETRIC_GAMMA_NEGATIVE * -ops.log1p(-shifted)
    return ops.mean(positive + negative, axis=-1)
