"""Dataset provenance and patient leakage."""

import pathlib
from collections.abc import Iterator

import numpy as np

from cxr import experiment
from cxr.evaluation import pretraining
from cxr.params import Params, load_params


def dataset_facts(info: dict) -> dict:
    """The facts that identify a dataset in a result, from its dataset.json."""
    source = info["source"]
    return {
        "csv": source["csv"],
        "csv_sha256": source["csv_sha256"],
        "split_name": info["split"]["name"],
        "fingerprint": info["fingerprint"],
    }


def of_result(model_dir: pathlib.Path, info: dict, split: str, patient_ids: np.ndarray) -> dict:
    """The provenance in a metrics file: datasets trained and evaluated on, leak, what its networks have seen, split.

    Args:
        info: dataset.json of the dataset scored. patient_ids: [n] of the images scored.
    """
    return {
        "trained_on": dataset_facts(experiment.dataset_of(model_dir)),
        "evaluated_on": dataset_facts(info),
        "leak": find_leak(model_dir, info, split, patient_ids),
        "seen": pretraining.of_result(load_params(model_dir), split, info["split"]["name"]),
        "dataset_fingerprint": info["fingerprint"],
        "split_name": info["split"]["name"],
    }


def require_image_size(info: dict, trained_on: dict, data_dir: str) -> None:
    """Raise ValueError when the images have another size than those the model was trained on.

    Args:
        info, trained_on: dataset.json of the dataset in data_dir, and of the one trained on.
    """
    size, expected = info["image_size"], trained_on["image_size"]
    if size != expected:
        raise ValueError(
            f"{data_dir} has images of {size} pixels, the model was trained on {expected}. "
            f"Run: python build_dataset.py --image_size {expected} with another --output_dir"
        )


def results_dir(model_dir: pathlib.Path, info: dict, tta: int = 1) -> pathlib.Path:
    """The folder of results on a dataset: the experiment, or below its external/ for another dataset.

    Test-time augmentation over N copies has a folder tta_N in it. So neither replaces the val metrics of the
    experiment, which hold its operating points for its own kind of images without augmentation.
    """
    is_own = experiment.dataset_of(model_dir)["fingerprint"] == info["fingerprint"]
    folder = model_dir if is_own else model_dir / "external" / info["fingerprint"][:12]
    return folder if tta == 1 else folder / f"tta_{tta}"


def find_leak(model_dir: pathlib.Path, info: dict, split: str, patient_ids: np.ndarray) -> dict:
    """Patients of a split that the weights, those of the extractors included, have seen in training or validation.

    On the dataset that an experiment was trained on, train is not a leak, and in val only patients in the training
    set of other weights are. Patients in the val of an extractor are not a leak for val: the experiment itself chooses
    its epoch on val too.

    Args:
        info: dataset.json of the dataset scored. patient_ids: [n] of the images scored.

    Returns:
        {"patients", "images": numbers of those seen, "where": the experiments that saw any,
        "unknown": experiments trained on another dataset that have no patients.json}.
    """
    found = _SeenPatients(patient_ids)
    for folder in experiments_below(model_dir):
        same_dataset = experiment.dataset_of(folder)["fingerprint"] == info["fingerprint"]
        known = experiment.patients_of(folder)
        if same_dataset and (split == "train" or not known):
            continue
        in_training_only = split == "val" and (same_dataset or folder != model_dir)
        found.add(folder, known, ("train",) if in_training_only else ("train", "val"))
    return found.as_leak()


def training_leak(params: Params, val_patients: np.ndarray, restore_from: pathlib.Path | None) -> dict:
    """Patients of val on which networks of an experiment were trained before it begins; see `find_leak`.

    Args:
        val_patients: [n] patients of the val images. restore_from: the experiment with the initial weights.
    """
    found = _SeenPatients(val_patients)
    starts = [restore_from] if restore_from else []
    for start in starts + experiments_in(params):
        for folder in experiments_below(start):
            found.add(folder, experiment.patients_of(folder), ("train",))
    return found.as_leak()


class _SeenPatients:
    """Which of some patients were in the splits of experiments."""

    def __init__(self, patient_ids: np.ndarray) -> None:
        self.patient_ids = patient_ids
        self.seen = np.zeros(len(patient_ids), bool)
        self.where: list[str] = []
        self.unknown: list[str] = []

    def add(self, folder: pathlib.Path, known: dict[str, list[int]], splits: tuple[str, ...]) -> None:
        """Add the patients of an experiment's splits, as `experiment.patients_of` gives them."""
        if not known:
            self.unknown.append(str(folder))
            return
        seen_here = np.isin(self.patient_ids, [patient for split in splits for patient in known[split]])
        self.seen |= seen_here
        self.where += [str(folder)] if seen_here.any() else []

    def as_leak(self) -> dict:
        """As `find_leak` returns it."""
        patients = len(np.unique(self.patient_ids[self.seen]))
        return {"patients": patients, "images": int(self.seen.sum()), "where": self.where, "unknown": self.unknown}


def experiments_below(model_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    """An experiment, the experiments among its extractors and its members, and theirs."""
    yield model_dir
    for folder in experiments_in(load_params(model_dir)):
        yield from experiments_below(folder)


def experiments_in(params: Params) -> list[pathlib.Path]:
    """The experiments among the extractors and the members of an experiment."""
    extractors = [spec["model_dir"] for spec in params.extractors if spec.get("source") == "experiment"]
    return [pathlib.Path(folder) for folder in [*extractors, *params.members]]


def require_no_leak(leak: dict, split: str, patients: int) -> None:
    """Raise ValueError when the weights have seen patients of the split."""
    if leak["patients"]:
        raise ValueError(
            f"{leak['patients']:,} of the {patients:,} patients of {split} were in training or validation of "
            f"{' and '.join(leak['where'])}, so scores would be too good. Evaluate on a dataset of other patients. "
            "If only the ids are equal, or you want the score anyway, add --allow_leak: the result is then marked"
        )


def require_no_training_leak(leak: dict) -> None:
    """Raise ValueError when initial weights, extractors or members were trained on patients of val."""
    if leak["patients"]:
        raise ValueError(
            f"{leak['patients']:,} patients of val were in training of {' and '.join(leak['where'])}: val scores would "
            "be too good. Build the dataset with the split that they were trained on, or add --allow_leak: val is then "
            "marked"
        )


def leak_notes(leak: dict, what: str) -> list[str]:
    """Warnings of a table about what `find_leak` found; `what` names the numbers that are too good."""
    lines = []
    if leak["patients"]:
        lines.append(
            f"LEAK: {leak['patients']:,} of these patients ({leak['images']:,} images) were in training or validation "
            f"of {' and '.join(leak['where'])}; the {what} are too good"
        )
    if leak["unknown"]:
        lines.append(f"LEAK UNKNOWN: {' and '.join(leak['unknown'])} has no patients.json to compare with")
    return lines
