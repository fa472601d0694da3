"""The difference of two experiments on the same images, and whether chance explains it."""

import pathlib
from typing import NamedTuple

import numpy as np

from cxr import experiment, storage
from cxr.evaluation import metrics, pretraining, provenance, shortcuts, within
from cxr.evaluation.predictions import Predictions, in_order_of, read_predictions
from cxr.findings import FINDINGS
from cxr.params import load_params


class Other(NamedTuple):
    """The experiment to compare with."""

    model_dir: pathlib.Path
    predictions: Predictions  # of the same images in the same order (`in_order_of`)
    leak: dict  # see `provenance.find_leak`


def read_other(
    model_dir: pathlib.Path,
    info: dict,
    image_ids: np.ndarray,
    *,
    data_dir: object,
    split: str,
    checkpoint: str,
    tta: int,
) -> Other:
    """An evaluated experiment to compare with, its predictions in the order of these images.

    Args:
        info: dataset.json of the images, in data_dir.
    """
    folder = provenance.results_dir(model_dir, info, tta)
    path = experiment.predictions_path(folder, split, checkpoint)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path} to compare with. Run: python evaluate.py --model_dir {model_dir} --data_dir {data_dir} "
            f"--split {split} --checkpoint {checkpoint}" + (f" --tta {tta}" if tta > 1 else "")
        )
    found = in_order_of(read_predictions(path), image_ids, path=path, whose=f"{split} of {data_dir}")
    return Other(model_dir, found, provenance.find_leak(model_dir, info, split, found.patient_ids))


def add_comparison(result: dict, other: Other, folder: pathlib.Path) -> None:
    """Compare an evaluated experiment with another one, and put that into its metrics file.

    Args:
        result: the metrics file, to which "comparison" is added. folder: of this file and its predictions.
    """
    split = result["split"]
    checkpoint = result["checkpoint"]
    ours = read_predictions(experiment.predictions_path(folder, split, checkpoint))
    difference = metrics.none_for_nan(compare(ours, other.predictions))
    seen = pretraining.of_result(load_params(other.model_dir), split, result["split_name"])
    result["comparison"] = {"model_dir": str(other.model_dir), "leak": other.leak, "seen": seen, **difference}
    storage.write_json(experiment.metrics_path(folder, split, checkpoint), result)


def compare(ours: Predictions, theirs: Predictions) -> dict:
    """Paired bootstrap over patients: both experiments are scored on the same resamples.

    An easy resample is easy for both, so the interval of the difference is narrower than those of the two AUROCs.

    Args:
        ours, theirs: of the same images in the same order.

    Returns:
        "mean_auroc" {"difference": ours minus theirs, "low", "high", "p", "findings": how many are in it},
        "findings" {name: {"difference", "low", "high", "p"}}, and "within" {grouping: the same of the AUROC within
        groups}; nan where undefined. p is two-sided.

    Raises:
        ValueError: labels or patients differ; there is only one patient; no finding has both classes.
    """
    _require_same_truth(ours, theirs)
    pooled = _compare_within(ours, theirs, np.full(len(ours.labels), "all"))
    if pooled["mean_auroc"]["findings"] == 0:
        raise ValueError(f"no finding has both classes among the {len(ours.labels):,} images: nothing to compare")
    groupings = shortcuts.groupings_of(ours)
    inside = {grouping: _compare_within(ours, theirs, groups) for grouping, groups in groupings.items()}
    return pooled | {"within": inside}


def _compare_within(ours: Predictions, theirs: Predictions, groups: np.ndarray) -> dict:
    """Differences of the AUROC within groups [n]; with one group for all images, of the pooled AUROC."""
    our_aurocs, their_aurocs = (
        within.resample_within(part.labels, part.probabilities, part.patient_ids, groups) for part in (ours, theirs)
    )
    values = our_aurocs.values - their_aurocs.values
    resampled = our_aurocs.samples - their_aurocs.samples
    defined = np.flatnonzero(~np.isnan(values))
    findings = {name: _with_test(values[column], resampled[:, column]) for column, name in enumerate(FINDINGS)}
    mean = _with_test(metrics.mean_defined(values), metrics.means_of_defined(resampled[:, defined]))
    return {"mean_auroc": mean | {"findings": len(defined)}, "findings": findings}


def _require_same_truth(ours: Predictions, theirs: Predictions) -> None:
    differs = (ours.labels != theirs.labels).any(axis=1) | (ours.patient_ids != theirs.patient_ids)
    if differs.any():
        raise ValueError(
            f"{differs.sum():,} images have different labels or patients in the two experiments, the first "
            f"{ours.image_ids[differs][0]}: they were evaluated on datasets of different CSVs"
        )
    if len(np.unique(ours.patient_ids)) < 2:
        raise ValueError("all images are of one patient; a comparison over patients needs at least two")


def _with_test(value: float, samples: np.ndarray) -> dict[str, float]:
    low, high = metrics.interval(samples)
    return {"difference": float(value), "low": low, "high": high, "p": two_sided_p(samples)}


def two_sided_p(samples: np.ndarray) -> float:
    """Twice the share of resamples on the rarer side of 0; those at 0 count on both sides. nan without resamples.

    One is added to both counts, so p is never 0: with 1,000 resamples it is at least 0.002.
    """
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return float("nan")
    rarer = min((samples <= 0).sum(), (samples >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(samples) + 1)))
