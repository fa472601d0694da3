"""Which image is train, val or test. Patients never cross."""

import hashlib
from collections.abc import Collection, Iterable

from cxr.release.entries import ImageRow

SPLITS = ("train", "val", "test")


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the parts: not on file order, nor on the other patients."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sample_patients(rows: list[ImageRow], present: Collection[str], count: int, seed: int) -> list[ImageRow]:
    """Keep all rows of `count` patients, drawn at random among those with an image in `present`.

    Raises:
        ValueError: there are fewer such patients.
    """
    patients = {row.patient_id for row in rows if row.image_id in present}
    if count > len(patients):
        raise ValueError(f"--patients {count:,}: only {len(patients):,} patients have images here")
    drawn = set(sorted(patients, key=lambda patient: unit_hash(seed, "sample", patient))[:count])
    return [row for row in rows if row.patient_id in drawn]


def split_rows(
    rows: list[ImageRow], homes: dict[str, str], *, ratios: tuple[float, float, float], seed: int
) -> dict[str, list[ImageRow]]:
    """Assign every row to train, val or test by its home, or by a hash of (seed, patient) where that leaves it open.

    Args:
        homes: image id -> "train", "val" or "test", which stand; or "train_val", of which the share
            val / (train + val) of the patients becomes val; or nothing: all patients are split by `ratios`.
        ratios: shares (train, val, test) of the patients, sum 1.

    Raises:
        ValueError: a patient is in two splits.
    """
    splits = {split: [] for split in SPLITS}
    for row in rows:
        home = homes.get(row.image_id, "open")
        if home not in SPLITS:
            place = unit_hash(seed, row.patient_id) * (ratios[0] + ratios[1] if home == "train_val" else 1.0)
            home = "train" if place < ratios[0] else "val" if place < ratios[0] + ratios[1] else "test"
        splits[home].append(row)
    require_disjoint({split: [row.patient_id for row in members] for split, members in splits.items()})
    return splits


def require_disjoint(patients: dict[str, Iterable[int]]) -> None:
    """Raise ValueError naming a patient that is in two splits: its images would leak from training into the score."""
    home = {}
    for split, members in patients.items():
        for patient in set(members):
            if home.setdefault(patient, split) != split:
                raise ValueError(
                    f"patient {patient} is in {home[patient]} and in {split}, so scores would be too good. "
                    "Mend the lists, or build with --split random."
                )
