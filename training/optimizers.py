"""The optimizer of an experiment and its learning-rate schedule."""

from typing import TYPE_CHECKING

from cxr.params import Params

if TYPE_CHECKING:
    import keras

PLATEAU_FACTOR = 0.1  # of the learning rate at each plateau; `effects.PLATEAU_EPOCHS` says when


def make_optimizer(params: Params, rate: "float | keras.optimizers.schedules.LearningRateSchedule"):
    """The optimizer of an experiment with a learning rate or schedule."""
    import keras

    options = {"weight_decay": params.weight_decay, "global_clipnorm": params.gradient_clip_norm}
    if params.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **options)
    return keras.optimizers.AdamW(rate, **options)


def learning_rate(params: Params, steps: int) -> "float | keras.optimizers.schedules.LearningRateSchedule":
    """The learning-rate schedule for `steps` steps per epoch.

    Linear warm-up to the peak for warmup_epochs, then params.lr_schedule:

    constant: the peak.
    cosine: decay to 0 at the end of num_epochs (Loshchilov & Hutter 2017, eq. 5, without restarts).
    plateau: the peak times the schedule's variable `factor`, which the training loop lowers when val does not improve.
    """
    import keras

    schedules = keras.optimizers.schedules
    warmup = round(steps * params.warmup_epochs)
    peak = params.learning_rate
    if params.lr_schedule == "cosine":
        decay_steps = max(1, steps * params.num_epochs - warmup)
        if warmup:
            return schedules.CosineDecay(0.0, decay_steps, warmup_target=peak, warmup_steps=warmup)
        return schedules.CosineDecay(peak, decay_steps)
    if params.lr_schedule == "plateau":
        return plateau_schedule(peak, warmup)
    return schedules.PolynomialDecay(0.0, warmup, end_learning_rate=peak) if warmup else peak


def plateau_schedule(peak: float, warmup: int) -> "keras.optimizers.schedules.LearningRateSchedule":
    """Linear warm-up to the peak over `warmup` steps, times the variable `factor`, which starts at 1."""
    import keras

    class Plateau(keras.optimizers.schedules.LearningRateSchedule):
        factor = keras.Variable(1.0, trainable=False, name="factor")

        def __call__(self, step):
            rise = keras.ops.minimum(keras.ops.cast(step, "float32") / max(1, warmup), 1.0) if warmup else 1.0
            return peak * rise * self.factor

    return Plateau()
