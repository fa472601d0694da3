"""The architectures: extractors and heads assembled, from pixels or cached features to logits."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cxr import experiment, identity
from cxr.networks import patient
from cxr.networks.cnn import simple_cnn
from cxr.networks.extractors import Extractor, as_cached, load_network, weights_sha256
from cxr.networks.head import fully_connected, penultimate_of
from cxr.networks.onnx_encoder import NO_KERAS, onnx_extractor
from cxr.networks.pixels import centre_crop, crop_start, resize
from cxr.networks.precision import layers_in
from cxr.params import Params
from cxr.specs import check_spec, extractor_names

if TYPE_CHECKING:
    import keras


def trainable_part(
    params: Params, info: dict, widths: dict[str, int] | None = None, *, output_bias: Sequence[float] | None = None
) -> "keras.Model":
    """The part that an experiment trains from scratch: all of simple_cnn, or the head over its extractors' features.

    Args:
        info: dataset.json of the images; its image_size shapes the input.
        widths: number of features of each extractor, by its name; not for simple_cnn.
        output_bias: initial biases of the logits; default 0.

    Returns:
        Model named params.model, from {"image": uint8 [B, H, W, 1]} or {<extractor>: float32 [B, D]}, and with
        params.metadata from the inputs of `patient.patient_inputs`, to float32 logits [B, 14].

    Raises:
        ValueError: crop_size is larger than the records.
    """
    import keras

    crop_start(info["image_size"], params.crop_size or info["image_size"])
    patient_inputs = patient.patient_inputs() if params.metadata else {}
    if params.model == "simple_cnn":
        size = info["image_size"]
        inputs = {"image": keras.Input((size, size, 1), dtype="uint8", name="image")}
        with layers_in(params.precision):
            penultimate = simple_cnn(inputs["image"], params)
        if patient_inputs:
            penultimate = keras.layers.Concatenate()([penultimate, patient.embed(patient_inputs)])
    else:
        inputs = {name: keras.Input((width,), name=name) for name, width in widths.items()}
        penultimate = fully_connected(inputs, params, patient_inputs)
    penultimate = keras.layers.Dropout(params.dropout)(penultimate)
    bias = "zeros" if output_bias is None else keras.initializers.Constant(output_bias)
    logits = keras.layers.Dense(len(info["findings"]), bias_initializer=bias, dtype="float32", name="logits")
    return keras.Model(inputs | patient_inputs, logits(penultimate), name=params.model)


def with_extractors(head: "keras.Model", extractors: dict[str, Extractor]) -> "keras.Model":
    """Connect extractors to the head over their features: one model from images (and patient inputs) to logits."""
    import keras

    image = next(iter(extractors.values())).model.input["image"]
    image = keras.Input(image.shape[1:], dtype="uint8", name="image")
    features = {name: extractor.model({"image": image}) for name, extractor in extractors.items()}
    patient_inputs = patient.patient_inputs() if set(head.input) - set(extractors) else {}
    return keras.Model({"image": image} | patient_inputs, head(features | patient_inputs), name="assembled")


def load_extractors(params: Params, info: dict, *, policy: str | None = None) -> dict[str, Extractor]:
    """The extractors of an experiment by name, for records of the dataset's image size; frozen unless fine-tuned.

    Args:
        policy: precision of their layers, see `precision.layers_in`; default params.precision if they are fine-tuned,
            else float32.
    """
    return {
        name: load_extractor(
            spec,
            name=name,
            params=params,
            record_size=info["image_size"],
            policy=policy or (params.precision if params.fine_tune else "float32"),
        )
        for name, spec in extractor_names(params.extractors).items()
    }


def load_extractor(spec: dict, *, name: str, params: Params, record_size: int, policy: str) -> Extractor:
    """One extractor of an experiment, from uint8 [B, record_size, record_size, 1] to float32 [B, D].

    Args:
        params: of the experiment; normalization, crop_size, precision and fine_tune are read.
        policy: precision of its layers.
    """
    import keras

    input_size = params.crop_size or record_size  # pixels per side of the centre crop
    crop_start(record_size, input_size)
    if spec["source"] == "onnx":
        check_spec(spec)
        sizes = {"record_size": record_size, "crop_size": input_size}
        return onnx_extractor(spec, name, normalization=params.normalization, **sizes)
    with layers_in(policy):
        if spec["source"] == "experiment":
            extractor = _experiment_extractor(spec, name, params, input_size, policy=policy)
        else:
            extractor = load_network(
                spec,
                name=name,
                record_size=input_size,
                normalization=params.normalization,
                fine_tune=params.fine_tune,
            )
    if input_size == record_size:
        return extractor
    image = keras.Input((record_size, record_size, 1), dtype="uint8", name="image")
    features = extractor.model({"image": centre_crop(image, input_size)})
    return extractor._replace(model=keras.Model({"image": image}, features, name=extractor.model.name))


def _experiment_extractor(spec: dict, name: str, params: Params, record_size: int, *, policy: str) -> Extractor:
    """A trained experiment up to the input of its logits layer, with the patient inputs unknown.

    Raises:
        ValueError: its own frozen networks were evaluated in another precision than that of `params`.
    """
    import keras

    check_spec(spec)
    folder = pathlib.Path(spec["model_dir"])
    own = identity.trained_params(folder)
    if own.members:
        raise ValueError(f"{folder} is an average, which has no layer of features; use its members as extractors")
    if own.extractors and own.precision != params.precision:
        raise ValueError(
            f"{folder} was trained on features computed in {own.precision}, but precision is {params.precision} here, "
            f"which gives other features. Set precision to {own.precision!r} here too"
        )
    penultimate = trained_features(folder, policy=policy)
    penultimate.trainable = False
    own_size = penultimate.input["image"].shape[1]
    image = keras.Input((record_size, record_size, 1), dtype="uint8", name="image")
    pixels = image
    if record_size != own_size:
        resized = resize(keras.ops.cast(image, "float32"), own_size)
        pixels = keras.ops.cast(keras.ops.round(resized), "uint8")
    features = as_cached(penultimate({"image": pixels}, training=False))
    model = keras.Model({"image": image}, features, name=f"{name}_extractor")
    return Extractor(name, spec, model, weights_sha256(penultimate))


def trained_model(model_dir: pathlib.Path, checkpoint: str = "best", *, policy: str | None = None) -> "keras.Model":
    """Rebuild a trained experiment as one Keras model from images to logits, patient inputs included.

    It serves gradients, export and extractors of source "experiment". Predictions use `trained.TrainedExperiment`,
    whose frozen networks compute in the same arithmetic as in the evaluation.

    Args:
        policy: precision of the layers of frozen extractors; default float32.

    Raises:
        FileNotFoundError: the experiment has not been trained.
        ValueError: params.json, networks, dataset or weights differ from its run.json, or it has no Keras model.
    """
    params = identity.trained_params(model_dir)
    if not has_keras_model(params):
        raise ValueError(f"{model_dir}: {NO_KERAS}")
    info = experiment.dataset_of(model_dir)
    if not params.extractors:
        model = trainable_part(params, info)
        experiment.load_weights(model, model_dir, checkpoint)
        return model
    extractors = load_extractors(params, info, policy=policy)
    widths = {name: extractor.dimension for name, extractor in extractors.items()}
    if params.fine_tune:
        model = with_extractors(trainable_part(params, info, widths), extractors)
        experiment.load_weights(model, model_dir, checkpoint)
        return model
    hashes = {name: extractor.sha256 for name, extractor in extractors.items()}
    return with_extractors(trained_head(model_dir, widths, hashes, checkpoint), extractors)


def has_keras_model(params: Params) -> bool:
    """Whether all networks of an experiment exist as layers of Keras."""
    return all(spec.get("source") != "onnx" for spec in params.extractors)


def trained_head(
    model_dir: pathlib.Path, widths: dict[str, int], hashes: dict[str, str], checkpoint: str
) -> "keras.Model":
    """The trained head of an experiment with frozen extractors.

    Args:
        widths, hashes: number of features and SHA-256 of the weights of each extractor, by its name.

    Raises:
        ValueError: the weights of an extractor changed after the head was trained, or the weights file does not fit.
    """
    identity.require_networks(model_dir, hashes)
    head = trainable_part(identity.trained_params(model_dir), experiment.dataset_of(model_dir), widths)
    experiment.load_weights(head, model_dir, checkpoint)
    return head


def trained_features(model_dir: pathlib.Path, *, policy: str | None = None) -> "keras.Model":
    """A trained experiment from images to the input of its logits layer, with the patient inputs unknown."""
    model = trained_model(model_dir, policy=policy)
    return patient.image_only(penultimate_of(model, identity.trained_params(model_dir)))
