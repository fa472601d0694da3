"""A trained experiment that reads chest radiographs: what predict.py, the page and the check of an export share."""

import copy
import io
import pathlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from cxr import experiment, identity
from cxr.evaluation import operating_points, overlays
from cxr.evaluation.boxes import Placement
from cxr.findings import FINDINGS
from cxr.networks import devices
from cxr.networks import patient as patient_layers
from cxr.patient import UNKNOWN_PATIENT, Patient
from inference import readings
from inference.pictures import Picture, read_picture
from inference.readings import Reading

if TYPE_CHECKING:
    import keras


class Predictor:
    """A trained experiment, loaded once. Any thread may use it: the network runs for one at a time."""

    def __init__(self, model_dir: pathlib.Path, checkpoint: str = "best") -> None:
        """Load it.

        Raises:
            FileNotFoundError: it has not been trained.
            ValueError: params.json, networks, dataset, weights or operating points are not those of its run.
        """
        self.params = identity.trained_params(model_dir)
        self.image_size: int = experiment.dataset_of(model_dir)["image_size"]
        self.points = operating_points.read_points(model_dir, checkpoint)
        from cxr.networks.trained import (
            TrainedExperiment,  # late: it loads TensorFlow, and what is above fails without it
        )

        devices.prepare_devices()
        self.network = TrainedExperiment(model_dir, checkpoint)
        self._lock = threading.Lock()
        self._mapper = None

    def exported_as(self, model: "keras.Model", points: operating_points.OperatingPoints) -> "Predictor":
        """The same predictor with another network and other operating points: what an exported file computes."""
        from cxr.networks.trained import TrainedNetwork

        other = copy.copy(self)
        other.network, other.points, other._mapper = TrainedNetwork(model), points, None
        return other

    def read(self, data: bytes, patient: Patient = UNKNOWN_PATIENT) -> Picture:
        """Decode and resize as the dataset was built; see `pictures.read_picture`. Runs beside the network."""
        return read_picture(data, self.image_size, patient)

    def predict(self, pictures: Sequence[Picture], *, rows: int = 1) -> list[Reading]:
        """Run the network once.

        Args:
            rows: fewer pictures are filled up to so many; every new number would be compiled anew.
        """
        filled = [*pictures, *pictures[-1:] * (rows - len(pictures))]
        inputs = {"image": np.stack([picture.square for picture in filled])[..., None]}
        codes = [picture.patient.codes() for picture in filled]
        inputs |= {
            name: np.array([code[name] for code in codes], dtype)
            for name, dtype in patient_layers.INPUTS.items()
            if name in self.network.input
        }
        with self._lock:
            logits = self.network.logits(inputs)[: len(pictures)]
        if not np.isfinite(logits).all():
            raise ValueError(f"the network gives {logits.min()} to {logits.max()}; its weights are broken, train again")
        return [readings.read(row, self.points) for row in expit(logits.astype(np.float64))]

    def heat_map(self, picture: Picture, finding: str, longer_side: int | None = None) -> np.ndarray:
        """Where the network saw a finding: float64 [rows, columns] over exactly the image, unknown patient.

        Args:
            longer_side: of the result, in pixels; default that of the image.
        """
        from cxr.networks import cam

        with self._lock:
            if self._mapper is None:
                self._mapper = cam.HeatMapper(self.network.keras_model(), crop_size=self.params.crop_size)
            heat = self._mapper(picture.square[None, ..., None], [FINDINGS.index(finding)])[0, 0]
        height, width = picture.pixels.shape
        return Placement(width, height, self.image_size).heat_on_image(heat, longer_side, covers=self._mapper.covers)

    def overlay(self, picture: Picture, finding: str) -> bytes:
        """The image under that heat map, as a PNG of overlays.SIDE pixels on the longer side."""
        heat = self.heat_map(picture, finding, overlays.SIDE)
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(overlays.warmed(overlays.fitted(picture.pixels), heat)).save(buffer, "PNG")
        return buffer.getvalue()
