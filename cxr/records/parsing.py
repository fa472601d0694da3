"""Records as tensors: parsing inside a tf.data pipeline, with TensorFlow."""

import functools

from cxr.findings import FINDINGS


def without_autotuner(dataset):
    """The pipeline without TensorFlow's autotuner, which can delay the end of an epoch.

    The autotuner runs at intervals that double from 10 ms on. In TensorFlow 2.21, on a busy machine, the end of a
    pipeline can wait for its next run: an epoch of 45 s then ends after 82 s.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def parse_batch(serialized, info: dict) -> tuple[dict, object]:
    """Parse a batch of records inside tf.data.

    Args:
        serialized: string tensor [B].
        info: the contents of dataset.json, which describe the records.

    Returns:
        ({"image": uint8 [B, size, size, 1] or "features": float32 [B, D], "age": float32 [B], "sex": int64 [B],
        "view_position": int64 [B]}, labels float32 [B, 14]).
    """
    import tensorflow as tf

    payload = "features" if info["kind"] == "features" else "image/encoded"
    parsed = tf.io.parse_example(
        serialized,
        {
            payload: tf.io.FixedLenFeature([], tf.string),
            "labels": tf.io.FixedLenFeature([len(FINDINGS)], tf.int64),
            "patient/age": tf.io.FixedLenFeature([], tf.float32),
            "patient/sex": tf.io.FixedLenFeature([], tf.int64),
            "view_position": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    if payload == "features":
        vectors = tf.io.decode_raw(parsed[payload], tf.float16)
        columns = {"features": tf.cast(tf.reshape(vectors, [-1, info["dimension"]]), tf.float32)}
    else:
        columns = {"image": _decode_images(parsed[payload], info["encoding"], info["image_size"])}
    columns |= {"age": parsed["patient/age"], "sex": parsed["patient/sex"], "view_position": parsed["view_position"]}
    return columns, tf.cast(parsed["labels"], tf.float32)


def _decode_images(encoded, encoding: str, size: int):
    """Decode a string tensor [B] to uint8 [B, size, size, 1], with the pixels that `encode.stored_pixels` returns."""
    import tensorflow as tf

    if encoding == "raw":
        return tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [-1, size, size, 1])
    # TensorFlow's default JPEG transform is faster but differs by up to 16 grey levels from Pillow and OpenCV.
    exact_jpeg = functools.partial(tf.io.decode_jpeg, dct_method="INTEGER_ACCURATE")
    decode = {"png": tf.io.decode_png, "jpeg": exact_jpeg}[encoding]
    pixels = tf.TensorSpec([size, size, 1], tf.uint8)
    return tf.map_fn(lambda image: decode(image, channels=1), encoded, fn_output_signature=pixels)
