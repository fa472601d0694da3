"""Split images into train, val and test; all images of a patient are in one split."""

import hashlib
from collections.abc import Collection, Iterable

from cxr.release.entries import ImageRow

SPLITS = ("train", "val", "test")


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends only on the parts, not on the file order or on other patients."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sample_patients(rows: list[ImageRow], present: Collection[str], count: int, seed: int) -> list[ImageRow]:
    """Keep all rows of `count` patients, drawn at random from those with an image in `present`.

    Raises:
        ValueError: fewer patients have an image.
    """
    patients = {row.patient_id for row in rows if row.image_id in present}
    if count > len(patients):
        raise ValueError(f"--patients {count:,}: only {len(patients):,} patients have images here")
    drawn = set(sorted(patients, key=lambda patient: unit_hash(seed, "sample", patient))[:count])
    return [row for row in rows if row.patient_id in drawn]


def split_rows(
    rows: list[ImageRow], assigned: dict[str, str], *, ratios: tuple[float, float, float], seed: int
) -> dict[str, list[ImageRow]]:
    """Put every row into train, val or test: as assigned, or else by a hash of (seed, patient).

    Args:
        assigned: image id -> "train", "val" or "test", which are used as they are; or "train_val", where a share of
            val / (train + val) of the patients becomes val. Patients of images without an entry are split by `ratios`.
        ratios: shares (train, val, test) of the patients, sum 1.

    Raises:
        ValueError: a patient is in two splits.
    """
    splits = {split: [] for split in SPLITS}
    for row in rows:
        split = assigned.get(row.image_id)
        if split not in SPLITS:
            position = unit_hash(seed, row.patient_id) * (ratios[0] + ratios[1] if split == "train_val" else 1.0)
            split = "train" if position < ratios[0] else "val" if position < ratios[0] + ratios[1] else "test"
        splits[split].append(row)
    require_disjoint({split: [row.patient_id for row in members] for split, members in splits.items()})
    return splits


def require_disjoint(patients: dict[str, Iterable[int]]) -> None:
    """Raise ValueError with a patient that is in two splits, which would leak training patients into the scores."""
    first_split = {}
    for split, members in patients.items():
        for patient in set(members):
            if first_split.setdefault(patient, split) != split:
                raise ValueError(
                    f"patient {patient} is in {first_split[patient]} and in {split}, so scores would be too good. "
                    "Correct the lists, or build with --split random."
                )
