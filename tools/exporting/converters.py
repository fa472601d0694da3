"""A network as TFLite and ONNX files, and as functions that run them: squares in, probabilities out.

Both take `image`, uint8 [1 or B, S, S, 1], already decoded and resized, and know nothing of the patient.
"""

import importlib.util
import pathlib
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cxr.networks.runtime import frozen_graph

if TYPE_CHECKING:
    import keras

# Kept in float in an int8 file. In 256 steps the deviation by which an image is standardised can become 0, and the
# division fails; and the probabilities of rare findings would all be 0 or 1/256.
FLOAT_OPERATIONS = [
    "MEAN",
    "SUB",
    "SQUARED_DIFFERENCE",
    "SQRT",
    "RSQRT",
    "MAXIMUM",
    "DIV",
    "FULLY_CONNECTED",
    "LOGISTIC",
]
OPSET = 18  # of ONNX, which every runtime since 2023 understands
INTERPRETER_MOVES = " *Warning: tf.lite.Interpreter is deprecated"  # to ai-edge-litert; TensorFlow's is here already
Run = Callable[[np.ndarray], np.ndarray]  # uint8 [n, S, S, 1] -> probabilities float32 [n, 14]


def with_probabilities(model: "keras.Model") -> "keras.Model":
    """The model of the image alone, with a sigmoid at its end."""
    import keras

    from cxr.networks.patient import image_only

    model = image_only(model)
    return keras.Model(model.input, {"probabilities": keras.ops.sigmoid(model.output)}, name="probabilities")


def to_tflite(model: "keras.Model", samples: np.ndarray | None = None) -> bytes:
    """TFLite of one image at a time: weights in float16, or in int8 with the ranges that the samples show.

    Convolutions become int8, FLOAT_OPERATIONS do not. Where an operation is not TFLite's own (an antialiased resize
    inside the model), the file asks for TensorFlow's "flex" operations.

    Args:
        model: see `with_probabilities`.
        samples: uint8 [n, S, S, 1] for int8; None is float16.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen_graph(model, batch=1)])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    if samples is None:
        converter.target_spec.supported_types = [tf.float16]
        return converter.convert()
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=FLOAT_OPERATIONS)
    with warnings.catch_warnings():  # the input has no range to be learnt: it is uint8 before and after
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected", UserWarning)
        warnings.filterwarnings("ignore", INTERPRETER_MOVES, UserWarning)
        quantizer = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=converter.representative_dataset, debug_options=options
        )
        return quantizer.get_nondebug_quantized_model()


def tflite_runner(data: bytes) -> Run:
    """A function that runs a TFLite file, image by image."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", INTERPRETER_MOVES, UserWarning)
        interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run_one(square: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(taken, square[None])
        interpreter.invoke()
        return interpreter.get_tensor(given)[0].copy()

    return lambda squares: np.stack([run_one(square) for square in squares])


def require_onnx() -> None:
    """Raise ImportError unless what `to_onnx` and `onnx_runner` need is installed."""
    missing = [name for name in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"an ONNX file needs {missing[0]}. Run: pip install -r requirements/export.txt")


def to_onnx(model: "keras.Model", path: pathlib.Path) -> None:
    """Write ONNX by Keras' own exporter."""
    import keras

    signature = [{"image": keras.InputSpec(shape=model.input["image"].shape, dtype="uint8", name="image")}]
    with warnings.catch_warnings():  # Keras asks NumPy whether it still has np.object
        warnings.simplefilter("ignore", FutureWarning)
        model.export(path, format="onnx", verbose=False, input_signature=signature, opset_version=OPSET)


def onnx_runner(path: pathlib.Path) -> Run:
    """A function that runs an ONNX file; ValueError where an operation of the network has no counterpart in ONNX."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, which stand on nothing common
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"this network has no ONNX form ({reason}); leave out --onnx") from error
    return lambda squares: session.run(None, {session.get_inputs()[0].name: squares})[0]
