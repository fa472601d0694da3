"""A model against radiologists' labels, beside the labels that were mined from NIH's reports.

The labels of a reader study are findings of NIH or combinations of them. A combination is present where one of its
findings is; its probability is that of at least one, if they were independent: 1 - (1 - p1)(1 - p2)...
"""

import pathlib
from typing import NamedTuple

import numpy as np

from cxr import experiment, storage
from cxr.evaluation import agreement, metrics
from cxr.evaluation.predictions import Predictions, read_predictions
from cxr.findings import FINDINGS

COMBINATIONS = {
    "Nodule or mass": ("Nodule", "Mass"),
    "Airspace opacity": ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"),
    "Abnormal": FINDINGS,
}
FEWEST = 8  # expert positives; with fewer, every number of a finding is null


class ExpertLabels(NamedTuple):
    """Radiologists' labels of one study."""

    study: str
    findings: list[str]
    image_ids: np.ndarray  # str [n]
    labels: np.ndarray  # int [n, findings], final
    readers: list[str]
    readings: np.ndarray  # float [n, readers, findings]: 1, 0, NaN where a reader hedged or did not read

    def rows(self, chosen: list[int]) -> "ExpertLabels":
        """Some of the images."""
        return self._replace(
            image_ids=self.image_ids[chosen], labels=self.labels[chosen], readings=self.readings[chosen]
        )


def combined(values: np.ndarray, finding: str) -> np.ndarray | None:
    """Labels or probabilities [n] of a study's finding from those of the 14 [n, 14]; None where it is none of them."""
    names = COMBINATIONS.get(finding, (finding,))
    if not set(names) <= set(FINDINGS):
        return None
    columns = [FINDINGS.index(name) for name in names]
    present = 1 - np.prod(1 - values[:, columns].astype(np.float64), axis=1)
    return present.astype(values.dtype)


def of_images(studies: list[ExpertLabels], image_ids: np.ndarray, *, whose: str, folder: str) -> list[ExpertLabels]:
    """The studies that have some of these images, and of them only these.

    Args:
        whose: split and dataset of the images, "test of data/records". folder: of the studies. Both for the error.

    Raises:
        ValueError: no study has any of these images.
    """
    wanted = set(image_ids.tolist())
    kept = []
    for study in studies:
        chosen = [row for row, image_id in enumerate(study.image_ids.tolist()) if image_id in wanted]
        if chosen:
            kept.append(study.rows(chosen))
    if not kept:
        total = sum(len(study.image_ids) for study in studies)
        raise ValueError(
            f"none of the {len(image_ids):,} images in {whose} is among the {total:,} with radiologists' labels in "
            f"{folder}; expected images of the NIH release, such as {studies[0].image_ids[0]}, in this --split"
        )
    return kept


def compare_with_studies(predictions: Predictions, studies: list[ExpertLabels]) -> dict[str, dict]:
    """What `compare_with_experts` returns, by study.

    Args:
        predictions: of all images of the studies, and others, in any order.
    """
    place = {image_id: row for row, image_id in enumerate(predictions.image_ids.tolist())}
    rows = [np.array([place[image_id] for image_id in study.image_ids.tolist()], int) for study in studies]
    return {
        study.study: compare_with_experts(predictions.rows(chosen), study)
        for study, chosen in zip(studies, rows, strict=True)
    }


def add_experts(result: dict, studies: list[ExpertLabels], folder: pathlib.Path) -> dict[str, dict]:
    """Compare an evaluated experiment with studies of its images; write and return the comparison.

    Args:
        result: the metrics file. folder: of this file and its predictions.
    """
    place = result["split"], result["checkpoint"]
    report = compare_with_studies(read_predictions(experiment.predictions_path(folder, *place)), studies)
    report = {study: {"weights_sha256": result["weights_sha256"], **values} for study, values in report.items()}
    storage.write_json(experiment.experts_path(folder, *place), report)
    return report


def compare_with_experts(predictions: Predictions, experts: ExpertLabels) -> dict:
    """Every finding of a study: the model against both labels, and NIH's labels and the readers against the experts.

    Args:
        predictions: of the very images of `experts`, in the same order.

    Returns:
        {"images", "patients", "mean_auroc_nih", "mean_auroc_expert": {"value", "low", "high", "findings"} over
        the same findings, "findings": {name: {"auroc_nih", "auroc_expert" {"value", "low", "high"}, "positives_nih",
        "positives_expert", "nih_sensitivity", "nih_specificity", "nih_ppv", "kappa_nih", "kappa_readers",
        "roc_expert", "readers": {id: {"sensitivity", "specificity", "images"}}}}}; None where undefined, all of a
        finding with fewer than FEWEST expert positives. roc_expert are sensitivities [101] against the experts' labels
        at the false-positive rates 0, 0.01 ... 1.
    """
    findings, columns = {}, {}
    for place, finding in enumerate(experts.findings):
        nih = combined(predictions.labels, finding)
        if nih is None:
            continue
        truth, readings = experts.labels[:, place], experts.readings[:, :, place]
        enough = truth.sum() >= FEWEST
        if enough:
            columns[finding] = nih, truth, combined(predictions.probabilities, finding)
        nothing = float("nan")
        findings[finding] = {
            "auroc_nih": {"value": nothing, "low": nothing, "high": nothing},
            "auroc_expert": {"value": nothing, "low": nothing, "high": nothing},
            "positives_nih": int(nih.sum()),
            "positives_expert": int(truth.sum()),
            "nih_sensitivity": agreement.share(nih[truth == 1]) if enough else nothing,
            "nih_specificity": agreement.share(1 - nih[truth == 0]) if enough else nothing,
            "nih_ppv": agreement.share(truth[nih == 1]) if enough else nothing,
            "kappa_nih": agreement.kappa(nih, truth) if enough else nothing,
            "kappa_readers": agreement.kappa_between(readings) if enough else nothing,
            "roc_expert": _roc(truth, columns[finding][2]) if enough else None,
            "readers": agreement.reader_points(readings, experts.readers) if enough else {},
        }
    means = {}
    for key, place in (("nih", 0), ("expert", 1)):
        means[f"mean_auroc_{key}"], values = _aurocs(columns, place, predictions.patient_ids)
        for finding, value in values.items():
            findings[finding][f"auroc_{key}"] = value
    patients = len(np.unique(predictions.patient_ids))
    head = {"images": len(predictions.image_ids), "patients": patients}
    return metrics.none_for_nan(head | means | {"findings": findings})


def _aurocs(columns: dict[str, tuple], place: int, patient_ids: np.ndarray) -> tuple[dict, dict]:
    """AUROC of findings against the labels at `place`, mean and each, over those that have both classes in both."""
    usable = {name: of for name, of in columns.items() if all(0 < of[k].sum() < len(of[k]) for k in (0, 1))}
    if not usable:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "findings": 0}, {}
    labels = np.stack([of[place] for of in usable.values()], axis=1)
    scores = np.stack([of[2] for of in usable.values()], axis=1)
    resampled = metrics.bootstrap_aurocs(labels, scores, patient_ids)
    if len(np.unique(patient_ids)) < 2:
        resampled = np.full_like(resampled, np.nan)
    values = {}
    for column, name in enumerate(usable):
        low, high = metrics.interval(resampled[:, column])
        values[name] = {"value": metrics.auroc(labels[:, column], scores[:, column]), "low": low, "high": high}
    low, high = metrics.interval(metrics.means_of_defined(resampled))
    mean = metrics.mean_defined([value["value"] for value in values.values()])
    return {"value": mean, "low": low, "high": high, "findings": len(values)}, values


def _roc(labels: np.ndarray, scores: np.ndarray) -> list[float] | None:
    """Sensitivities [101] at the false-positive rates 0, 0.01 ... 1; None without both classes."""
    if labels.min() == labels.max():
        return None
    hits, called = metrics.called_at_thresholds(labels, scores)
    false = called - hits
    rates = np.append(0, false / false[-1])
    return np.interp(np.linspace(0, 1, 101), rates, np.append(0, hits / hits[-1])).round(4).tolist()
