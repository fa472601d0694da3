"""Convert a network to TFLite and ONNX files, and run these files.

Both take `image`, uint8 [1 or B, S, S, 1], already decoded and resized, and return probabilities. Patient inputs are
taken as unknown.
"""

import importlib.util
import pathlib
import warnings
from typing import TYPE_CHECKING

import numpy as np

from cxr.networks.conversion import frozen_graph
from cxr.networks.patient import image_only
from tools.exporting.parity import Run

if TYPE_CHECKING:
    import keras

# These operations stay in float in an int8 file. With 256 levels the standard deviation that normalises an image can
# become 0, a division by zero, and the probabilities of rare findings would all be 0 or 1/256.
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
OPSET = 18  # ONNX version; every runtime since 2023 reads it
RESIZE = "ScaleAndTranslate"  # antialiased resize; neither TFLite nor its flex operations have it
CALIBRATION = 200  # val images from which int8 takes its ranges
DEPRECATED = " *Warning: tf.lite.Interpreter is deprecated"  # in favour of ai-edge-litert, one more dependency


def with_probabilities(model: "keras.Model") -> "keras.Model":
    """The model with the image as its only input and a sigmoid at its end."""
    import keras

    model = image_only(model)
    return keras.Model(model.input, {"probabilities": keras.ops.sigmoid(model.output)}, name="probabilities")


def to_tflite(model: "keras.Model", samples: np.ndarray | None = None) -> bytes:
    """Convert to TFLite for one image at a time, in float16, or in int8 except for FLOAT_OPERATIONS.

    A file with an operation that TFLite lacks needs a runtime with TensorFlow's "flex" operations.

    Args:
        model: see `with_probabilities`.
        samples: uint8 [n, S, S, 1], from which int8 takes its ranges; None for float16.

    Raises:
        ValueError: TFLite cannot run the network.
    """
    import tensorflow as tf

    function = frozen_graph(model, batch=1)
    if any(node.op == RESIZE for node in function.graph.as_graph_def().node):
        raise ValueError(
            "this network resizes its input, because image_size in params.json differs from the dataset's; TFLite "
            "cannot do that. Leave out --tflite, or build the dataset with that --image_size and train again"
        )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    if samples is None:
        converter.target_spec.supported_types = [tf.float16]
        return converter.convert()
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=FLOAT_OPERATIONS)
    with warnings.catch_warnings():  # the input needs no range: it is uint8 already
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected", UserWarning)
        warnings.filterwarnings("ignore", DEPRECATED, UserWarning)
        quantizer = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=converter.representative_dataset, debug_options=options
        )
        return quantizer.get_nondebug_quantized_model()


def tflite_runner(data: bytes) -> Run:
    """Return a function that runs a TFLite file, image by image."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", DEPRECATED, UserWarning)
        interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]

    def run_one(square: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(input_index, square[None])
        interpreter.invoke()
        return interpreter.get_tensor(output_index)[0].copy()

    return lambda squares: np.stack([run_one(square) for square in squares])


def require_onnx() -> None:
    """Raise ImportError unless tf2onnx and onnxruntime are installed."""
    missing = [name for name in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"an ONNX file needs {missing[0]}. Run: pip install -r requirements/export.txt")


def to_onnx(model: "keras.Model", path: pathlib.Path) -> None:
    """Write an ONNX file with Keras's own exporter."""
    import keras

    signature = [{"image": keras.InputSpec(shape=model.input["image"].shape, dtype="uint8", name="image")}]
    with warnings.catch_warnings():  # Keras looks up np.object, which NumPy warns about
        warnings.simplefilter("ignore", FutureWarning)
        model.export(path, format="onnx", verbose=False, input_signature=signature, opset_version=OPSET)


def onnx_runner(path: pathlib.Path) -> Run:
    """Return a function that runs an ONNX file.

    Raises:
        ValueError: ONNX lacks an operation of the network.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"this network cannot be written as ONNX ({reason}); leave out --onnx") from error
    return lambda squares: session.run(None, {session.get_inputs()[0].name: squares})[0]


def write_tflite(model: "keras.Model", folder: pathlib.Path, squares: np.ndarray | None) -> dict[str, Run]:
    """Write model.float16.tflite and, if there are val images, model.int8.tflite; returns {file name: runner}."""
    files = {"model.float16.tflite": to_tflite(model)}
    if squares is not None:
        files["model.int8.tflite"] = to_tflite(model, squares[:CALIBRATION])
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: tflite_runner(data) for name, data in files.items()}


def write_onnx(model: "keras.Model", folder: pathlib.Path) -> dict[str, Run]:
    """Write model.onnx; returns {file name: runner}."""
    path = folder / "model.onnx"
    to_onnx(model, path)
    return {path.name: onnx_runner(path)}
