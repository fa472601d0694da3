"""Shards -> batches: the tf.data pipeline of every model."""

import functools
import os
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from cxr.engines.engine import default_workers
from cxr.networks import augment
from cxr.params import Params
from cxr.records import parsing
from cxr.records.dataset import Dataset

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 4096  # serialized records: about 100 MB as PNG of 224 px; as float RGB pixels they would be 2.5 GB
OPEN_SHARDS = 8  # interleaved in training; TensorFlow reads ahead in the next 16 too
READ_AHEAD = 1 << 20  # bytes per shard
EVALUATION_AHEAD = 32 << 20  # bytes per shard, three shards at once: about as much as the shuffle buffer of training
# TensorFlow's gs:// client buffers 64 MiB per open file by default, 1.8 GB for the 24 files of training. TensorFlow
# reads this variable when it is loaded.
os.environ.setdefault("GCS_READ_CACHE_BLOCK_SIZE_MB", "4")
PREFETCHED = 4  # batches


def input_fn(
    split: str,
    datasets: dict[str, Dataset],
    params: Params,
    *,
    epoch: int | None = None,
    inputs: Collection[str] | None = None,
    tta_copy: int = 0,
) -> "tf.data.Dataset":
    """Batches of one split.

    Args:
        datasets: by the name of the model's input: {"image": a dataset of images}, or for each extractor the dataset
            of its features. They hold the same images in the same order.
        epoch: number of the training epoch. Order and augmentation differ between epochs and depend only on (seed,
            epoch). None is evaluation: dataset order, every image once, the last batch may be short.
        inputs: names of the model's inputs; default all.
        tta_copy: number of the copy in test-time augmentation, see `augment.tta_images`; 0 is the image itself.

    Returns:
        Dataset of ({"image": uint8 [B, H, W, 1] or <extractor>: float32 [B, D], "age": float32 [B], "sex": int64 [B],
        "view_position": int64 [B]}, labels float32 [B, 14]), with the requested inputs only. Every training batch has
        batch_size images.
    """

    def parse(*serialized: "tf.Tensor") -> tuple[dict, "tf.Tensor"]:
        parsed = {}
        for (name, dataset), batch in zip(datasets.items(), serialized, strict=True):
            columns, labels = parsing.parse_batch(batch, dataset.info)
            parsed |= {name if key in ("image", "features") else key: column for key, column in columns.items()}
        return {name: parsed[name] for name in (parsed if inputs is None else inputs)}, labels

    cores = default_workers()
    batches = serialized_batches(split, datasets, params, epoch).map(parse, num_parallel_calls=cores)
    is_changed_in_training = augment.changes_batches(params, has_images="image" in datasets)
    if tta_copy if epoch is None else is_changed_in_training:
        change = functools.partial(changed_batch, params=params, epoch=epoch, tta_copy=tta_copy)
        batches = batches.enumerate().map(change, num_parallel_calls=cores)
    return parsing.without_autotuner(batches.prefetch(PREFETCHED))


def serialized_batches(
    split: str, datasets: dict[str, Dataset], params: Params, epoch: int | None
) -> "tf.data.Dataset":
    """Batches of serialized records, one string tensor [B] per dataset; for the arguments see `input_fn`."""
    import tensorflow as tf

    shards = list(zip(*(dataset.paths(split) for dataset in datasets.values()), strict=True))  # [shard][dataset]
    paths = (
        tf.data.Dataset.from_tensor_slices(shards)
        if shards
        else tf.data.Dataset.from_tensors([""] * len(datasets)).take(0)
    )

    def read(row: "tf.Tensor") -> "tf.data.Dataset":
        files = [tf.data.TFRecordDataset(row[place], buffer_size=READ_AHEAD) for place in range(len(datasets))]
        return tf.data.Dataset.zip(tuple(files))

    num_images = next(iter(datasets.values())).num_images(split)
    if epoch is None:
        steps = -(-num_images // params.batch_size)
        # With one shard at a time the block length does not change the order. TensorFlow buffers two blocks of this
        # shard and of the next two.
        block = max(1, EVALUATION_AHEAD // 2 // bytes_per_record(split, datasets))
        records = paths.interleave(read, cycle_length=1, block_length=block, num_parallel_calls=1, deterministic=True)
    else:
        steps = num_images // params.batch_size
        seed = (params.seed << 16) + epoch
        paths = paths.shuffle(len(shards), seed=seed, reshuffle_each_iteration=False)
        records = paths.interleave(
            read, OPEN_SHARDS, block_length=16, num_parallel_calls=OPEN_SHARDS, deterministic=True
        ).shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)
    # Batch before parsing: one call for 32 records costs little more than for one.
    batches = records.batch(params.batch_size, drop_remainder=epoch is not None)
    return batches.apply(tf.data.experimental.assert_cardinality(steps))


def bytes_per_record(split: str, datasets: dict[str, Dataset]) -> int:
    """Mean size of an image's records in all datasets together; at least 1."""
    size = sum(shard["bytes"] for dataset in datasets.values() for shard in dataset.info["splits"][split]["shards"])
    return max(1, size // max(1, next(iter(datasets.values())).num_images(split)))


def changed_batch(step: "tf.Tensor", batch: tuple, *, params: Params, epoch: int | None, tta_copy: int) -> tuple:
    """A batch after augmentation: in training by (seed, epoch, step), in evaluation as one copy for test-time
    augmentation."""
    import tensorflow as tf

    columns, labels = batch

    def change(step: np.ndarray, labels: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
        arrays = dict(zip(columns, values, strict=True))
        if epoch is None:
            arrays["image"] = augment.tta_images(arrays["image"], tta_copy, params.crop_size)
        else:
            arrays, labels = augment.change_batch(arrays, labels, params, seed=(params.seed, epoch, int(step)))
        return [labels, *arrays.values()]

    tensors = [labels, *columns.values()]
    outputs = tf.numpy_function(change, [step, *tensors], [tensor.dtype for tensor in tensors], stateful=False)
    for output, tensor in zip(outputs, tensors, strict=True):
        output.set_shape(tensor.shape)
    return dict(zip(columns, outputs[1:], strict=True)), outputs[0]


def batch_ids(datasets: dict[str, Dataset], params: Params, *, epoch: int, step: int) -> list[str]:
    """The image ids of one training batch, for an error text."""
    import tensorflow as tf

    [batch] = serialized_batches("train", datasets, params, epoch).skip(step).take(1).as_numpy_iterator()
    parsed = tf.io.parse_example(batch[0], {"image/id": tf.io.FixedLenFeature([], tf.string)})
    return [image_id.decode() for image_id in parsed["image/id"].numpy()]
