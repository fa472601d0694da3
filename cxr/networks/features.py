"""The feature cache: a frozen extractor runs over each image once, and its features are a dataset beside the images.

data/records/features/<name>-<key>/ holds shards, a manifest and a dataset.json of kind "features". The key covers
everything that changes the numbers, so that other weights or another precision never use an old cache.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

from etils import epath
from tqdm import tqdm

from cxr import identity, storage
from cxr.engines import mapping
from cxr.engines.engine import LOCAL, Engine
from cxr.networks import kept, runtime
from cxr.networks.extraction import FeatureJob, Settings, prepared, write_features
from cxr.networks.extractors import Extractor
from cxr.networks.kept import NetworkFile
from cxr.params import Params
from cxr.records import building
from cxr.records.dataset import FILE, Dataset, open_dataset
from cxr.records.splits import SPLITS
from cxr.specs import extractor_names, without


def feature_datasets(
    params: Params,
    images: Dataset,
    *,
    trained: pathlib.Path | None = None,
    engine: Engine = LOCAL,
) -> dict[str, Dataset]:
    """The features of every extractor of an experiment, by its name; see `cached_features`.

    Args:
        trained: folder of the experiment if it has been trained: its runtime and the networks that it keeps are used.
    """
    runtime_name = identity.read(trained)["runtime"] if trained else runtime.runtime_of(params)
    networks = kept.of_experiment(trained) if trained else {}
    return {
        name: cached_features(
            images, spec, params, runtime_name=runtime_name, trained=networks.get(name), engine=engine
        )
        for name, spec in extractor_names(params.extractors).items()
    }


def cached_features(
    images: Dataset,
    spec: dict,
    params: Params,
    *,
    runtime_name: str | None = None,
    trained: tuple[Extractor, NetworkFile] | None = None,
    engine: Engine = LOCAL,
) -> Dataset:
    """The features of a dataset of images; those that are not in the cache yet are extracted.

    Args:
        params: of the experiment that the extractor `spec` belongs to.
        runtime_name: runtime of the run that the features are for; default the one that suits this machine.
        trained: the extractor with the network of a trained experiment; default: one for this dataset.
        engine: where features are extracted; "local" is this process, because the network uses every core.

    Raises:
        ValueError: the features of an image are NaN or infinite, or a cache does not match its name. Loading the
            extractor raises further errors.
    """
    runtime_name = runtime_name or runtime.runtime_of(params)
    settings = settings_for(images, spec, params, runtime_name)
    if trained:
        extractor, network = trained
    else:
        extractor = settings.load()
        network = network_for(extractor, images, settings)
    settings = dataclasses.replace(settings, network=network)
    inputs, key = provenance_of(images, extractor, settings)
    output = images.folder / "features" / f"{extractor.name}-{key[:12]}"
    if (finished := open_finished(output, key)) is not None:
        return finished
    if network:  # from an experiment, which workers on other machines may not see
        network = network.copy(kept.in_cache(images, extractor.name, network.sha256).path)
        settings = dataclasses.replace(settings, network=network)
    jobs = [
        FeatureJob(str(path), str(output / path.name), split, images.info, settings, extractor.sha256, extractor.fed)
        for split in SPLITS
        for path in map(epath.Path, images.paths(split))
    ]
    total = sum(images.num_images(split) for split in SPLITS)
    if engine.name == "local" and network is None:
        prepared.keep(settings, extractor.sha256, extractor.model)
    return extract(jobs, output, inputs, key, total=total, engine=engine)


def settings_for(images: Dataset, spec: dict, params: Params, runtime_name: str) -> Settings:
    """The settings of an extraction, without its network."""
    device = "CPU" if runtime_name == "openvino" else runtime.device_kind()
    return Settings(json.dumps(spec, sort_keys=True), params, images.info["image_size"], runtime_name, device)


def network_for(extractor: Extractor, images: Dataset, settings: Settings) -> NetworkFile | None:
    """The file of an extractor's network for these images; None in the runtime "keras"."""
    if settings.runtime != "openvino":
        return None
    params = settings.params
    options = {"precision": params.precision, "normalization": params.normalization, "crop_size": params.crop_size}
    return kept.prepared(extractor, images, options)


def provenance_of(images: Dataset, extractor: Extractor, settings: Settings) -> tuple[dict, str]:
    """The provenance in dataset.json of the features, and the hash of every part of it that changes the numbers."""
    params = settings.params
    # A key that does not apply is absent, not null.
    options = {"crop_size": params.crop_size} if params.crop_size else {}
    options |= {"device": settings.device} if settings.device != "CPU" else {}
    options |= {"network_sha256": settings.network.sha256} if settings.network else {}
    identity = {
        "extractor": {**without(extractor.spec, ["seen"]), "name": extractor.name, "sha256": extractor.sha256},
        "normalization": params.normalization,
        "precision": params.precision,
        "runtime": settings.runtime,
        "images_fingerprint": images.info["fingerprint"],
        **options,
    }
    kept = {key: images.info[key] for key in ("image_size", "split", "source", "missing", "unlisted")}
    inputs = {"kind": "features", "dimension": extractor.dimension, "fed": extractor.fed, **identity, **kept}
    return inputs, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def open_finished(output: epath.Path, key: str) -> Dataset | None:
    """A complete cache with this key, without writing or locking anything; None if it is incomplete."""
    if not (output / FILE).exists() or (building.plan_of(output) or {}).get("digest") != key:
        return None
    try:
        return open_dataset(output)
    except ValueError:  # a shard is missing or truncated: it will be extracted again
        return None


def extract(
    jobs: list[FeatureJob], output: epath.Path, inputs: dict, key: str, *, total: int, engine: Engine
) -> Dataset:
    """Write the missing feature shards under a progress bar, and then dataset.json."""
    output.mkdir(parents=True, exist_ok=True)
    with storage.exclusive(output, "extracting features into"):
        state = building.Building(output, inputs, key)
        done, waiting = state.finished(jobs)
        if waiting:
            name = inputs["extractor"]["name"]
            is_local = engine.name == "local"
            run = map if is_local else functools.partial(mapping.run, engine=engine, accelerated=True)
            with tqdm(total=total, initial=sum(r.images for r in done), unit=" images", desc=name) as bar:
                write = functools.partial(write_features, on_images=bar.update) if is_local else write_features
                for report in run(write, waiting):
                    state.keep(report)
                    done.append(report)
                    bar.update(0 if is_local else report.images)
        return Dataset(output, state.finish(done, max_rejected=0))
