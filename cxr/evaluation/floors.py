"""Two floors under every result: what patient metadata alone predict, and what chance gives."""

import numpy as np

from cxr.evaluation import metrics
from cxr.evaluation.predictions import Metadata, Predictions
from cxr.findings import FINDINGS

PERMUTATIONS = 200  # of the labels


def metadata_floor(train: Metadata, scored: Metadata, patient_ids: np.ndarray) -> dict | None:
    """AUROC of a logistic regression from age, sex and view position to each finding; no image is used.

    Args:
        train: the images it is fitted on. scored: the images it is scored on. patient_ids: [n] of `scored`.

    Returns:
        {"images": fitted on, "mean_auroc", "findings"}, undefined for findings that lack a class in train; None
        without training images.
    """
    if len(train.labels) == 0:
        return None
    scores, fitted = metadata_scores(train, scored)
    labels = np.where(fitted, scored.labels, 0)  # a finding that was not fitted has no AUROC
    mean, findings = metrics.aurocs_with_intervals(labels, scores, patient_ids)
    return {"images": len(train.labels), "mean_auroc": mean, "findings": _without_positives(findings)}


def metadata_scores(train: Metadata, scored: Metadata) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 14] of the logistic regressions, 0 where not fitted; and which findings were fitted [14]."""
    from sklearn.linear_model import LogisticRegression

    mean_age, stddev = _mean_and_stddev(train.ages)
    columns = _metadata_columns(train, mean_age, stddev)
    scored_columns = _metadata_columns(scored, mean_age, stddev)
    scores = np.zeros(scored.labels.shape)
    positives = train.labels.sum(axis=0)
    fitted = (positives > 0) & (positives < len(train.labels))
    for finding in np.flatnonzero(fitted) if len(scored.labels) else ():
        regression = LogisticRegression(max_iter=1000).fit(columns, train.labels[:, finding])
        scores[:, finding] = regression.predict_proba(scored_columns)[:, 1]
    return scores, fitted


def _metadata_columns(part: Metadata, mean_age: float, stddev: float) -> np.ndarray:
    """[n, 6]: standardised age, age unknown, male, sex unknown, AP, view position unknown."""
    unknown = np.isnan(part.ages)
    ages = np.where(unknown, 0.0, (part.ages - mean_age) / stddev)
    codes = [part.sexes == "M", part.sexes == "", part.view_positions == "AP", part.view_positions == ""]
    return np.stack([ages, unknown, *codes], axis=1).astype(np.float64)


def _mean_and_stddev(ages: np.ndarray) -> tuple[float, float]:
    """Of the known ages; mean 0 without any, standard deviation 1 without any or where all are equal."""
    known = ages[~np.isnan(ages)]
    return (float(known.mean()), float(known.std()) or 1.0) if len(known) else (0.0, 1.0)


def shuffled_labels(predictions: Predictions) -> dict:
    """AUROC of the same probabilities with labels permuted between patients: chance, and its spread.

    The images are sorted by patient, and so are the label rows, but with the patients in a random order. Each image
    then gets the label row at its place, so rows of one patient stay together. Images of a patient are alike; permuting
    labels image by image would give too narrow a spread.

    Returns:
        {"permutations", "mean_auroc", "findings"}: the mean over the permutations, and their central 95 % as low and
        high; undefined with one patient.
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
        permuted = predictions.labels[np.argsort(generator.permutation(count)[patient], kind="stable")]
        wins = np.einsum("nf,nf->f", ranks, permuted) - positives * (positives + 1) / 2  # Mann-Whitney U
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
