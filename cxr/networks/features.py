"""A frozen extractor is run over each image once; its features are a dataset of their own, beside the images.

data/records/features/<name>-<key>/ holds shards, a manifest and a dataset.json of kind "features". The key covers all
that changes the numbers, so that other weights or another precision never meet an old cache.
"""

import functools
import hashlib
import json

from etils import epath
from tqdm import tqdm

from cxr import storage
from cxr.engines import mapping
from cxr.engines.engine import LOCAL, Engine
from cxr.networks import runtime
from cxr.networks.extraction import BATCH, FeatureJob, Settings, prepared, write_features
from cxr.networks.extractors import Extractor, extractor_names
from cxr.params import Params
from cxr.records import building
from cxr.records.dataset import FILE, Dataset, open_dataset
from cxr.records.splits import SPLITS


def feature_datasets(
    params: Params,
    images: Dataset,
    *,
    runtime_name: str | None = None,
    engine: Engine = LOCAL,
    copy: int = 0,
) -> dict[str, Dataset]:
    """The features of every extractor of an experiment, by its name; see `cached_features`."""
    return {
        name: cached_features(images, spec, params, runtime_name=runtime_name, engine=engine, copy=copy)
        for name, spec in extractor_names(params.extractors).items()
    }


def cached_features(
    images: Dataset,
    spec: dict,
    params: Params,
    *,
    runtime_name: str | None = None,
    engine: Engine = LOCAL,
    copy: int = 0,
) -> Dataset:
    """The features of a dataset of images: opened when they are there, completed or made when not.

    Args:
        params: of the experiment whose extractor `spec` is.
        runtime_name: that of the run whose features they are; default the one that fits this machine.
        engine: where they are made; local is this process, as the network uses every core.
        copy: number of an augmented copy of the training images; the other splits have none. 0 is the images.

    Raises:
        ValueError: features that are not finite, by image; a cache that does not match its name.
        and whatever loading the extractor raises.
    """
    runtime_name = runtime_name or runtime.runtime_of(params.precision)
    device = "CPU" if runtime_name == "onednn" else runtime.device_kind()
    settings = Settings(json.dumps(spec, sort_keys=True), params, images.info["image_size"], runtime_name, device)
    extractor = settings.load()
    inputs, key = provenance_of(images, extractor, settings, copy)
    output = images.folder / "features" / f"{extractor.name}-{key[:12]}"
    if (finished := open_finished(output, key)) is not None:
        return finished
    wanted = ("train",) if copy else SPLITS
    jobs = [
        FeatureJob(str(path), str(output / path.name), split, images.info, settings, extractor.sha256, copy, place)
        for split in wanted
        for place, path in enumerate(map(epath.Path, images.paths(split)))
    ]
    total = sum(images.images(split) for split in wanted)
    if engine.name == "local":
        prepared.keep(settings, extractor)
    return extract(jobs, output, inputs, key, total=total, engine=engine)


def provenance_of(images: Dataset, extractor: Extractor, settings: Settings, copy: int) -> tuple[dict, str]:
    """What dataset.json of the features says of their origin, and the hash of all in it that changes the numbers."""
    params = settings.params
    # Keys are absent, not null, where they do not apply.
    options = {"crop_size": params.crop_size} if params.crop_size else {}
    options |= {"device": settings.device} if settings.device != "CPU" else {}
    if copy:
        names = ("augmentation", "horizontal_flip", "crop_size", "seed")
        options["copy"] = {"number": copy, "batch": BATCH, **{name: getattr(params, name) for name in names}}
    identity = {
        "extractor": {**extractor.spec, "name": extractor.name, "sha256": extractor.sha256},
        "normalization": params.normalization,
        "precision": params.precision,
        "runtime": settings.runtime,
        "images_fingerprint": images.info["fingerprint"],
        **options,
    }
    kept = {key: images.info[key] for key in ("image_size", "split", "source", "missing", "unlisted")}
    inputs = {"kind": "features", "dimension": extractor.dimension, **identity, **kept}
    return inputs, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def open_finished(output: epath.Path, key: str) -> Dataset | None:
    """A complete cache with this key, without writing or locking anything; None where it is not complete."""
    if not (output / FILE).exists() or (building.plan_of(output) or {}).get("digest") != key:
        return None
    try:
        return open_dataset(output)
    except ValueError:  # a shard is absent or cut short: it will be made again
        return None


def extract(
    jobs: list[FeatureJob], output: epath.Path, inputs: dict, key: str, *, total: int, engine: Engine
) -> Dataset:
    """Write the feature shards that are not there yet, under a progress bar, and then dataset.json."""
    output.mkdir(parents=True, exist_ok=True)
    with storage.exclusive(output, "extracting features into"):
        state = building.Building(output, inputs, key)
        done, waiting = state.finished(jobs)
        if waiting:
            name = inputs["extractor"]["name"]
            elsewhere = engine.name != "local"
            run = functools.partial(mapping.run, engine=engine, accelerated=True) if elsewhere else map
            with tqdm(total=total, initial=sum(r.images for r in done), unit=" images", desc=name) as bar:
                for report in run(write_features, waiting):
                    state.keep(report)
                    done.append(report)
                    bar.update(report.images)
        return Dataset(output, state.finish(done, max_rejected=0))
