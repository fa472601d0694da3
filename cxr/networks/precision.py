"""In what arithmetic a model computes, and on which devices."""

import contextlib
import functools
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


@functools.cache  # a second strategy over the same devices confuses TensorFlow's collectives
def mirrored_devices(*devices: str):
    """The strategy that trains on several devices of this machine; the plain one where there are not several.

    Each device has its share of every batch and normalises by that share where a layer normalises by the batch.

    Args:
        devices: their names; none for every GPU.
    """
    import tensorflow as tf

    names = devices or tuple(device.name for device in tf.config.list_logical_devices("GPU"))
    return tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy()
