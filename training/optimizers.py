"""The optimizer of an experiment and the way its step size goes."""

from typing import TYPE_CHECKING

from cxr.params import Params

if TYPE_CHECKING:
    import keras

PLATEAU_EPOCHS = 2  # without a better val AUROC before the step size falls
PLATEAU_FACTOR = 0.1  # by which it falls


def make_optimizer(params: Params, rate: "float | keras.optimizers.schedules.LearningRateSchedule"):
    """The optimizer with its learning rate."""
    import keras

    options = {"weight_decay": params.weight_decay, "global_clipnorm": params.gradient_clip_norm}
    if params.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **options)
    return keras.optimizers.AdamW(rate, **options)


def learning_rate(params: Params, steps: int) -> "float | keras.optimizers.schedules.LearningRateSchedule":
    """The learning rate scheduled over `steps` steps an epoch.

    warmup_epochs of linear rise to the peak; then constant, or half a cosine down to 0 at the end of num_epochs
    (Loshchilov & Hutter 2017, eq. 5, without restarts), or, with "plateau", the peak times `factor`, a variable of the
    schedule that whoever sees the val scores lowers.
    """
    import keras

    schedules = keras.optimizers.schedules
    total, warmup = steps * params.num_epochs, round(steps * params.warmup_epochs)
    peak = params.learning_rate
    if params.lr_schedule == "cosine":
        falling = max(1, total - warmup)
        if warmup:
            return schedules.CosineDecay(0.0, falling, warmup_target=peak, warmup_steps=warmup)
        return schedules.CosineDecay(peak, falling)
    if params.lr_schedule == "plateau":
        return plateau_schedule(peak, warmup)
    return schedules.PolynomialDecay(0.0, warmup, end_learning_rate=peak) if warmup else peak


def plateau_schedule(peak: float, warmup: int) -> "keras.optimizers.schedules.LearningRateSchedule":
    """A linear rise to the peak over `warmup` steps, and that times its variable `factor`, which begins at 1."""
    import keras

    class Plateau(keras.optimizers.schedules.LearningRateSchedule):
        factor = keras.Variable(1.0, trainable=False, name="factor")

        def __call__(self, step):
            rise = keras.ops.minimum(keras.ops.cast(step, "float32") / max(1, warmup), 1.0) if warmup else 1.0
            return peak * rise * self.factor

    return Plateau()
