"""Shards -> batches: the tf.data pipeline of every model."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from cxr.data import records
from cxr.data.dataset import Dataset
from cxr.params import Params

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 4096  # serialized records, not pixels: about 100 MB as PNG of 224 px, where float RGB would be 2.5 GB
OPEN_SHARDS = 8  # read side by side in training
READ_AHEAD = 1 << 20  # bytes a shard


def input_fn(
    split: str,
    datasets: dict[str, Dataset],
    params: Params,
    *,
    epoch: int | None = None,
    inputs: Collection[str] | None = None,
) -> "tf.data.Dataset":
    """Batches of one split.

    Args:
        datasets: by the name of the model's input: {"image": a dataset of images}, or for each extractor the dataset
            of its features. They hold the same images in the same order.
        epoch: which training epoch; each is another order, and the same one for the same (seed, epoch). None reads in
            dataset order, every image once, the last batch as short as it comes: that is evaluation.
        inputs: the names that the model takes; default all.

    Returns:
        Dataset of ({"image": uint8 [B, H, W, 1] or <extractor>: float32 [B, D], "age": float32 [B], "sex": int64 [B],
        "view": int64 [B]}, labels float32 [B, 14]), of the inputs only those asked for. Training batches are all of
        batch_size.
    """
    import tensorflow as tf

    shards = list(zip(*(dataset.paths(split) for dataset in datasets.values()), strict=True))  # [shard][dataset]
    paths = (
        tf.data.Dataset.from_tensor_slices(shards)
        if shards
        else tf.data.Dataset.from_tensors([""] * len(datasets)).take(0)
    )
    seed = None if epoch is None else (params.seed << 16) + epoch
    if seed is not None:
        paths = paths.shuffle(len(shards), seed=seed, reshuffle_each_iteration=False)

    def read(row: "tf.Tensor") -> "tf.data.Dataset":
        files = [tf.data.TFRecordDataset(row[place], buffer_size=READ_AHEAD) for place in range(len(datasets))]
        return tf.data.Dataset.zip(tuple(files))

    records_of = paths.flat_map(read) if seed is None else paths.interleave(read, OPEN_SHARDS, block_length=16)
    if seed is not None:
        records_of = records_of.shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)

    def parse(*serialized: "tf.Tensor") -> tuple[dict, "tf.Tensor"]:
        found = {}
        for (name, dataset), batch in zip(datasets.items(), serialized, strict=True):
            columns, labels = records.parse_batch(batch, dataset.info)
            found |= {name if key in ("image", "features") else key: column for key, column in columns.items()}
        return {name: found[name] for name in (found if inputs is None else inputs)}, labels

    images, size = next(iter(datasets.values())).images(split), params.batch_size
    steps = -(-images // size) if seed is None else images // size
    # Batched before parsing: one call for 32 records costs little more than for one.
    batches = records_of.batch(size, drop_remainder=seed is not None)
    batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
    return batches.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
