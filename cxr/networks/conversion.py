"""A Keras model as a graph with constant weights, and as an OpenVINO network."""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import openvino


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


def load_openvino(what: str = "frozen networks in bfloat16 or int8 on a CPU") -> ModuleType:
    """The module openvino; ImportError says how to install it, and `what` needs it.

    OpenVINO and NNCF send usage statistics through the package openvino_telemetry if they find it. Nothing that looks
    at patients' images should, so its import is blocked in this process.
    """
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        import openvino
    except ImportError as error:
        raise ImportError(f"{what} need OpenVINO. Run: pip install -r requirements/cpu.txt") from error
    return openvino


@functools.cache
def openvino_core() -> "openvino.Core":
    """The one Core of this process, which is never closed.

    While a Core of OpenVINO 2026.4 uses the CPU, signals are handled on a stack of its own. After two whose lifetimes
    overlap that stack is freed memory, and the next Ctrl-C is a segmentation fault.
    """
    core = load_openvino().Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # now, so that those of NNCF come and go inside its lifetime
    return core


def to_openvino(model: "keras.Model | openvino.Model", name: str) -> "openvino.Model":
    """An extractor's network as an OpenVINO network from uint8 [?, H, W, 1] to float32 [?, D]; one stays as it is.

    Cropping, resizing and scaling are part of it.

    Args:
        name: of the extractor, for the error.

    Raises:
        ImportError: OpenVINO is not installed.
        ValueError: the network has an operation that OpenVINO lacks.
    """
    openvino = load_openvino()
    if isinstance(model, openvino.Model):
        return model
    try:
        converted = openvino.convert_model(frozen_graph(model).graph, extension=[_resizing()])
    except Exception as error:  # OpenVINO's errors have no common base class
        operations = [line.strip(" -") for line in str(error).splitlines() if "conversion rule" in line]
        reason = "; ".join(operations) or str(error).strip().splitlines()[-1]
        raise ValueError(
            f'OpenVINO cannot convert the network {name}: {reason}. Set "precision": "float32" in params.json'
        ) from error
    converted.inputs[0].tensor.set_names({"image"})
    converted.outputs[0].tensor.set_names({"features"})
    return converted


def _resizing():
    """TensorFlow's bilinear resizing with antialiasing, for OpenVINO, which calls it "bilinear_pillow"."""
    from openvino import opset13
    from openvino.frontend.tensorflow import ConversionExtension

    def convert(node):
        if node.get_attribute("kernel_type") != "triangle":
            raise ValueError(f"no conversion rule for resizing by {node.get_attribute('kernel_type')}")
        image, size = node.get_input(0), node.get_input(1)
        resized = opset13.interpolate(image, size, "bilinear_pillow", "sizes", axes=opset13.constant([1, 2]))
        return [resized.output(0)]

    return ConversionExtension("ScaleAndTranslate", convert)
