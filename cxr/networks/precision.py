"""The arithmetic precision of a model's layers."""

import contextlib
from collections.abc import Iterator

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "mixed_float16": "mixed_float16"}


@contextlib.contextmanager
def layers_in(precision: str) -> Iterator[None]:
    """Layers created in the block compute in this precision and keep float32 weights."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
