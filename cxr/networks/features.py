"""A frozen extractor is run over each image once; its features are a dataset of their own, beside the images.

data/records/features/<name>-<key>/ holds shards, a manifest and a dataset.json of kind "features". The key covers all
that changes the numbers, so that other weights or another precision never meet an old cache.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils import epath
from tqdm import tqdm

from cxr import storage
from cxr.data import engines, records, shards
from cxr.data.building import Building
from cxr.data.dataset import Dataset
from cxr.data.splits import SPLITS
from cxr.networks import augment
from cxr.networks.extractors import Extractor, load_extractor
from cxr.networks.geometry import centre_crop, crop_start
from cxr.networks.precision import layers_in
from cxr.params import Params

if TYPE_CHECKING:
    import keras

BATCH = 64  # images a step: larger ones are no faster, smaller ones a little slower


class View(NamedTuple):
    """One augmented copy of the training images."""

    number: int  # from 1
    params: Params

    def identity(self) -> dict:
        """All that decides what the copy looks like."""
        names = ("augmentation", "horizontal_flip", "crop_size", "seed")
        return {"number": self.number, "batch": BATCH, **{name: getattr(self.params, name) for name in names}}


@dataclasses.dataclass(frozen=True)
class FeatureJob:
    """One shard of images to turn into one shard of features."""

    images: str  # path of the image shard
    path: str  # where the features go
    split: str
    info: dict  # dataset.json of the images
    settings: "Settings"
    view: View | None = None  # None: the images as they are
    place: int = 0  # of the shard among those of its split


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the features of an image."""

    spec: str  # of the extractor, as JSON
    record_size: int
    normalization: str
    precision: str  # "float32", "bfloat16" or "mixed_float16"
    trained_features: Callable[[pathlib.Path], "keras.Model"]  # for extractors of source "experiment"
    crop_size: int | None = None  # pixels a side at the centre of a record; None is all of it


def cached_features(
    images: Dataset,
    spec: dict,
    *,
    normalization: str,
    precision: str,
    trained_features: Callable[[pathlib.Path], "keras.Model"],
    engine: engines.Engine = engines.LOCAL,
    crop_size: int | None = None,
    view: View | None = None,
) -> Dataset:
    """The features of a dataset of images: found when they are there, finished or made when not.

    Args:
        engine: where they are made; local is this process, as the network uses every core.
        crop_size: pixels a side at the centre of a record that the extractor sees; None is all of it.
        view: an augmented copy of the training images; of the other splits there is none.

    Raises:
        ValueError: features that are not finite, by image; a cache that does not match its name.
        and whatever loading the extractor raises.
    """
    if engine.name != "local":
        # The other process of this machine that uses its GPU needs memory too; TensorFlow would take all of it here.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    size = images.info["image_size"]
    crop_start(size, crop_size or size)
    settings = Settings(json.dumps(spec, sort_keys=True), size, normalization, precision, trained_features, crop_size)
    extractor = loaded_extractor(settings)
    inputs, key = provenance_of(images, extractor, settings, view)
    output = images.folder / "features" / f"{extractor.name}-{key[:12]}"
    wanted = ("train",) if view else SPLITS
    jobs = [
        FeatureJob(str(path), str(output / path.name), split, images.info, settings, view, place)
        for split in wanted
        for place, path in enumerate(map(epath.Path, images.paths(split)))
    ]
    total = sum(images.images(split) for split in wanted)
    return extract(jobs, output, inputs, key, total=total, engine=engine)


def provenance_of(images: Dataset, extractor: Extractor, settings: Settings, view: View | None) -> tuple[dict, str]:
    """What dataset.json of the features says of their origin, and the hash of all in it that changes the numbers."""
    # Absent, not null, where there is none: the keys of caches made before there were crops and views stay good.
    changes = {"crop_size": settings.crop_size} if settings.crop_size else {}
    changes |= {"view": view.identity()} if view else {}
    identity = {
        "extractor": {**extractor.spec, "name": extractor.name, "sha256": extractor.sha256},
        "normalization": settings.normalization,
        "precision": settings.precision,
        "images_fingerprint": images.info["fingerprint"],
        **changes,
    }
    kept = {key: images.info[key] for key in ("image_size", "split", "source", "missing", "unlisted")}
    inputs = {"kind": "features", "dimension": extractor.dimension, **identity, **kept}
    return inputs, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def extract(
    jobs: list[FeatureJob], output: epath.Path, inputs: dict, key: str, *, total: int, engine: engines.Engine
) -> Dataset:
    """Write the feature shards that are not there yet, under a progress bar, and then dataset.json."""
    output.mkdir(parents=True, exist_ok=True)
    with storage.exclusive(output, "extracting features into"):
        building = Building(output, inputs, key)
        done, waiting = building.finished(jobs)
        if waiting:
            name = inputs["extractor"]["name"]
            elsewhere = engine.name != "local"
            run = functools.partial(engines.run, engine=engine, accelerated=True) if elsewhere else map
            with tqdm(total=total, initial=sum(r.images for r in done), unit=" images", desc=name) as bar:
                for report in run(write_features, waiting):
                    building.keep(report)
                    done.append(report)
                    bar.update(report.images)
        return Dataset(output, building.finish(done, max_rejected=0))


def write_features(job: FeatureJob) -> shards.ShardReport:
    """Run the extractor over one shard of images and write its features as float16, in the same order."""
    import tensorflow as tf

    run = frozen_function(job.settings)
    serialized = tf.data.TFRecordDataset(job.images).batch(BATCH)
    batches = serialized.map(lambda batch: records.parse_batch(batch, job.info)[0]["image"]).prefetch(2)
    batches = records.without_autotuner(batches)
    with np.errstate(over="ignore"):  # what does not fit becomes inf, and is named below
        vectors = [np.asarray(run(seen(images, job, step))) for step, images in enumerate(batches)]
        vectors = np.concatenate(vectors).astype(np.float16)  # [n, D]
    rows = [records.unpack_row(record) for record in records.read_records(job.images)]
    with storage.whole_file(job.path) as file:
        for row, vector in zip(rows, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise ValueError(
                    f"the features of {row.image_id} are not finite; the extractor's weights or input range are wrong"
                )
            records.write_record(file, records.pack_features(row, vector))
    return shards.report(job.path, job.split, rows, [])


def seen(images, job: FeatureJob, step: int):
    """A batch of a shard as a job is to see it: as it is, or changed by (seed, view, shard, step)."""
    if job.view is None:
        return images
    import tensorflow as tf

    params = job.view.params
    random = np.random.default_rng((params.seed, job.view.number, job.place, step))
    return tf.constant(augment.augment(images.numpy(), params, random))


@functools.lru_cache(maxsize=1)
def loaded_extractor(settings: Settings) -> Extractor:
    """The extractor of some settings, loaded once in a process.

    Half precision is the layers' own, but for bfloat16 on a CPU: there oneDNN does it faster, see frozen_function.
    """
    import tensorflow as tf

    by_onednn = settings.precision == "bfloat16" and not tf.config.list_physical_devices("GPU")
    with layers_in("float32" if by_onednn else settings.precision):
        return load_extractor(
            json.loads(settings.spec),
            record_size=settings.crop_size or settings.record_size,
            normalization=settings.normalization,
            trained_features=settings.trained_features,
        )


@functools.lru_cache(maxsize=1)
def frozen_function(settings: Settings) -> Callable:
    """An extractor's network as one frozen graph: uint8 [B, H, W, 1] -> float32 [B, D].

    With its weights as constants TensorFlow folds the batch norms into the convolutions and keeps oneDNN's own layout
    of the weights. bfloat16 lets oneDNN compute in it where the CPU can; a GPU uses its tensor cores.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    model, size = loaded_extractor(settings).model, settings.record_size
    image = tf.TensorSpec([None, size, size, 1], tf.uint8)
    traced = tf.function(lambda image: model({"image": centre_crop(image, settings.crop_size)}, training=False))
    traced = traced.get_concrete_function(image)
    frozen = convert_variables_to_constants_v2(traced)
    bfloat16 = settings.precision == "bfloat16"

    def run(images):
        # The option is the process's, so it is set for this call alone: a head trained here stays float32.
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": bfloat16})
        try:
            outputs = frozen(images)
        finally:
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": False})
        return outputs[0] if isinstance(outputs, list | tuple) else outputs

    return run
