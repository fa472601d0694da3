"""TensorFlow Hub and Kaggle modules and SavedModel folders as frozen Keras layers. TensorFlow backend only."""

import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable

import keras
import tensorflow as tf

SIGNATURES = ("serving_default", "default")  # models exported by Keras, TF1 modules


class HubModule(keras.layers.Layer):
    """A SavedModel that maps float32 images [B, S, S, 3] to features [B, D]; never trained."""

    def __init__(self, handle: str, image_size: int, **kwargs) -> None:
        """Load the module.

        Args:
            handle: URL (tfhub.dev, kaggle.com or another server) or folder.
            image_size: S, pixels per side.

        Raises:
            ConnectionError: the module could not be downloaded.
            ValueError: there is no SavedModel, or it does not map images to [B, D].
        """
        # A hub module is a float32 graph, whatever the policy of the surrounding model is.
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.handle, self.folder = handle, resolve(handle)
        loaded = tf.saved_model.load(str(self.folder))
        self._keep_alive = [loaded]  # its variables are freed with it
        self._function = image_function(loaded, handle)
        self.dimension = features_of(self._function, handle, image_size)

    def call(self, images):
        """Features [B, D] of images [B, S, S, 3]."""
        return self._function(images)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """[B, D]."""
        return (input_shape[0], self.dimension)

    def sha256(self) -> str:
        """Hash of the SavedModel's graph and weights."""
        digest = hashlib.sha256()
        for path in sorted([self.folder / "saved_model.pb", *self.folder.glob("variables/*")]):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()


def features_of(function: Callable, handle: str, image_size: int) -> int:
    """D of a function from images [B, S, S, 3] to [B, D], found by tracing it; ValueError if it is another function."""
    image = tf.TensorSpec([1, image_size, image_size, 3], tf.float32)
    try:
        shape = tf.function(function).get_concrete_function(image).output_shapes
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        text = str(error).strip().splitlines()[-1]
        raise ValueError(f"{handle} rejects images of {image_size} x {image_size} x 3: {text}") from error
    if not isinstance(shape, tf.TensorShape) or shape.rank != 2 or shape[1] is None:
        raise ValueError(f"{handle} returns {shape}, expected features [B, D]; use its feature-vector variant")
    return shape[1]


def resolve(handle: str) -> pathlib.Path:
    """The local folder of a module; downloaded into the hub cache if the handle is a URL."""
    folder = pathlib.Path(_download(handle) if "://" in handle else handle)
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(f"{folder} has no saved_model.pb; expected the folder of a SavedModel")
    return folder


def _download(handle: str) -> str:
    try:
        import tensorflow_hub
    except ImportError as error:
        raise ImportError("hub modules need tensorflow-hub. Run: pip install -r requirements.txt") from error
    try:
        return tensorflow_hub.resolve(handle)
    except (OSError, ValueError, tf.errors.OpError) as error:
        cache = os.environ.get("TFHUB_CACHE_DIR") or os.path.join(tempfile.gettempdir(), "tfhub_modules")  # noqa: PTH118
        place = pathlib.Path(cache) / hashlib.sha1(handle.encode()).hexdigest()
        raise ConnectionError(
            f"could not download {handle}: {error}. Offline, unpack the module into {place} (TFHUB_CACHE_DIR moves "
            "that folder), or set a local folder as the handle in params.json."
        ) from error


def image_function(loaded, handle: str) -> Callable:
    """The function from images to features: the module itself if it is callable, else its signature."""
    if callable(loaded):
        return lambda images: loaded(images)
    signatures = getattr(loaded, "signatures", {})
    name = next((name for name in SIGNATURES if name in signatures), None)
    if name is None:
        raise ValueError(f"{handle} is not callable and has no signature {' or '.join(SIGNATURES)}")
    signature = signatures[name]
    arguments, outputs = list(signature.structured_input_signature[1]), list(signature.structured_outputs)
    if len(arguments) != 1:
        raise ValueError(f"signature {name} of {handle} takes {arguments}, expected one batch of images")
    wanted = "default" if "default" in outputs else outputs[0]
    if len(outputs) > 1 and wanted != "default":
        raise ValueError(f"signature {name} of {handle} returns {outputs}, expected one array of features")
    return lambda images: signature(**{arguments[0]: images})[wanted]
