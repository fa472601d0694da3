"""Whom a result is of: the dataset scored, the one trained on, and patients that should not be in both."""

import pathlib
from collections.abc import Iterator

import numpy as np

from cxr import experiment
from cxr.params import Params, load_params

SHOWN = 3  # patients that an error names


def described(info: dict) -> dict:
    """What names a dataset in a result, from its dataset.json."""
    source = info["source"]
    return {
        "csv": source["csv"],
        "csv_sha256": source["csv_sha256"],
        "split_name": info["split"]["name"],
        "fingerprint": info["fingerprint"],
    }


def require_image_size(info: dict, trained_on: dict, data_dir: str) -> None:
    """Raise ValueError when the images are of another size than those the model was trained on.

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
    """Where results on a dataset lie: in the experiment, or below external/ for another than it was trained on.

    Test-time augmentation over N copies has a folder of its own in there, tta_N. So neither replaces the
    experiment's val file, whose operating points are for its own kind of images, without augmentation.
    """
    is_own = experiment.dataset_of(model_dir)["fingerprint"] == info["fingerprint"]
    folder = model_dir if is_own else model_dir / "external" / info["fingerprint"][:12]
    return folder if tta == 1 else folder / f"tta_{tta}"


def find_leak(model_dir: pathlib.Path, info: dict, split: str, patient_ids: np.ndarray) -> dict:
    """How much of a split the weights have seen in training or validation, their extractors' weights included.

    Of the dataset that an experiment was trained on, train is no leak, and of val only patients that other weights in
    it were trained on. Patients of val on which an extractor chose its epoch are no leak for val either: so does the
    experiment itself.

    Args:
        info: dataset.json of the dataset scored. patient_ids: [n] of the images scored.

    Returns:
        {"patients", "images": how many were seen, "where": the experiments that saw one,
        "unknown": experiments trained on another dataset that kept no list of their patients}.
    """
    found = _Seen(patient_ids)
    for folder in experiments_below(model_dir):
        same_dataset = experiment.dataset_of(folder)["fingerprint"] == info["fingerprint"]
        known = experiment.patients_of(folder)
        if same_dataset and (split == "train" or not known):
            continue
        in_training_only = split == "val" and (same_dataset or folder != model_dir)
        found.add(folder, known, ("train",) if in_training_only else ("train", "val"))
    return found.described()


def training_leak(params: Params, val_patients: np.ndarray, restore_from: pathlib.Path | None) -> dict:
    """How many patients of val the networks of an experiment were trained on, before it begins; see `find_leak`.

    Args:
        val_patients: [n] patients of the val images. restore_from: the experiment whose weights it begins with.
    """
    found = _Seen(val_patients)
    starts = [restore_from] if restore_from else []
    for start in starts + [pathlib.Path(spec["model_dir"]) for spec in params.extractors if "model_dir" in spec]:
        for folder in experiments_below(start):
            found.add(folder, experiment.patients_of(folder), ("train",))
    return found.described()


class _Seen:
    """Which of some patients were met by experiments."""

    def __init__(self, patient_ids: np.ndarray) -> None:
        self.patient_ids, self.seen = patient_ids, np.zeros(len(patient_ids), bool)
        self.where: list[str] = []
        self.unknown: list[str] = []

    def add(self, folder: pathlib.Path, known: dict[str, list[int]], splits: tuple[str, ...]) -> None:
        """Take in the patients of an experiment's splits, as `experiment.patients_of` gives them."""
        if not known:
            self.unknown.append(str(folder))
            return
        met = np.isin(self.patient_ids, [patient for split in splits for patient in known[split]])
        self.seen |= met
        self.where += [str(folder)] if met.any() else []

    def described(self) -> dict:
        patients = len(np.unique(self.patient_ids[self.seen]))
        return {"patients": patients, "images": int(self.seen.sum()), "where": self.where, "unknown": self.unknown}


def experiments_below(model_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    """An experiment, and those whose features it stands on, and theirs."""
    yield model_dir
    for spec in load_params(model_dir).extractors:
        if spec.get("source") == "experiment":
            yield from experiments_below(pathlib.Path(spec["model_dir"]))


def require_no_leak(leak: dict, split: str, patients: int) -> None:
    """Raise ValueError when the weights have seen patients of the split."""
    if leak["patients"]:
        raise ValueError(
            f"{leak['patients']:,} of the {patients:,} patients of {split} were in training or validation of "
            f"{' and '.join(leak['where'])}, so scores would be too good. Evaluate on a dataset of other patients, "
            "or, if only their ids are the same or you want the number even so, add --allow_leak: it is then marked"
        )


def require_no_training_leak(leak: dict) -> None:
    """Raise ValueError when networks that an experiment begins with, or stands on, were trained on patients of val."""
    if leak["patients"]:
        raise ValueError(
            f"{leak['patients']:,} patients of val were in training of {' and '.join(leak['where'])}: val scores would "
            "be too good. Build the dataset with the split that it was trained on, or add --allow_leak: val is then "
            "marked"
        )


def leak_notes(leak: dict, what: str) -> list[str]:
    """The lines with which a table warns of what `find_leak` found; `what` is too good for it."""
    lines = []
    if leak["patients"]:
        lines.append(
            f"LEAK: {leak['patients']:,} of these patients ({leak['images']:,} images) were in training or validation "
            f"of {' and '.join(leak['where'])}; the {what} are too good"
        )
    if leak["unknown"]:
        lines.append(f"LEAK UNKNOWN: {' and '.join(leak['unknown'])} kept no patients.json to compare with")
    return lines
