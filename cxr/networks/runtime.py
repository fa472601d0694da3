"""The runtime of a frozen network: prepared once, it extracts features for training and for every later use.

keras       the layers compute in the Keras policy of the precision
openvino    on a CPU, in bfloat16 or int8: the network is converted, in int8 also quantised, once, kept as a file
            (cxr/networks/kept.py), and from then on only that file is run

A source of extractors whose network does not come from TensorFlow, as "onnx", gives `prepare` an openvino.Model from
"image", uint8 [?, H, W, 1], to features, float32 [?, D], in place of a Keras model. It runs through OpenVINO in every
precision.
"""

import functools
import logging
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cxr.networks.conversion import load_openvino, openvino_core
from cxr.params import Params

if TYPE_CHECKING:
    import keras
    import openvino

log = logging.getLogger("train.runtime")

REQUEST = 8  # images per request; int8 takes 7 % less time than by single images, larger requests save no more
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # of what is not quantised, by params.precision


class Runtime(Protocol):
    """A frozen network that is ready to run."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float32 [B, D], rounded to float16, of images uint8 [B, H, W, 1]."""

    def stream(self, batches: Iterable[np.ndarray], on_images: Callable[[int], None]) -> np.ndarray:
        """Features [n, D] of all batches in their order. The next batch is read while one is computed.

        Args:
            on_images: called with the number of images that have been taken since its last call.
        """


def runtime_of(params: Params) -> str:
    """The runtime of an experiment's frozen networks on this machine."""
    if not params.extractors or params.fine_tune:
        return "keras"
    if any(spec.get("source") == "onnx" for spec in params.extractors):
        return "openvino"  # in every precision, and the experiment's other networks with it
    if params.precision == "bfloat16":
        return "openvino" if device_kind() == "CPU" else "keras"
    return "openvino" if params.precision == "int8" else "keras"  # int8 runs on the CPU of a machine with a GPU too


def device_kind() -> str:
    """ "GPU" if TensorFlow sees one, else "CPU"."""
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def layer_policy(precision: str, runtime: str) -> str:
    """The precision of an extractor's layers for a runtime; OpenVINO lowers that of the converted network itself."""
    return "float32" if runtime == "openvino" else precision


def prepare(model: "keras.Model | openvino.Model", runtime: str, precision: str) -> Runtime:
    """Make an extractor's network, {"image": uint8 [B, H, W, 1]} -> float32 [B, D], ready to run.

    Args:
        model: for the runtime "openvino" a network of OpenVINO, in int8 a quantised one.
    """
    if hasattr(model, "get_ops"):  # an openvino.Model, recognised without importing the library
        return OpenVinoNetwork(model, precision)
    if runtime != "keras":
        raise TypeError("convert the network first, see cxr/networks/conversion.py")
    return KerasNetwork(model)


class KerasNetwork:
    """A Keras model as a traced function."""

    def __init__(self, model: "keras.Model") -> None:
        """Trace it at the first batch."""
        import tensorflow as tf

        self._function = tf.function(lambda images: model({"image": images}, training=False), autograph=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See `Runtime`."""
        import tensorflow as tf

        return np.asarray(self._function(tf.convert_to_tensor(images)))

    def stream(self, batches: Iterable[np.ndarray], on_images: Callable[[int], None]) -> np.ndarray:
        """See `Runtime`."""
        vectors = []
        for images in batches:
            vectors.append(self(images))
            on_images(len(images))
        return np.concatenate(vectors)


class OpenVinoNetwork:
    """A network of OpenVINO: requests of REQUEST images or of one, as many at once as suit the CPU.

    Both sizes give the same features, so those of an image do not depend on the batch that it comes in.
    """

    def __init__(self, model: "openvino.Model", precision: str) -> None:
        """Compile it for this CPU when the first images come."""
        warn_if_slow(precision, tuple(openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")))
        self._model = model
        self._options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        self._queues = {}  # by the number of images in a request

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See `Runtime`."""
        return self.stream([images], lambda _: None)

    def stream(self, batches: Iterable[np.ndarray], on_images: Callable[[int], None]) -> np.ndarray:
        """See `Runtime`."""
        parts = []  # [REQUEST, D] or [1, D] each, filled when their request ends
        for images in map(np.asarray, batches):
            whole = len(images) - len(images) % REQUEST
            starts = [*range(0, whole, REQUEST), *range(whole, len(images))]
            for start, end in zip(starts, [*starts[1:], len(images)], strict=True):
                queue, dimension = self._queue(end - start)
                parts.append(np.empty((end - start, dimension), np.float32))
                queue.start_async({0: images[start:end]}, parts[-1])
            on_images(len(images))
        for queue, _ in self._queues.values():
            queue.wait_all()
        with np.errstate(over="ignore"):  # too large for float16: infinite, which the caller reports
            return np.concatenate(parts).astype(np.float16).astype(np.float32)

    def _queue(self, size: int) -> tuple["openvino.AsyncInferQueue", int]:
        """The queue of requests of `size` images, and the number of features."""
        if size not in self._queues:
            model = self._model.clone()
            model.reshape([size, *list(model.inputs[0].partial_shape)[1:]])
            compiled = openvino_core().compile_model(model, "CPU", self._options)
            queue = load_openvino().AsyncInferQueue(compiled)
            queue.set_callback(_store)
            self._queues[size] = queue, compiled.outputs[0].shape[1]
        return self._queues[size]


def _store(request, features: np.ndarray) -> None:
    features[:] = request.get_output_tensor(0).data


@functools.cache  # once for every reason
def warn_if_slow(precision: str, capabilities: tuple[str, ...]) -> None:
    """Log that this CPU lacks the instructions that make a precision fast.

    Args:
        capabilities: OpenVINO's OPTIMIZATION_CAPABILITIES of the CPU.
    """
    if precision == "bfloat16" and "BF16" not in capabilities:
        log.warning(
            "this CPU has no bfloat16 instructions: OpenVINO computes in float32, about as fast as precision float32"
        )
    if precision == "int8" and not has_vnni():
        log.warning(
            "this CPU has no VNNI instructions: int8 runs by slower ones, at about the speed of float32 or up to twice "
            "that"
        )


def has_vnni(cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies int8 in one instruction (AVX-512 or AVX VNNI, AMX, ARM dot product)."""
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:  # not Linux: unknown, so no warning
        return True
    return bool(words & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
