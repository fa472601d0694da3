"""Losses on logits for findings that are rare. Pure Keras, any backend.

In all formulas x is a logit, p = 1 / (1 + exp(-x)), y the label, -ln p = softplus(-x) and -ln(1 - p) = softplus(x).
After mixup a label lies between 0 and 1 and weights both terms.
"""

from collections.abc import Callable

from cxr.params import Params

FOCAL_GAMMA = 2.0  # Lin et al. 2017, table 1
FOCAL_ALPHA = 0.25


def make_loss(params: Params, info: dict) -> Callable:
    """The loss of an experiment: a function of labels [B, 14] and logits [B, 14], for `model.compile`.

    Args:
        info: dataset.json, whose training positives set the weights of "inverse_frequency".
    """
    import keras

    if params.loss == "bce":
        return keras.losses.BinaryCrossentropy(from_logits=True)
    if params.loss == "inverse_frequency":
        weights = positive_weights(params, info)
        return lambda labels, logits: weighted_cross_entropy(labels, logits, weights)
    return {"batch_balanced": batch_balanced, "focal": focal}[params.loss]


def positive_weights(params: Params, info: dict) -> list[float]:
    """The weight of a positive label of each finding relative to a negative one; 1 where the loss has no weights.

    inverse_frequency: n_negative / n_positive of the training images, so that both sides weigh the same.
    batch_balanced: |N| / |P| over all findings, as in a batch that has the label counts of the training images.
    One image is added to each side, so that the weight of a finding without positives is finite.
    """
    train = info["splits"]["train"]
    positives = [train["positives"][finding] + 1 for finding in info["findings"]]
    negatives = [train["images"] + 2 - n for n in positives]
    if params.loss == "inverse_frequency":
        return [n / p for n, p in zip(negatives, positives, strict=True)]
    if params.loss == "batch_balanced":
        return [sum(negatives) / sum(positives)] * len(positives)
    return [1.0] * len(positives)


def weighted_cross_entropy(labels, logits, weights: list[float]):
    """Mean of -w y ln p - (1 - y) ln(1 - p), where w is the weight of a finding's positives: [B, 14] to [B]."""
    from keras import ops

    weights = ops.convert_to_tensor(weights, dtype=logits.dtype)
    losses = weights * labels * ops.softplus(-logits) + (1 - labels) * ops.softplus(logits)
    return ops.mean(losses, axis=-1)


def batch_balanced(labels, logits):
    """Weighted cross-entropy W-CEL (Wang et al. 2017, eq. 1): [B, 14] to one number.

    beta_P * sum(-y ln p) + beta_N * sum(-(1 - y) ln(1 - p)), beta_P = (|P| + |N|) / |P| and beta_N = (|P| + |N|) / |N|
    over all labels of the batch. Here it is divided by |P| + |N|, which makes it the mean over the positives plus the
    mean over the negatives. A side without labels adds 0.
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

    positive_loss = ops.softplus(-logits)  # -ln p
    negative_loss = ops.softplus(logits)  # -ln(1 - p)
    positive = FOCAL_ALPHA * labels * ops.exp(-FOCAL_GAMMA * negative_loss) * positive_loss
    negative = (1 - FOCAL_ALPHA) * (1 - labels) * ops.exp(-FOCAL_GAMMA * positive_loss) * negative_loss
    return ops.mean(positive + negative, axis=-1)
