"""Whom a made-up release shows: patients, their visits and what each image has, decided by one seed."""

import collections
import dataclasses

from cxr.findings import FINDINGS, NO_FINDING

DETECTORS = ((2500, 2048, 0.168), (2048, 2500, 0.168), (2992, 2991, 0.143), (3056, 2544, 0.139))
ODD_AGES = ("414Y", "001D", "011M", "018M", "020M")  # one row each: what trips parsers of the real file
CONTRADICTION = {"Cardiomegaly", "Emphysema"}  # a wide heart and a narrow one


@dataclasses.dataclass(frozen=True)
class Record:
    """One row of Data_Entry_2017.csv and the image behind it."""

    patient_id: int
    follow_up: int
    findings: tuple[str, ...]
    age: str  # "058Y", "011M" or "001D"
    sex: str
    view_position: str
    detector: tuple[int, int, float]  # width, height, pixel spacing in mm
    is_test: bool
    is_rgba: bool

    @property
    def image_id(self) -> str:
        return f"{self.patient_id:08d}_{self.follow_up:03d}.png"

    def csv_row(self) -> str:
        """Eleven cells under a header of twelve, as NIH has it."""
        labels = "|".join(sorted(self.findings)) or NO_FINDING
        patient = f"{self.follow_up:03d},{self.patient_id:08d},{self.age},{self.sex},{self.view_position}"
        width, height, spacing = self.detector
        return f"{self.image_id},{labels},{patient},{width},{height},{spacing},{spacing}"


def plan_records(images: int, seed: int) -> list[Record]:
    """Every image of the release, by patient and follow-up; the same list for the same images and seed."""
    import numpy as np

    rng = np.random.default_rng([seed, images])
    odd_ages = dict(zip(rng.permutation(images).tolist(), ODD_AGES, strict=False))
    rgba = set(rng.permutation(images)[: max(3, round(0.01 * images))].tolist())
    records, patient_id = [], 0
    counts, held_out = collections.Counter(), collections.Counter()  # images of each finding, and those of the test
    while (left := images - len(records)) > 0:
        patient_id += 1
        num_images = min(left, 1 + int(rng.binomial(7, rng.beta(1.0, 2.4))))  # 1 to 8, about 3 in the mean
        sex, years = str(rng.choice(("F", "M"))), int(np.clip(rng.normal(48, 17), 5, 85))
        visits = plan_findings(num_images, counts, rng)
        names = [name for findings in visits for name in findings or (NO_FINDING,)]
        counts.update(names)
        # Test is a fifth of every finding, not only of the patients: by chance alone it would have two Edemas, say.
        due = sum(counts[name] - 5 * held_out[name] - 5 for name in set(names)) > 0
        is_test = patient_id == 2 or (due and patient_id > 1)
        held_out.update(names if is_test else ())
        for follow_up, findings in enumerate(visits):
            age = odd_ages.get(len(records), f"{years + follow_up:03d}Y")
            view = "AP" if rng.uniform() < (0.5 if findings else 0.3) else "PA"  # the sick are filmed in bed
            detector, is_rgba = DETECTORS[rng.integers(len(DETECTORS))], len(records) in rgba
            records.append(Record(patient_id, follow_up, findings, age, sex, view, detector, is_test, is_rgba))
    return records


def plan_findings(num_images: int, counts: dict[str, int], rng) -> list[tuple[str, ...]]:
    """Findings of one patient's images, each in seven of eight of them; the rarest in `counts` are given out first."""
    if rng.uniform() < 0.46:
        return [()] * num_images
    num_findings = rng.choice((1, 2, 3, 4), p=(0.33, 0.36, 0.24, 0.07))
    chosen: list[str] = []
    for finding in sorted(FINDINGS, key=lambda finding: counts[finding] + rng.uniform(0, 3)):
        if len(chosen) < num_findings and not CONTRADICTION.issubset({finding, *chosen}):
            chosen.append(finding)
    return [tuple(finding for finding in chosen if rng.uniform() < 0.88) for _ in range(num_images)]
