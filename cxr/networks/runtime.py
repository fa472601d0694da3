"""A frozen network as a function of batches: the same one extracts features for training and for every later use.

keras    the layers compute in the precision's Keras policy
onednn   bfloat16 on a CPU: the layers are float32, oneDNN computes convolutions and matrix products in bfloat16 where
         the processor can, about twice as fast
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Runtime = Callable[["tf.Tensor"], "tf.Tensor"]  # uint8 [B, H, W, 1] -> float32 [B, D]


def runtime_of(precision: str) -> str:
    """The runtime that extracts features in this precision on this machine."""
    return "onednn" if precision == "bfloat16" and device_kind() == "CPU" else "keras"


def device_kind() -> str:
    """GPU where TensorFlow sees one, else CPU."""
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def layer_policy(precision: str, runtime: str) -> str:
    """The precision in which an extractor's layers are made for a runtime."""
    return "float32" if runtime == "onednn" else precision


def prepare(model: "keras.Model", runtime: str, precision: str) -> Runtime:
    """Freeze an extractor's network, {"image": uint8 [B, H, W, 1]} -> float32 [B, D], into a function of batches.

    With its weights as constants TensorFlow folds the batch norms into the convolutions and keeps oneDNN's own layout
    of the weights.
    """
    import tensorflow as tf

    frozen, by_onednn = frozen_graph(model), runtime == "onednn" and precision == "bfloat16"
    device = "/CPU:0" if runtime == "onednn" else None  # a GPU would ignore oneDNN and compute in float32

    def run(images):
        # The option is the process's, so it is set for this call alone: a head trained here stays float32.
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": by_onednn})
        try:
            with tf.device(device):
                outputs = frozen(tf.convert_to_tensor(images))
        finally:
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": False})
        return outputs[0] if isinstance(outputs, list | tuple) else outputs

    return run


def frozen_graph(model: "keras.Model", batch: int | None = None) -> Callable:
    """A model as one graph with its weights as constants: f(*inputs, in the order of model.input) -> its output.

    So whatever is inside, a hub module too, needs no class of ours to be loaded again.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    names = list(model.input)
    specs = [tf.TensorSpec([batch, *model.input[n].shape[1:]], model.input[n].dtype, name=n) for n in names]

    @tf.function(autograph=False)
    def outputs(*values):
        return model(dict(zip(names, values, strict=True)), training=False)

    return convert_variables_to_constants_v2(outputs.get_concrete_function(*specs))
