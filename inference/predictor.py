"""Predict with a trained experiment, and draw its heat maps: shared by predict.py, the page and the export."""

import copy
import io
import pathlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr import experiment, identity
from cxr.evaluation import metrics, operating_points, out_of_distribution, overlays
from cxr.evaluation.boxes import Placement
from cxr.findings import FINDINGS
from cxr.networks import patient as patient_layers
from cxr.networks.trained import TrainedNetwork, trained_network
from cxr.patient import UNKNOWN_PATIENT, Patient
from inference import readings
from inference.out_of_distribution import judge
from inference.pictures import Picture, read_picture
from inference.readings import Reading

if TYPE_CHECKING:
    import keras


class Predictor:
    """A trained experiment, loaded once. Threads may share it: the network runs one call at a time."""

    def __init__(self, model_dir: pathlib.Path, checkpoint: str = "best") -> None:
        """Load the network, its operating points and its distances.

        Raises:
            FileNotFoundError: the experiment has not been trained.
            ValueError: params.json, networks, dataset or weights are not those of its run.json, or operating points or
                distances are not its own.
        """
        self.params = identity.trained_params(model_dir)
        self.image_size: int = experiment.dataset_of(model_dir)["image_size"]
        self.points = operating_points.read_points(model_dir, checkpoint)
        self.distances = out_of_distribution.read(model_dir, checkpoint)  # None: not fitted
        self.network = trained_network(model_dir, checkpoint)
        self._lock = threading.Lock()
        self._mapper = None

    def with_network(self, model: "keras.Model", points: operating_points.OperatingPoints) -> "Predictor":
        """Copy this predictor with another network and other operating points."""
        changed = copy.copy(self)
        changed.network = TrainedNetwork(model)
        changed.points = points
        changed._mapper = None
        return changed

    @property
    def distance_threshold(self) -> float | None:
        """The distance beyond which an image is out of distribution; None if not fitted."""
        return None if self.distances is None else self.distances.threshold

    def read(self, data: bytes, patient: Patient = UNKNOWN_PATIENT) -> Picture:
        """Decode an image file and resize it to the model's input; see `read_picture`. Needs no lock."""
        return read_picture(data, self.image_size, patient)

    def predict(self, pictures: Sequence[Picture], *, rows: int = 1) -> list[Reading]:
        """Run the network once over a batch.

        Args:
            rows: smaller batches are padded to this size where TensorFlow would compile every new batch size.

        Raises:
            ValueError: the network's outputs are NaN or infinite.
        """
        missing = rows - len(pictures) if self.network.compiles_every_size else 0
        padded = [*pictures, *pictures[-1:] * missing]
        inputs = {"image": np.stack([picture.square for picture in padded])[..., None]}
        codes = [picture.patient.codes() for picture in padded]
        inputs |= {
            name: np.array([code[name] for code in codes], dtype)
            for name, dtype in patient_layers.INPUTS.items()
            if name in self.network.input
        }
        with self._lock:
            logits = self.network.logits(inputs)[: len(pictures)]
        if not np.isfinite(logits).all():
            raise ValueError("the network's outputs are NaN or infinite: its weights are damaged; train it again")
        judgements = [judge(picture, self.distances) for picture in pictures]
        probabilities = metrics.sigmoid(logits.astype(np.float64))
        pairs = zip(probabilities, judgements, strict=True)
        return [readings.interpret(row, self.points, judgement) for row, judgement in pairs]

    def heat_map(self, picture: Picture, finding: str, longer_side: int | None = None) -> np.ndarray:
        """Heat map of a finding over the image: float64 [rows, columns]. Patient inputs are taken as unknown.

        Args:
            longer_side: longer side of the result in pixels; default: that of the image.
        """
        with self._lock:
            if self._mapper is None:
                self._mapper = self.network.heat_mapper()
            heat = self._mapper(picture.square[None, ..., None], [FINDINGS.index(finding)])[0, 0]
        height, width = picture.pixels.shape
        return Placement(width, height, self.image_size).heat_on_image(heat, longer_side, covers=self._mapper.covers)

    def overlay(self, picture: Picture, finding: str) -> bytes:
        """PNG of the image with the heat map of a finding over it, overlays.SIDE pixels on the longer side."""
        from PIL import Image

        heat = self.heat_map(picture, finding, overlays.SIDE)
        buffer = io.BytesIO()
        Image.fromarray(overlays.warmed(overlays.fitted(picture.pixels), heat)).save(buffer, "PNG")
        return buffer.getvalue()
