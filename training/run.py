"""A training run: the model, its optimizer, its history, and the state that a resumed run continues from."""

import contextlib
import functools
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from cxr import experiment
from cxr.networks import losses
from cxr.params import Params
from cxr.records.dataset import Dataset
from evaluate import predict_batches
from input_fn import input_fn
from training import optimizers
from training.averaging import WeightAverage
from training.history import History

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


class Run:
    """A compiled model, its history and the folder of its experiment."""

    def __init__(
        self, params: Params, model: "keras.Model", datasets: dict[str, Dataset], model_dir: pathlib.Path
    ) -> None:
        """Compile the model.

        Args:
            datasets: by the name of the model's input.

        Raises:
            ValueError: there are fewer training images than one batch.
        """
        self.params = params
        self.model = model
        self.datasets = datasets
        self.model_dir = model_dir
        self.history = History(model_dir)
        num_images = next(iter(datasets.values())).num_images("train")
        self.steps = num_images // params.batch_size  # per epoch; each epoch leaves out other images
        if self.steps == 0:
            raise ValueError(
                f"{num_images} training images are less than one batch of {params.batch_size}; "
                "build a larger dataset, or lower batch_size in params.json"
            )
        self.compile()
        self.average = WeightAverage(model, params.ema_decay) if params.ema_decay else None

    def compile(self) -> None:
        """Give the model its loss and optimizer."""
        import keras

        self.learning_rate = optimizers.learning_rate(self.params, self.steps)
        optimizer = optimizers.make_optimizer(self.params, self.learning_rate)
        if self.params.precision == "mixed_float16":  # small float16 gradients would underflow to 0
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        loss = losses.make_loss(self.params, next(iter(self.datasets.values())).info)
        self.model.compile(optimizer, loss, jit_compile=False, auto_scale_loss=False)
        optimizer.build(self.model.trainable_variables)

    def variables(self) -> list:
        """Weights, random state of dropout, the optimizer's step and moments, and the moving average of the weights."""
        averages = self.average.averages if self.average else []
        return [*self.model.variables, *self.model.optimizer.variables, *averages]

    def averaged(self) -> contextlib.AbstractContextManager:
        """The model with the weights that are evaluated and saved: their moving average, if there is one."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    @functools.cached_property
    def val_batches(self) -> "tf.data.Dataset":
        """The batches of val, in dataset order; one pipeline serves all epochs."""
        return input_fn("val", self.datasets, self.params, inputs=list(self.model.input))

    def predict_val(self) -> np.ndarray:
        """Logits float32 [n, 14] of the val images by the current weights, in dataset order."""
        return predict_batches(self.model, self.val_batches)

    def save(self, *, is_best: bool) -> None:
        """Write the weights and, last, the state to resume from; after a kill in between the epoch is repeated."""
        with self.averaged():
            experiment.save_weights(self.model, self.model_dir, *(experiment.CHECKPOINTS if is_best else ("last",)))
        progress = {"fingerprint": self.fingerprint(), "history": self.history.rows}
        experiment.save_state(self.model_dir, [np.asarray(v) for v in self.variables()], progress)

    def fingerprint(self) -> str:
        """The fingerprints of the datasets it is trained on."""
        return " ".join(dataset.info["fingerprint"] for dataset in self.datasets.values())

    def restore(self) -> bool:
        """Restore the state that `save` wrote; returns False if there is none yet."""
        state = experiment.load_state(self.model_dir, self.fingerprint())
        if state is None:
            return False
        values, self.history.rows = state
        for variable, value in zip(self.variables(), values, strict=True):
            variable.assign(value)
        return True
