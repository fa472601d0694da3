"""A trained experiment from images to logits, by the same networks in the same arithmetic as in its evaluation."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr import experiment, identity
from cxr.networks import assembly, devices, kept, patient, runtime
from cxr.networks.cam import HeatMapper, OcclusionMapper
from cxr.networks.mean_heat_map import MeanHeatMapper
from cxr.networks.onnx_encoder import NO_KERAS
from cxr.patient import UNKNOWN

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


class TrainedNetwork:
    """Computes logits of images. Frozen extractors use the runtime that extracted the features of their training."""

    def __init__(self, model: "keras.Model", extractors: dict[str, runtime.Runtime] | None = None) -> None:
        """Use a whole Keras model, or a head and its prepared extractors."""
        self.model = model
        self.extractors = extractors or {}
        self.input: list[str] = ["image", *(name for name in model.input if name in patient.INPUTS)]

    @property
    def compiles_every_size(self) -> bool:
        """Whether the first batch of every size takes much longer; OpenVINO computes image by image."""
        return not self.extractors or any(isinstance(run, runtime.KerasNetwork) for run in self.extractors.values())

    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Logits float32 [B, 14].

        Args:
            inputs: "image" uint8 [B, S, S, 1] and patient inputs; missing patient inputs are unknown.
        """
        images = inputs["image"]
        features = {name: run(images) for name, run in self.extractors.items()} or {"image": images}
        unknown = {name: np.full(len(images), UNKNOWN, patient.INPUTS[name]) for name in self.input[1:]}
        known = {name: value for name, value in inputs.items() if name in unknown}
        return np.asarray(self.model.predict_on_batch(features | unknown | known))

    def predict(self, batches: "tf.data.Dataset", verbose: int = 0) -> np.ndarray:
        """Logits float32 [n, 14] of the batches of `input_fn`; called like `keras.Model.predict`."""
        return np.concatenate([self.logits(inputs) for inputs, *_ in batches])


class TrainedExperiment(TrainedNetwork):
    """The network of an experiment's folder, other than an average."""

    def __init__(self, model_dir: pathlib.Path, checkpoint: str = "best") -> None:
        """Load it.

        Raises:
            FileNotFoundError: the experiment has not been trained.
            ValueError: params.json, networks, dataset or weights differ from its run.json.
        """
        params = identity.trained_params(model_dir)
        info = experiment.dataset_of(model_dir)
        self.model_dir = model_dir
        self.checkpoint = checkpoint
        self.image_size = info["image_size"]
        self.precision = params.precision
        self.crop_size = params.crop_size
        self.has_keras_model = assembly.has_keras_model(params)
        self.runtime: str = identity.read(model_dir)["runtime"]
        self.policy = runtime.layer_policy(params.precision, self.runtime)  # of frozen extractors
        if not params.extractors or params.fine_tune:
            super().__init__(assembly.trained_model(model_dir, checkpoint))
            return
        networks = {name: extractor for name, (extractor, _) in kept.of_experiment(model_dir).items()}
        extractors = networks or assembly.load_extractors(params, info, policy=self.policy)
        widths = {name: extractor.dimension for name, extractor in extractors.items()}
        hashes = {name: extractor.sha256 for name, extractor in extractors.items()}
        prepared = {
            name: runtime.prepare(extractor.model, self.runtime, params.precision)
            for name, extractor in extractors.items()
        }
        super().__init__(assembly.trained_head(model_dir, widths, hashes, checkpoint), prepared)

    def keras_model(self) -> "keras.Model":
        """The experiment as one Keras model, for gradients and export. What OpenVINO computed is float32 here."""
        if not self.extractors:
            return self.model
        return assembly.trained_model(self.model_dir, self.checkpoint, policy=self.policy)

    @property
    def is_exact_in_keras(self) -> bool:
        """Whether `keras_model` computes in the arithmetic of the evaluation."""
        return not self.extractors or self.runtime == "keras"

    @property
    def keras_precision(self) -> str:
        """The precision that `keras_model`, or without one this network, computes heat maps in."""
        return self.precision if self.is_exact_in_keras or not self.has_keras_model else "float32"

    def heat_mapper(self, method: str = "auto") -> HeatMapper | OcclusionMapper:
        """Heat maps by `keras_model`; without one by occlusion. ValueError if the method needs one."""
        if self.has_keras_model:
            return HeatMapper(self.keras_model(), method, crop_size=self.crop_size)
        if method not in ("auto", "occlusion"):
            raise ValueError(f"method {method} needs gradients, but {NO_KERAS}")
        return OcclusionMapper(lambda images: self.logits({"image": images}), self.image_size)


class TrainedAverage(TrainedNetwork):
    """The mean of the logits of trained experiments."""

    def __init__(self, model_dir: pathlib.Path, members: Sequence[TrainedExperiment]) -> None:
        """Average members whose images have the same size."""
        self.model_dir = model_dir
        self.checkpoint = "best"
        self.members = members
        self.image_size: int = members[0].image_size
        taken = {name for member in members for name in member.input}
        self.input = ["image", *(name for name in patient.INPUTS if name in taken)]

    @property
    def compiles_every_size(self) -> bool:
        """Whether that is so of a member."""
        return any(member.compiles_every_size for member in self.members)

    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Logits float32 [B, 14], see `TrainedNetwork.logits`; patient inputs go to the members that take them."""
        return np.mean([member.logits(inputs) for member in self.members], axis=0)

    def keras_model(self) -> "keras.Model":
        """All members as one Keras model, see `TrainedExperiment.keras_model`."""
        import keras

        size = self.image_size
        inputs = {"image": keras.Input((size, size, 1), dtype="uint8", name="image")}
        inputs |= patient.patient_inputs() if len(self.input) > 1 else {}
        logits = []
        for number, model in enumerate(member.keras_model() for member in self.members):
            # The same layers under another name: the names of layers in a model must differ.
            named = keras.Model(model.input, model.output, name=f"member_{number}")
            logits.append(named({name: inputs[name] for name in model.input}))
        return keras.Model(inputs, keras.layers.Average(name="logits")(logits), name="average")

    @property
    def is_exact_in_keras(self) -> bool:
        """Whether `keras_model` computes in the arithmetic of the evaluation."""
        return all(member.is_exact_in_keras for member in self.members)

    @property
    def precision(self) -> str:
        """The precisions of the members."""
        return " and ".join(dict.fromkeys(member.precision for member in self.members))

    @property
    def keras_precision(self) -> str:
        """The precisions that `keras_model` computes in."""
        return " and ".join(dict.fromkeys(member.keras_precision for member in self.members))

    def heat_mapper(self, method: str = "auto") -> MeanHeatMapper:
        """The mean of the members' heat maps; each member's method is the one that suits it if it is "auto"."""
        return MeanHeatMapper([member.heat_mapper(method) for member in self.members], self.image_size)


Trained = TrainedExperiment | TrainedAverage


def trained_network(model_dir: pathlib.Path, checkpoint: str = "best") -> Trained:
    """The network of an experiment's folder, of whichever model it is; raises as `TrainedExperiment` does."""
    members = identity.members_of(model_dir, checkpoint)
    devices.prepare_devices()  # loads TensorFlow, which takes seconds; the checks above do not need it
    if members:
        return TrainedAverage(model_dir, [TrainedExperiment(member) for member in members])
    return TrainedExperiment(model_dir, checkpoint)
