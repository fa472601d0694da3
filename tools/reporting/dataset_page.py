"""The page of a dataset: the contents of its template."""

import csv
import itertools
from typing import NamedTuple

import numpy as np

from cxr.findings import FINDINGS, NO_FINDING
from cxr.records import example
from cxr.records.dataset import Dataset
from cxr.records.splits import SPLITS
from tools.reporting import dataset_figures, page, pictures

EXAMPLES = 4  # images of each finding, of different patients
BLANK = 1.0  # grey level; an image with a smaller standard deviation shows nothing
SHOWN_BLANK = 10  # images
SHOWN_REJECTED = 100  # rows of rejected.csv


class Example(NamedTuple):
    """One image of a finding."""

    image_id: str
    labels: str  # all its findings
    uri: str


def dataset_page(dataset: Dataset, command: str) -> str:
    """The page of a dataset, as HTML; reads all of its records.

    Args:
        command: the command that writes this page.
    """
    indexes = {split: example.read_split_index(dataset.paths(split)) for split in SPLITS}
    present = {split: index for split, index in indexes.items() if len(index.image_ids)}
    labels = np.concatenate([index.labels for index in indexes.values()])
    return page.render(
        "dataset.html",
        info=dataset.info,
        folder=str(dataset.folder),
        splits=list(present),
        facts=facts(present),
        findings=finding_rows(present),
        co_occurrence=co_occurrence(labels),
        drawn=dataset_figures.dataset_figures(present),
        grey_levels=dataset_figures.grey_levels(present["train"]) if "train" in present else [],
        blank=blank_images(present),
        shown_blank=SHOWN_BLANK,
        examples=examples(dataset) if dataset.info["kind"] == "images" else None,
        rejected=rejected(dataset),
        shown_rejected=SHOWN_REJECTED,
        command=command,
    )


def facts(indexes: dict[str, example.Index]) -> list[tuple[str, list[str]]]:
    """Facts about the splits side by side: (name of the fact, a cell for each split)."""
    columns = [split_facts(index) for index in indexes.values()]
    return [(name, [column[name] for column in columns]) for name in (columns[0] if columns else ())]


def split_facts(index: example.Index) -> dict[str, str]:
    """Images, patients, ages, sexes and view positions of one split that has an image."""
    patients, times = np.unique(index.patient_ids, return_counts=True)
    ages = index.ages[~np.isnan(index.ages)]
    low, middle, high = np.percentile(ages, [25, 50, 75]) if len(ages) else (None, None, None)
    return {
        "images": page.count(len(index.image_ids)),
        "patients": page.count(len(patients)),
        "images per patient, mean (most)": f"{times.mean():.2f} ({times.max():,})",
        "no finding": page.share(float((index.labels.sum(axis=1) == 0).mean())),
        "two or more findings": page.share(float((index.labels.sum(axis=1) > 1).mean())),
        "age, median (quartiles)": "—" if low is None else f"{middle:.0f} ({low:.0f} to {high:.0f})",
        "age unknown": page.count(len(index.ages) - len(ages)),
        "female": page.share(share_of(index.sexes, 0)),
        "sex unknown": page.count(int((index.sexes < 0).sum())),
        "view position AP": page.share(share_of(index.view_positions, 1)),
        "view position unknown": page.count(int((index.view_positions < 0).sum())),
    }


def share_of(codes: np.ndarray, code: int) -> float | None:
    """Share of a code among the known ones, which are not negative; None without any."""
    known = codes[codes >= 0]
    return float((known == code).mean()) if len(known) else None


def finding_rows(indexes: dict[str, example.Index]) -> list[dict]:
    """Number and share of images with each finding, in each split."""
    rows = []
    for column, name in enumerate(FINDINGS):
        counts = [int(index.labels[:, column].sum()) for index in indexes.values()]
        shares = [count / len(index.labels) for count, index in zip(counts, indexes.values(), strict=True)]
        rows.append({"name": name, "cells": list(zip(counts, shares, strict=True))})
    return rows


def co_occurrence(labels: np.ndarray) -> list[dict]:
    """For every finding, the number and share of its images that also have each other finding.

    Args:
        labels: [n, 14].
    """
    counts = labels.T @ labels  # [14, 14]; on the diagonal all images with the finding
    shares = counts / np.maximum(counts.diagonal(), 1)[:, None]
    return [
        {"name": name, "cells": list(zip(counts[row].tolist(), shares[row].tolist(), strict=True))}
        for row, name in enumerate(FINDINGS)
    ]


def blank_images(indexes: dict[str, example.Index]) -> list[dict]:
    """Images of nearly one grey level: image id, split, mean and stddev; in each split the flattest first."""
    found = []
    for split, index in indexes.items():
        blank = np.flatnonzero(index.stddevs < BLANK)  # features have nan, which is not
        for row in blank[np.argsort(index.stddevs[blank], kind="stable")]:
            numbers = {"mean": float(index.means[row]), "stddev": float(index.stddevs[row])}
            found.append({"image_id": str(index.image_ids[row]), "split": split, **numbers})
    return found


def examples(dataset: Dataset) -> dict[str, list[Example]]:
    """The first few images of every finding and of No Finding, in dataset order, which is random."""
    found = {name: {} for name in (NO_FINDING, *FINDINGS)}
    paths = itertools.chain.from_iterable(dataset.paths(split) for split in SPLITS)
    for record in itertools.chain.from_iterable(example.read_records(path) for path in paths):
        feature = example.features_of(record)
        row = example.row_of(feature)
        names = [name for name, label in zip(FINDINGS, row.labels, strict=True) if label] or [NO_FINDING]
        needed_by = [name for name in names if len(found[name]) < EXAMPLES and row.patient_id not in found[name]]
        if needed_by:
            shown = Example(row.image_id, ", ".join(names), pictures.record_uri(feature, dataset.info))
            for name in needed_by:
                found[name][row.patient_id] = shown
        if all(len(kept) == EXAMPLES for kept in found.values()):
            break
    return {name: list(kept.values()) for name, kept in found.items()}


def rejected(dataset: Dataset) -> list[tuple[str, str]] | None:
    """Image and reason from rejected.csv; None without the file."""
    path = dataset.folder / "rejected.csv"
    if not path.exists():
        return None
    rows = list(csv.reader(path.read_text().splitlines()))[1:]
    return [(row[0], row[1]) for row in rows if len(row) == 2]
