"""Shards -> batches: the tf.data pipeline of every model."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from etils import epath

from cxr.data import records
from cxr.data.dataset import shard_paths
from cxr.params import Params

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 4096  # serialized records, not pixels: about 100 MB as PNG of 224 px, where float RGB would be 2.5 GB
OPEN_SHARDS = 8  # read side by side in training


def input_fn(
    split: str,
    data_dir: epath.PathLike,
    params: Params,
    *,
    info: dict,
    epoch: int | None = None,
    inputs: Collection[str] = ("image", "age", "sex", "view"),
) -> "tf.data.Dataset":
    """Batches of one split.

    Args:
        info: the dataset's dataset.json.
        epoch: which training epoch; each is another order, and the same one for the same (seed, epoch). None reads in
            dataset order, every image once, the last batch as short as it comes: that is evaluation.
        inputs: the names that the model takes.

    Returns:
        Dataset of ({"image": uint8 [B, H, W, 1], "age": float32 [B], "sex": int64 [B], "view": int64 [B]},
        labels float32 [B, 14]), of the inputs only those asked for. Training batches are all of batch_size.
    """
    import tensorflow as tf

    paths = [str(path) for path in shard_paths(data_dir, info, split)]
    if epoch is None:
        dataset = tf.data.TFRecordDataset(paths, buffer_size=1 << 20)
    else:
        seed = (params.seed << 16) + epoch
        dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=seed)
        dataset = dataset.interleave(
            lambda path: tf.data.TFRecordDataset(path, buffer_size=1 << 20), cycle_length=OPEN_SHARDS, block_length=16
        )
        dataset = dataset.shuffle(SHUFFLE_BUFFER, seed=seed)

    def parse(serialized: "tf.Tensor") -> tuple[dict, "tf.Tensor"]:
        found, labels = records.parse_batch(serialized, info)
        return {name: found[name] for name in inputs}, labels

    images, size = info["splits"][split]["images"], params.batch_size
    steps = -(-images // size) if epoch is None else images // size
    # Batched before parsing: one call for 32 records costs little more than for one.
    dataset = dataset.batch(size, drop_remainder=epoch is not None).apply(
        tf.data.experimental.assert_cardinality(steps)
    )
    return dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
