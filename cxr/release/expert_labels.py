"""Radiologists' labels for NIH images, in the form in which two studies published them.

all_findings   the 14 findings, Abnormal and Other on 810 test images, five readers each (Nabulsi et al. 2021)
four_findings  Fracture, Pneumothorax, Airspace opacity, Nodule or mass on 1,962 test and 2,414 train_val images,
               adjudicated, about three readers each (Majkowska et al. 2020)

Each has *_labels.csv, one row an image, and *_individual_readers.csv, one row a reader and an image. For research and
education only, by their authors' terms.
"""

import csv
import io
from typing import NamedTuple

import numpy as np
from etils import epath

READERS = "individual_readers.csv"  # ending of a file of readers; other *_labels.csv hold final labels
RENAMED = {  # column in a file: name here
    "Pleural Thickening": "Pleural_Thickening",
    "Nodule/mass": "Nodule or mass",
    "Image ID": "Image Index",
}
IDENTIFYING = ("Image Index", "Patient ID", "Reader ID", "Set ID", "Set Id")
VALUES = {"YES": 1.0, "NO": 0.0, "1": 1.0, "0": 0.0, "HEDGE": np.nan}  # a reader who hedges is not counted
STUDIES = {
    "all_findings": ("Abnormal", "Atelectasis"),  # columns by which a file of this study is known
    "four_findings": ("Airspace opacity", "Nodule or mass"),
}


class ReaderStudy(NamedTuple):
    """The labels of one study."""

    name: str  # one of STUDIES
    findings: list[str]  # names of the study's labels, as in its files but for RENAMED
    image_ids: np.ndarray  # str [n]
    labels: np.ndarray  # int [n, findings], final: majority or adjudicated
    readers: list[str]
    readings: np.ndarray  # float [n, readers, findings]: 1, 0, NaN where a reader hedged or did not read the image


def read_expert_labels(folder: epath.Path) -> list[ReaderStudy]:
    """Read every study whose files are in a folder or one folder below it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file has other columns or values, or lists an image twice with different labels.
    """
    finals: dict[str, dict[str, dict[str, float]]] = {}
    readers: dict[str, dict[tuple[str, str], dict[str, float]]] = {}
    names: dict[str, list[str]] = {}
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*/*.csv")], key=str):
        rows = _read(path)
        name = _study_of(rows, path)
        if path.name.endswith(READERS):
            if "Reader ID" not in rows[0]:
                raise ValueError(f"{path} has no column Reader ID; expected one row for each reader and image")
            for row in rows:
                readers.setdefault(name, {}).setdefault((row["Image Index"], row["Reader ID"]), _values(row, path))
            continue
        names.setdefault(name, list(_values(rows[0], path)))
        for row in rows:
            values = _values(row, path)
            hedged = [key for key, value in values.items() if np.isnan(value)]
            if hedged:
                raise ValueError(f"{path}: image {row['Image Index']}: final {hedged[0]} is HEDGE; expected YES or NO")
            known = finals.setdefault(name, {})
            if known.setdefault(row["Image Index"], values) != values:
                raise ValueError(f"{path}: image {row['Image Index']} is listed twice with different labels")
    if not finals:
        raise FileNotFoundError(
            f"no radiologists' labels (*_labels.csv) below {folder}; expected the files of the two published studies, "
            "see docs/evaluation.md"
        )
    return [_study(name, names[name], finals[name], readers.get(name, {})) for name in STUDIES if name in finals]


def _read(path: epath.Path) -> list[dict[str, str]]:
    """Rows of a CSV under the names used here."""
    table = csv.DictReader(io.StringIO(path.read_text()))
    rows = [{RENAMED.get(key, key): (cell or "").strip() for key, cell in row.items() if key} for row in table]
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def _study_of(rows: list[dict[str, str]], path: epath.Path) -> str:
    for name, columns in STUDIES.items():
        if {"Image Index", *columns} <= rows[0].keys():
            return name
    expected = " or ".join(f"{name}: {', '.join(columns)}" for name, columns in STUDIES.items())
    raise ValueError(f"{path} has the columns {', '.join(rows[0])}; expected Image Index and those of {expected}")


def _values(row: dict[str, str], path: epath.Path) -> dict[str, float]:
    """The labels in a row: cells of 0, 1, YES, NO or HEDGE in columns that identify nothing."""
    study = STUDIES["four_findings"] if "Airspace opacity" in row else ()
    wanted = ("Fracture", "Pneumothorax", *study) if study else [key for key in row if key not in IDENTIFYING]
    values = {}
    for key in wanted:
        if row.get(key, "").upper() not in VALUES:
            raise ValueError(
                f"{path}: image {row['Image Index']}: {key} is {row.get(key)!r}; expected YES, NO or HEDGE"
            )
        values[key] = VALUES[row[key].upper()]
    return values


def _study(
    name: str,
    findings: list[str],
    finals: dict[str, dict[str, float]],
    read: dict[tuple[str, str], dict[str, float]],
) -> ReaderStudy:
    """Labels and readings as arrays; readings of images without final labels are left out."""
    image_ids = sorted(finals)
    readers = sorted({reader for _, reader in read})
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    column_of = {reader: column for column, reader in enumerate(readers)}
    readings = np.full((len(image_ids), len(readers), len(findings)), np.nan)
    for (image_id, reader), values in read.items():
        if image_id in row_of:
            readings[row_of[image_id], column_of[reader]] = [values[finding] for finding in findings]
    labels = np.array([[finals[image_id][finding] for finding in findings] for image_id in image_ids])
    return ReaderStudy(name, findings, np.array(image_ids), labels.astype(np.int64), readers, readings)
