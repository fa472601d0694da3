"""Whole models: extractors under a head, from the pixels of a record to logits; their weights, and what feeds them."""

import pathlib
from typing import TYPE_CHECKING

from cxr import experiment
from cxr.data import engines
from cxr.data.dataset import Dataset
from cxr.networks import patient
from cxr.networks.extractors import Extractor, extractor_names, load_extractor
from cxr.networks.geometry import centre_crop
from cxr.networks.precision import layers_in
from cxr.params import Params, load_params
from model_fn import model_fn

if TYPE_CHECKING:
    import keras


def load_extractors(params: Params, info: dict) -> dict[str, Extractor]:
    """The extractors of an experiment by name, for records of the dataset's image size; frozen but to fine-tune."""
    size = info["image_size"]
    with layers_in(params.precision if params.fine_tune else "float32"):
        extractors = {
            name: load_extractor(
                spec,
                name=name,
                record_size=params.crop_size or size,
                normalization=params.normalization,
                trained_features=trained_features,
                fine_tune=params.fine_tune,
            )
            for name, spec in extractor_names(params.extractors).items()
        }
    if params.crop_size is None:
        return extractors
    return {name: of_centre(extractor, size, params.crop_size) for name, extractor in extractors.items()}


def of_centre(extractor: Extractor, record_size: int, crop_size: int) -> Extractor:
    """An extractor of the centre crop of larger records."""
    import keras

    image = keras.Input((record_size, record_size, 1), dtype="uint8", name="image")
    features = extractor.model({"image": centre_crop(image, crop_size)})
    return extractor._replace(model=keras.Model({"image": image}, features, name=extractor.model.name))


def assemble(head: "keras.Model", extractors: dict[str, Extractor]) -> "keras.Model":
    """Put extractors under a head trained on their features: one model from images (and the patient) to logits."""
    import keras

    image = next(iter(extractors.values())).model.input["image"]
    image = keras.Input(image.shape[1:], dtype="uint8", name="image")
    features = {name: extractor.model({"image": image}) for name, extractor in extractors.items()}
    told = patient.patient_inputs() if set(head.input) - set(extractors) else {}
    return keras.Model({"image": image} | told, head(features | told), name="assembled")


def untrained_model(params: Params, info: dict) -> "keras.Model":
    """The whole model of an experiment, from images to logits, head untrained."""
    if not params.extractors:
        return model_fn(params, info)
    extractors = load_extractors(params, info)
    head = model_fn(params, info, {name: extractor.dimension for name, extractor in extractors.items()})
    return assemble(head, extractors)


def trained_model(model_dir: pathlib.Path, checkpoint: str = "best") -> "keras.Model":
    """Rebuild a trained experiment, from images to logits, whatever it was trained on.

    With params.metadata it also takes "age", "sex" and "view", -1 where unknown; `patient.image_only` asks for none.

    Raises:
        FileNotFoundError: the experiment has not been trained.
        ValueError: its weights do not fit its params.json, or its findings are others.
    """
    params, info = load_params(model_dir), experiment.dataset_of(model_dir)
    model = untrained_model(params, info)
    if not params.extractors or params.fine_tune:
        experiment.load_weights(model, model_dir, checkpoint)
    else:  # the weights are the head's alone: frozen networks come from their own source
        experiment.load_weights(model.get_layer(params.model), model_dir, checkpoint)
    return model


def trained_features(model_dir: pathlib.Path) -> "keras.Model":
    """A trained experiment from images to what it feeds its logits: an extractor for other experiments.

    If it is told of the patient, then here of nobody.
    """
    return patient.image_only(penultimate_of(trained_model(model_dir), load_params(model_dir)))


def penultimate_of(model: "keras.Model", params: Params) -> "keras.Model":
    """A model, as `model_fn` or `assemble` makes it, up to what its logits layer is fed with."""
    import keras

    head = model if model.name == params.model else model.get_layer(params.model)
    penultimate = keras.Model(head.input, head.get_layer("logits").input, name="penultimate")
    if head is model:
        return penultimate
    image, told = {"image": model.input["image"]}, {k: v for k, v in model.input.items() if k != "image"}
    features = {name: model.get_layer(f"{name}_extractor")(image) for name in head.input if name not in told}
    return keras.Model(model.input, penultimate(features | told))


def training_datasets(
    params: Params, images: Dataset, *, whole: bool = False, engine: engines.Engine = engines.LOCAL
) -> dict[str, Dataset]:
    """What an experiment is trained and evaluated on, by input name: the images, or their features by its extractors.

    Features that nobody has extracted yet are extracted now.

    Args:
        whole: the images even so: to fine-tune the extractors.
        engine: where features are extracted.
    """
    if whole or not params.extractors:
        return {"image": images}
    from cxr.networks.features import cached_features

    return {
        name: cached_features(images, spec, **feature_options(params, engine))
        for name, spec in extractor_names(params.extractors).items()
    }


def training_views(
    params: Params, images: Dataset, datasets: dict[str, Dataset], *, engine: engines.Engine = engines.LOCAL
) -> list[dict[str, Dataset]]:
    """What the epochs take turns with: `datasets` themselves and, cached, the features of augmented training images.

    Args:
        datasets: those of `training_datasets`.
    """
    from cxr.networks.features import View, cached_features

    return [datasets] + [
        {
            name: cached_features(images, spec, view=View(number, params), **feature_options(params, engine))
            for name, spec in extractor_names(params.extractors).items()
        }
        for number in range(1, params.augmented_views + 1)
    ]


def feature_options(params: Params, engine: engines.Engine) -> dict:
    """What `cached_features` is told of an experiment."""
    return {
        "normalization": params.normalization,
        "precision": params.precision,
        "crop_size": params.crop_size,
        "trained_features": trained_features,
        "engine": engine,
    }
