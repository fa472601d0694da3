"""What a result must be measured from: who needs no image, and what chance gives."""

import numpy as np

from cxr.evaluation import metrics
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS

PERMUTATIONS = 200  # of the shuffled-label control


def metadata_floor(train: Predictions, scored: Predictions) -> dict | None:
    """AUROC of a logistic regression from age, sex and view position to each finding, without looking at any image.

    Args:
        train: the images it is fitted on. scored: those it is judged on; the probabilities of both are not read.

    Returns:
        {"images": fitted on, "mean_auroc", "findings"}, undefined for findings that train does not have both ways;
        None without training images.
    """
    if len(train.image_ids) == 0:
        return None
    scores, fitted = metadata_scores(train, scored)
    labels = np.where(fitted, scored.labels, 0)  # what was not fitted has no AUROC
    mean, findings = metrics.aurocs_with_intervals(labels, scores, scored.patient_ids)
    return {"images": len(train.image_ids), "mean_auroc": mean, "findings": _without_positives(findings)}


def metadata_scores(train: Predictions, scored: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 14] of the logistic regressions, 0 for findings that could not be fitted; and which could."""
    from sklearn.linear_model import LogisticRegression

    mean_age, stddev = _mean_and_stddev(train.ages)
    columns, scored_columns = (_metadata_columns(part, mean_age, stddev) for part in (train, scored))
    scores, positives = np.zeros(scored.labels.shape), train.labels.sum(axis=0)
    fitted = (positives > 0) & (positives < len(train.labels))
    for finding in np.flatnonzero(fitted) if len(scored.labels) else ():
        regression = LogisticRegression(max_iter=1000).fit(columns, train.labels[:, finding])
        scores[:, finding] = regression.predict_proba(scored_columns)[:, 1]
    return scores, fitted


def _metadata_columns(part: Predictions, mean_age: float, stddev: float) -> np.ndarray:
    """[n, 5]: standardised age, male, AP view, and whether age, sex or view position is unknown."""
    unknown = np.isnan(part.ages)
    ages = np.where(unknown, 0.0, (part.ages - mean_age) / stddev)
    words = [part.sexes == "M", part.sexes == "", part.view_positions == "AP", part.view_positions == ""]
    return np.stack([ages, unknown, *words], axis=1).astype(np.float64)


def _mean_and_stddev(ages: np.ndarray) -> tuple[float, float]:
    """Of the known ages; 0 and 1 where none is known or all are one."""
    known = ages[~np.isnan(ages)]
    return (float(known.mean()), float(known.std()) or 1.0) if len(known) else (0.0, 1.0)


def shuffled_labels(predictions: Predictions) -> dict:
    """AUROC of the same probabilities when the patients' labels are dealt to other patients: chance, and its spread.

    The label rows are laid out patient after patient in a random order of the patients and given to the images in the
    true order, so that rows of one patient stay neighbours: images of a patient are alike, and labels dealt out image
    by image would show too narrow a spread.

    Returns:
        {"permutations", "mean_auroc", "findings"}: mean over the permutations, and low and high their central 95 %;
        undefined with one patient.
    """
    _, patient = np.unique(predictions.patient_ids, return_inverse=True)
    count = patient.max(initial=-1) + 1
    generator = np.random.default_rng(metrics.SEED)
    positives = predictions.labels.sum(axis=0)
    pairs = positives * (len(predictions.labels) - positives)
    true_order = np.argsort(patient, kind="stable")
    ranks = np.stack([metrics.mean_ranks(column) for column in predictions.probabilities.T], axis=1)[true_order]
    samples = np.full((PERMUTATIONS, len(FINDINGS)), np.nan)
    for row in range(PERMUTATIONS if count > 1 else 0):
        dealt = predictions.labels[np.argsort(generator.permutation(count)[patient], kind="stable")]
        wins = np.einsum("nf,nf->f", ranks, dealt) - positives * (positives + 1) / 2  # Mann-Whitney U
        samples[row, pairs > 0] = wins[pairs > 0] / pairs[pairs > 0]
    means = metrics.means_of_defined(samples)
    findings = {name: _mean_and_interval(samples[:, column]) for column, name in enumerate(FINDINGS)}
    mean = {"value": metrics.mean_defined(means), **_interval(means), "findings": int((pairs > 0).sum())}
    return {"permutations": PERMUTATIONS, "mean_auroc": mean, "findings": findings}


def _interval(samples: np.ndarray) -> dict[str, float]:
    return dict(zip(("low", "high"), metrics.interval(samples), strict=True))


def _mean_and_interval(samples: np.ndarray) -> dict[str, float]:
    return {"auroc": metrics.mean_defined(samples), **_interval(samples)}


def _without_positives(findings: dict) -> dict:
    return {name: {key: values[key] for key in ("auroc", "low", "high")} for name, values in findings.items()}
