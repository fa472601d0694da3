"""In what arithmetic a model computes, and on which devices."""

import contextlib
from collections.abc import Iterator

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "mixed_float16": "mixed_float16"}


@contextlib.contextmanager
def layers_in(precision: str) -> Iterator[None]:
    """Layers made inside compute in this precision and keep float32 weights."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def mirrored_devices(devices: list[str] | None = None):
    """The strategy that trains on several devices of this machine; the plain one where there are not several.

    Args:
        devices: their names; default every GPU.
    """
    import tensorflow as tf

    devices = devices or [device.name for device in tf.config.list_logical_devices("GPU")]
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()
