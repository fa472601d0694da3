"""A moving average of the weights, which generalises better than where the last step happened to end."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


class WeightAverage:
    """Exponential moving average of a model's weights, statistics of batch norm included (Polyak & Juditsky 1992).

    After step n (from 0) it moves by 1 - min(decay, (1 + n) / (10 + n)) towards the weights: a young average forgets
    the random weights it began with (as tf.train.ExponentialMovingAverage does with num_updates).
    """

    def __init__(self, model: "keras.Model", decay: float) -> None:
        import keras

        self.decay, self.weights = decay, model.weights
        self.averages = [keras.Variable(weight, trainable=False, dtype=weight.dtype) for weight in self.weights]

    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 0 over all epochs."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.assign(average + rate * (weight - average))  # so written, what never changes stays to the bit

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averages inside, and its own weights again afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        from keras import ops

        for average, weight in zip(self.averages, self.weights, strict=True):
            value = ops.copy(weight)
            weight.assign(average)
            average.assign(value)
