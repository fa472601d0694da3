"""Small ONNX encoders as other frameworks export them, and their outputs by onnxruntime."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
OPSET = [helper.make_opsetid("", 17)]


def write_encoder(
    path: Path,
    *,
    channels: int = 3,
    layout: str = "NCHW",
    side: int | str = SIDE,
    batch: int | str = "batch",
    outputs: tuple[str, ...] = ("features",),
    external: str | None = None,
) -> Path:
    """A convolution [B, 6, 4, 4] ("map"), its cells as tokens [B, 16, 6] ("tokens"), and their mean ("features").

    Args:
        layout: "NCHW", or "NHWC", with which "map" is [B, 4, 4, 6].
        outputs: those of the file, in this order.
        external: name of a file beside it for the weights.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    kernel = random.normal(size=(6, channels, 4, 4)).astype(np.float32)
    weights = {"kernel": kernel, "bias": random.normal(size=6).astype(np.float32)}
    shape = [batch, channels, side, side] if layout == "NCHW" else [batch, side, side, channels]
    nodes = []
    source = "pixels"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["pixels"], ["first"], perm=[0, 3, 1, 2]))
        source = "first"
    nodes += [
        helper.make_node("Conv", [source, "kernel", "bias"], ["convolved"], strides=[4, 4]),
        helper.make_node("Relu", ["convolved"], ["map" if layout == "NCHW" else "planes"]),
    ]
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["planes"], ["map"], perm=[0, 2, 3, 1]))
    shapes = {"map": [batch, 6, 4, 4] if layout == "NCHW" else [batch, 4, 4, 6]}
    if layout == "NCHW":
        weights["cells"] = np.array([0, 6, 16], np.int64)
        nodes += [
            helper.make_node("Reshape", ["map", "cells"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
            helper.make_node("ReduceMean", ["tokens"], ["features"], axes=[1], keepdims=0),
        ]
        shapes |= {"tokens": [batch, 16, 6], "features": [batch, 6]}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    options = {"save_as_external_data": True, "location": external, "size_threshold": 100} if external else {}
    onnx.save(helper.make_model(graph, opset_imports=OPSET, ir_version=9), path, **options)
    return path


def by_onnxruntime(path: Path, pixels: np.ndarray, output: str) -> np.ndarray:
    """What onnxruntime gives for float32 pixels in the layout of the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([output], {"pixels": pixels})[0]
