"""Mahalanobis distance from the images of train, and the largest distance that val lets pass as one of them.

Lee et al. 2018 measure it in the penultimate features of a network with a covariance shared by the classes. Here the
vectors describe the pixels (`images.appearance`), which separates better and is the same for every model:
docs/prediction_and_serving.md has the figures.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from cxr import experiment, storage
from cxr.evaluation import operating_points

FALSE_ALARMS = 0.01  # share of val that may be farther than the threshold
SHRINKAGE = 0.1  # share of the identity in the correlation matrix; without it, rare directions decide


class Distances(NamedTuple):
    """A fitted distance. An image farther than the threshold is out of distribution."""

    mean: np.ndarray  # float64 [d], of train
    whitening: np.ndarray  # float64 [d, d]; distance = norm of (vector - mean) @ whitening
    threshold: float

    def distance(self, vectors: np.ndarray) -> np.ndarray:
        """Distance of vectors [..., d] from the mean of train; 0 is the mean itself."""
        return np.linalg.norm((vectors - self.mean) @ self.whitening, axis=-1)


def fit(train: np.ndarray, val: np.ndarray) -> Distances | None:
    """Fit mean and covariance to train [n, d], and the threshold to val [m, d]; None if too few to fit.

    The covariance is S R S: S the standard deviations, R the correlation matrix, shrunk towards the identity. The
    threshold is the smallest distance of a val image that at most FALSE_ALARMS of val exceed.
    """
    if len(train) < 2 or len(val) < 1:
        return None
    mean = train.mean(axis=0)
    deviation = train.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)  # a constant column
    standard = (train - mean) / deviation
    correlation = standard.T @ standard / len(train)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(mean))
    # With C = L L', (x' C^-1 x) is the squared norm of x' L^-T.
    whitening = np.linalg.inv(np.linalg.cholesky(shrunk)).T / deviation[:, None]
    fitted = Distances(mean, whitening, 0.0)
    threshold = np.quantile(fitted.distance(val), 1 - FALSE_ALARMS, method="higher")
    return fitted._replace(threshold=float(threshold))


def advice(model_dir: pathlib.Path, checkpoint: str) -> str:
    """What to say of an experiment without fitted distances."""
    command = operating_points.advice(model_dir, checkpoint)
    return f"distances are not fitted: an image unlike those of training may go unnoticed. Run: {command}"


def path_of(model_dir: pathlib.Path) -> pathlib.Path:
    """Path of the fitted distances of an experiment."""
    return model_dir / "out_of_distribution.json"


def write(model_dir: pathlib.Path, fitted: Distances, fingerprint: str) -> None:
    """Write fitted distances; `fingerprint` is that of the dataset they were fitted on."""
    value = {"dataset_fingerprint": fingerprint, "threshold": fitted.threshold, "mean": fitted.mean.tolist()}
    storage.write_json(path_of(model_dir), value | {"whitening": fitted.whitening.tolist()})


def fit_experiment(model_dir: pathlib.Path, train: np.ndarray, val: np.ndarray, *, fingerprint: str) -> None:
    """Fit and write the distances of an experiment, unless train or val has too few images."""
    fitted = fit(train, val)
    if fitted:
        write(model_dir, fitted, fingerprint)


def read(model_dir: pathlib.Path, checkpoint: str) -> Distances | None:
    """Read what `write` wrote; None without the file: an earlier version trained the experiment.

    Raises:
        ValueError: fitted on another dataset than the experiment was trained on, or damaged.
    """
    path = path_of(model_dir)
    if not path.is_file():
        return None
    value = storage.read_json(path)
    remedy = f"Run: {operating_points.advice(model_dir, checkpoint)}"
    try:
        fitted = Distances(np.array(value["mean"]), np.array(value["whitening"]), float(value["threshold"]))
        fitted.distance(fitted.mean)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). {remedy}") from error
    if value.get("dataset_fingerprint") != experiment.dataset_of(model_dir)["fingerprint"]:
        raise ValueError(f"{path} was fitted on another dataset than {model_dir} was trained on. {remedy}")
    return fitted
