"""The runtime of a frozen network: one function of batches extracts features for training and for every later use.

keras    the layers compute in the Keras policy of the precision
onednn   bfloat16 on a CPU: the layers are float32, and oneDNN computes convolutions and matrix products in bfloat16 if
         the processor can, which is about twice as fast
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
    """ "GPU" if TensorFlow sees one, else "CPU"."""
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def layer_policy(precision: str, runtime: str) -> str:
    """The precision of an extractor's layers for a runtime."""
    return "float32" if runtime == "onednn" else precision


def prepare(model: "keras.Model", runtime: str, precision: str) -> Runtime:
    """Turn an extractor's network, {"image": uint8 [B, H, W, 1]} -> float32 [B, D], into a function of batches.

    With the weights as constants TensorFlow folds the batch norms into the convolutions and stores the weights in the
    layout of oneDNN.
    """
    import tensorflow as tf

    frozen = frozen_graph(model)
    in_bfloat16 = runtime == "onednn" and precision == "bfloat16"
    device = "/CPU:0" if runtime == "onednn" else None  # a GPU would ignore oneDNN and compute in float32

    def run(images):
        # The option is global to the process, so it is set for this call only: a head trained here stays float32.
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": in_bfloat16})
        try:
            with tf.device(device):
                outputs = frozen(tf.convert_to_tensor(images))
        finally:
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": False})
        return outputs[0] if isinstance(outputs, list | tuple) else outputs

    return run


def frozen_graph(model: "keras.Model", batch: int | None = None) -> Callable:
    """A model as one graph with its weights as constants: f(*inputs, in the order of model.input) -> its output.

    Loading the graph again needs none of this project's classes, even for a model with hub modules.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    names = list(model.input)
    specs = [tf.TensorSpec([batch, *model.input[n].shape[1:]], model.input[n].dtype, name=n) for n in names]

    @tf.function(autograph=False)
    def outputs(*values):
        return model(dict(zip(names, values, strict=True)), training=False)

    return convert_variables_to_constants_v2(outputs.get_concrete_function(*specs))
