"""A moving average of the weights, which generalises better than the weights of the last step."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


class WeightAverage:
    """Exponential moving average of a model's weights and batch norm statistics (Polyak & Juditsky 1992).

    After step n (from 0) it moves by 1 - min(decay, (1 + n) / (10 + n)) towards the weights, so that the initial random
    weights are soon forgotten (as in tf.train.ExponentialMovingAverage with num_updates).
    """

    def __init__(self, model: "keras.Model", decay: float) -> None:
        import keras

        self.decay = decay
        self.weights = model.weights
        self.averages = [keras.Variable(weight, trainable=False, dtype=weight.dtype) for weight in self.weights]

    def update(self, step: int) -> None:
        """Update the average after a step, counted from 0 over all epochs."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.averages, self.weights, strict=True):
            # In this form an average of weights that never change stays exactly equal to them.
            average.assign(average + rate * (weight - average))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averages as its weights inside the block, and its own weights again afterwards."""
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
