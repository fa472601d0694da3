"""The optimizer of an experiment and the way its step size goes."""

from typing import TYPE_CHECKING

from cxr.params import Params

if TYPE_CHECKING:
    import keras


def make_optimizer(params: Params, steps: int) -> "keras.optimizers.Optimizer":
    """The optimizer with its learning rate scheduled over `steps` steps an epoch.

    warmup_epochs of linear rise to the peak; then constant, or half a cosine down to 0 at the end of num_epochs
    (Loshchilov & Hutter 2017, eq. 5, without restarts).
    """
    import keras

    schedules = keras.optimizers.schedules
    total, warmup = steps * params.num_epochs, round(steps * params.warmup_epochs)
    peak = params.learning_rate
    if params.lr_schedule == "cosine":
        falling = max(1, total - warmup)
        rate = (
            schedules.CosineDecay(0.0, falling, warmup_target=peak, warmup_steps=warmup)
            if warmup
            else schedules.CosineDecay(peak, falling)
        )
    else:
        rate = schedules.PolynomialDecay(0.0, warmup, end_learning_rate=peak) if warmup else peak
    if params.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=params.weight_decay)
    return keras.optimizers.AdamW(rate, weight_decay=params.weight_decay)
