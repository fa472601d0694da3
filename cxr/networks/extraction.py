"""Feature extraction, shard by shard: jobs that any process or machine can run."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxr import storage
from cxr.networks import assembly, devices, ranges, runtime
from cxr.networks.extractors import Extractor
from cxr.networks.kept import NetworkFile
from cxr.params import Params
from cxr.records import example, parsing, shards
from cxr.specs import extractor_name

if TYPE_CHECKING:
    import keras
    import openvino

BATCH = 64  # images per step in the runtime "keras"; larger batches are not faster, smaller ones a little slower


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the features of an image."""

    spec: str  # the extractor, as JSON
    params: Params  # of the experiment; normalization, crop_size and precision are read
    record_size: int  # pixels per side
    runtime: str  # see cxr/networks/runtime.py
    device: str  # "CPU" or "GPU"; their arithmetic differs
    network: NetworkFile | None = None  # in the runtime "openvino", where every machine of a cluster can read it

    def load(self) -> Extractor:
        """Load the extractor with its original network."""
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
    fed: str  # what its network is fed, in words


def write_features(job: FeatureJob, on_images: Callable[[int], None] = lambda _: None) -> shards.ShardReport:
    """Run the extractor over one shard of images and write the features as float16, in the same order.

    Args:
        on_images: called with the number of images that have been taken since its last call.

    Raises:
        ValueError: features are NaN or infinite, or those of the first batch are constant or saturated.
    """
    import tensorflow as tf

    run = prepared.function(job)
    serialized = tf.data.TFRecordDataset(job.images).batch(BATCH)
    batches = serialized.map(lambda batch: parsing.parse_batch(batch, job.info)[0]["image"]).prefetch(2)
    batches = parsing.without_autotuner(batches)
    with np.errstate(over="ignore"):  # values too large for float16 become inf; the error below names the image
        vectors = checked(run, batches.as_numpy_iterator(), job, on_images).astype(np.float16)  # [n, D]
    rows = [example.unpack_row(record) for record in example.read_records(job.images)]
    with storage.whole_file(job.path) as file:
        for row, vector in zip(rows, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise ValueError(f"the features of {row.image_id} are NaN or infinite. {ranges.advice(job.fed)}")
            example.write_record(file, example.pack_features(row, vector))
    return shards.report(job.path, job.split, rows, [])


def checked(
    run: runtime.Runtime, batches: Iterator[np.ndarray], job: FeatureJob, on_images: Callable[[int], None]
) -> np.ndarray:
    """Features [n, D] of all batches; ValueError after the first one if they are constant or saturated there."""
    images = next(batches)
    first = run(images)
    on_images(len(images))
    ranges.require_live(first, images, name=extractor_name(json.loads(job.settings.spec)), words=job.fed)
    second = next(batches, None)
    if second is None:
        return first
    return np.concatenate([first, run.stream(itertools.chain([second], batches), on_images)])


class _Prepared:
    """The extractor that this process prepared last; consecutive jobs usually need the same one."""

    class Entry(NamedTuple):
        settings: Settings
        sha256: str
        function: runtime.Runtime

    def __init__(self) -> None:
        self.entry: _Prepared.Entry | None = None

    def keep(self, settings: Settings, sha256: str, model: "keras.Model | openvino.Model") -> None:
        """Prepare the network of an extractor whose original weights have this hash."""
        function = runtime.prepare(model, settings.runtime, settings.params.precision)
        self.entry = self.Entry(settings, sha256, function)

    def function(self, job: FeatureJob) -> runtime.Runtime:
        """The function of a job's extractor, loaded if it is not the last one.

        Raises:
            ValueError: its weights, or the files of its network, differ from those that the job was planned with.
        """
        if self.entry is None or (self.entry.settings, self.entry.sha256) != (job.settings, job.sha256):
            self.keep(job.settings, job.sha256, network_of(job))
        return self.entry.function


def network_of(job: FeatureJob) -> "keras.Model | openvino.Model":
    """Load the network of a job; raises like `_Prepared.function`."""
    if job.settings.network:
        return job.settings.network.read()
    extractor = job.settings.load()
    if extractor.sha256 != job.sha256:
        raise ValueError(
            f"the weights of {extractor.name} differ between the machines of this extraction, or changed while it ran; "
            "give every machine the same files and run the same command again"
        )
    return extractor.model


prepared = _Prepared()
