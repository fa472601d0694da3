"""Feature extraction, shard by shard: jobs that any process or machine can run."""

import dataclasses
import json
from typing import NamedTuple

import numpy as np

from cxr import storage
from cxr.networks import assembly, devices, ranges, runtime
from cxr.networks.extractors import Extractor
from cxr.params import Params
from cxr.records import example, parsing, shards
from cxr.specs import extractor_name

BATCH = 64  # images per step; larger batches are not faster, smaller ones a little slower


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the features of an image."""

    spec: str  # the extractor, as JSON
    params: Params  # of the experiment; normalization, crop_size and precision are read
    record_size: int  # pixels per side
    runtime: str  # see cxr/networks/runtime.py
    device: str  # "CPU" or "GPU"; their arithmetic differs

    def load(self) -> Extractor:
        """Load the extractor."""
        devices.prepare_devices()  # memory growth: other processes may share the GPU
        spec = json.loads(self.spec)
        policy = runtime.layer_policy(self.params.precision, self.runtime)
        frozen = dataclasses.replace(self.params, fine_tune=None)
        return assembly.load_extractor(
            spec, name=extractor_name(spec), params=frozen, record_size=self.record_size, policy=policy
        )


@dataclasses.dataclass(frozen=True)
class FeatureJob:
    """One shard of images to turn into one shard of features."""

    images: str  # path of the image shard
    path: str  # path of the feature shard
    split: str
    info: dict  # dataset.json of the images
    settings: Settings
    sha256: str  # of the extractor's weights


def write_features(job: FeatureJob) -> shards.ShardReport:
    """Run the extractor over one shard of images and write the features as float16, in the same order.

    Raises:
        ValueError: features are NaN or infinite, or those of the first batch are constant or saturated.
    """
    import tensorflow as tf

    run = prepared.function(job)
    words = {"name": extractor_name(json.loads(job.settings.spec)), "words": prepared.entry.fed}
    serialized = tf.data.TFRecordDataset(job.images).batch(BATCH)
    batches = serialized.map(lambda batch: parsing.parse_batch(batch, job.info)[0]["image"]).prefetch(2)
    batches = parsing.without_autotuner(batches)
    with np.errstate(over="ignore"):  # values too large for float16 become inf; the error below names the image
        vectors = []
        for images in batches:
            vectors.append(np.asarray(run(images)).astype(np.float16))  # [B, D]
            if len(vectors) == 1:
                ranges.require_live(vectors[0], np.asarray(images), **words)
        vectors = np.concatenate(vectors)  # [n, D]
    rows = [example.unpack_row(record) for record in example.read_records(job.images)]
    with storage.whole_file(job.path) as file:
        for row, vector in zip(rows, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise ValueError(f"the features of {row.image_id} are NaN or infinite. {ranges.advice(words['words'])}")
            example.write_record(file, example.pack_features(row, vector))
    return shards.report(job.path, job.split, rows, [])


class _Prepared:
    """The extractor that this process prepared last; consecutive jobs usually need the same one."""

    class Entry(NamedTuple):
        settings: Settings
        sha256: str
        function: runtime.Runtime
        fed: str  # what the network is fed, in words

    def __init__(self) -> None:
        self.entry: _Prepared.Entry | None = None

    def keep(self, settings: Settings, extractor: Extractor) -> None:
        """Prepare a loaded extractor."""
        function = runtime.prepare(extractor.model, settings.runtime, settings.params.precision)
        self.entry = self.Entry(settings, extractor.sha256, function, extractor.fed)

    def function(self, job: FeatureJob) -> runtime.Runtime:
        """The function of a job's extractor, loaded if it is not the last one.

        Raises:
            ValueError: its weights differ from those that the job was planned with.
        """
        if self.entry is None or (self.entry.settings, self.entry.sha256) != (job.settings, job.sha256):
            extractor = job.settings.load()
            if extractor.sha256 != job.sha256:
                raise ValueError(
                    f"the weights of {extractor.name} differ between the machines of this extraction, or changed while "
                    "it ran; give every machine the same files and run the same command again"
                )
            self.keep(job.settings, extractor)
        return self.entry.function


prepared = _Prepared()
