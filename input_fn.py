"""Shards -> batches: the tf.data pipeline of every model."""

import functools
import os
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from cxr.engines.engine import default_workers
from cxr.findings import FINDINGS
from cxr.networks import augment
from cxr.params import Params
from cxr.records import parsing
from cxr.records.dataset import Dataset

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 4096  # serialized records, not pixels: about 100 MB as PNG of 224 px, where float RGB would be 2.5 GB
OPEN_SHARDS = 8  # read in turn in training, at the same time; TensorFlow reads ahead in the next 16 too
READ_AHEAD = 1 << 20  # bytes a shard
EVALUATION_AHEAD = 32 << 20  # bytes a shard, of three: about what the shuffle buffer of training holds
# TensorFlow's gs:// client takes 64 MiB for every open file, 1.8 GB for the 24 of training; read when TensorFlow loads.
os.environ.setdefault("GCS_READ_CACHE_BLOCK_SIZE_MB", "4")
PREFETCHED = 4  # batches that wait for the model
REPEATED_TOGETHER = 256  # records whose labels are looked at in one call for balanced sampling


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
        epoch: which training epoch; each is another order and other augmentation, and the same ones for the same
            (seed, epoch). None reads in dataset order, every image once, the last batch as short as it comes: that is
            evaluation.
        inputs: the names that the model takes; default all.
        tta_copy: in evaluation, which copy of test-time augmentation: see `augment.tta_images`; 0 is the image itself.

    Returns:
        Dataset of ({"image": uint8 [B, H, W, 1] or <extractor>: float32 [B, D], "age": float32 [B], "sex": int64 [B],
        "view_position": int64 [B]}, labels float32 [B, 14]), of the inputs only those asked for. Training batches are all of
        batch_size.
    """

    def parse(*serialized: "tf.Tensor") -> tuple[dict, "tf.Tensor"]:
        found = {}
        for (name, dataset), batch in zip(datasets.items(), serialized, strict=True):
            columns, labels = parsing.parse_batch(batch, dataset.info)
            found |= {name if key in ("image", "features") else key: column for key, column in columns.items()}
        return {name: found[name] for name in (found if inputs is None else inputs)}, labels

    cores = default_workers()
    batches = serialized_batches(split, datasets, params, epoch).map(parse, num_parallel_calls=cores)
    changes = augment.changes_batches(params, has_images="image" in datasets)
    if changes if epoch is not None else tta_copy:
        change = functools.partial(changed, params=params, epoch=epoch, tta_copy=tta_copy)
        batches = batches.enumerate().map(change, num_parallel_calls=cores)
    return parsing.without_autotuner(batches.prefetch(PREFETCHED))


def serialized_batches(
    split: str, datasets: dict[str, Dataset], params: Params, epoch: int | None
) -> "tf.data.Dataset":
    """Batches of records: a string tensor [B] of each dataset; the arguments are those of `input_fn`."""
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

    images, size = next(iter(datasets.values())).images(split), params.batch_size
    if epoch is None:
        steps = -(-images // size)
        # One shard at a time, so the block does not change the order. TensorFlow buffers two blocks of this shard and
        # of the next two.
        block = max(1, EVALUATION_AHEAD // 2 // bytes_a_record(split, datasets))
        records_of = paths.interleave(
            read, cycle_length=1, block_length=block, num_parallel_calls=1, deterministic=True
        )
    else:
        steps, seed = images // size, (params.seed << 16) + epoch
        paths = paths.shuffle(len(shards), seed=seed, reshuffle_each_iteration=False)
        # Balanced, a pass has about as many records as there are, or a few less: then the next pass fills up.
        records_of = (paths.repeat() if params.balanced_sampling else paths).interleave(
            read, OPEN_SHARDS, block_length=16, num_parallel_calls=OPEN_SHARDS, deterministic=True
        )
        if params.balanced_sampling:
            records_of = balanced(records_of, tuple(row[0] for row in shards), seed)
        records_of = records_of.shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)
    # Batched before parsing: one call for 32 records costs little more than for one.
    batches = records_of.batch(size, drop_remainder=epoch is not None)
    if epoch is not None and params.balanced_sampling:
        batches = batches.take(steps)
    return batches.apply(tf.data.experimental.assert_cardinality(steps))


def bytes_a_record(split: str, datasets: dict[str, Dataset]) -> int:
    """What the records of an image take in all datasets together, on average; 1 or more."""
    size = sum(shard["bytes"] for dataset in datasets.values() for shard in dataset.info["splits"][split]["shards"])
    return max(1, size // max(1, next(iter(datasets.values())).images(split)))


def changed(step: "tf.Tensor", batch: tuple, *, params: Params, epoch: int | None, tta_copy: int) -> tuple:
    """A batch as `augment` changes it: in training by (seed, epoch, step), in evaluation to a copy of test-time augmentation."""
    import tensorflow as tf

    columns, labels = batch

    def change(step: np.ndarray, labels: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
        given = dict(zip(columns, values, strict=True))
        if epoch is None:
            given["image"] = augment.tta_images(given["image"], tta_copy, params.crop_size)
        else:
            given, labels = augment.change_batch(given, labels, params, seed=(params.seed, epoch, int(step)))
        return [labels, *given.values()]

    tensors = [labels, *columns.values()]
    outputs = tf.numpy_function(change, [step, *tensors], [tensor.dtype for tensor in tensors], stateful=False)
    for output, tensor in zip(outputs, tensors, strict=True):
        output.set_shape(tensor.shape)
    return dict(zip(columns, outputs[1:], strict=True)), outputs[0]


def balanced(records_of: "tf.data.Dataset", paths: tuple[str, ...], seed: int) -> "tf.data.Dataset":
    """Records repeated or left out so that those of rare findings come more often, at random by seed and place.

    An image comes as often as `sampling_roots` says over the mean of all, so that a pass stays about as long: the whole
    part of that always, the rest by chance.
    """
    import tensorflow as tf

    roots, mean = sampling_of(paths)

    def repeat(place: "tf.Tensor", serialized: tuple) -> tuple:
        wanted = tf.reduce_max(labels_of(serialized[0]) * (roots - 1), axis=1) / mean + 1 / mean
        chance = tf.random.stateless_uniform(tf.shape(wanted), [seed, place])
        times = tf.cast(tf.floor(wanted + chance), tf.int32)
        return tuple(tf.repeat(batch, times) for batch in serialized)

    batches = records_of.batch(REPEATED_TOGETHER).enumerate()
    return batches.map(repeat).unbatch()


@functools.lru_cache(maxsize=4)  # the shards of one training set; of its features too
def sampling_of(paths: tuple[str, ...]) -> tuple[np.ndarray, float]:
    """What `sampling_roots` says of the labels in some shards, and the mean of the images' weights."""
    import tensorflow as tf

    batches = parsing.without_autotuner(tf.data.TFRecordDataset(list(paths)).batch(1024).map(labels_of))
    labels = np.concatenate(list(batches.as_numpy_iterator()))
    roots = sampling_roots(labels.mean(axis=0))
    return roots, float((labels * (roots - 1)).max(axis=1).mean() + 1)


def sampling_roots(shares: np.ndarray) -> np.ndarray:
    """How often an image of each finding comes beside one of no finding: sqrt(1 / share of the images).

    The repeat factor of Gupta et al. 2019 (LVIS, section 4.3) with threshold 1; an image of several findings follows
    the rarest. A finding that no image has counts as 1: nothing is there to be repeated.
    """
    return (1 / np.sqrt(np.where(shares > 0, shares, 1))).astype(np.float32)


def labels_of(serialized: "tf.Tensor") -> "tf.Tensor":
    """The labels float32 [B, 14] of records [B]."""
    import tensorflow as tf

    schema = {"labels": tf.io.FixedLenFeature([len(FINDINGS)], tf.int64)}
    return tf.cast(tf.io.parse_example(serialized, schema)["labels"], tf.float32)


def batch_ids(datasets: dict[str, Dataset], params: Params, *, epoch: int, step: int) -> list[str]:
    """The image ids of one training batch, to name it in an error."""
    import tensorflow as tf

    [batch] = serialized_batches("train", datasets, params, epoch).skip(step).take(1).as_numpy_iterator()
    parsed = tf.io.parse_example(batch[0], {"image/id": tf.io.FixedLenFeature([], tf.string)})
    return [image_id.decode() for image_id in parsed["image/id"].numpy()]
