"""The patients of a made-up release, their visits and the findings of each image, all from one seed."""

import collections
import dataclasses

import numpy as np

from cxr.findings import FINDINGS, NO_FINDING

DETECTORS = ((2500, 2048, 0.168), (2048, 2500, 0.168), (2992, 2991, 0.143), (3056, 2544, 0.139))
ODD_AGES = ("414Y", "001D", "011M", "018M", "020M")  # one row each: values of the real file that break parsers
CONTRADICTION = {"Cardiomegaly", "Emphysema"}  # a wide and a narrow heart


@dataclasses.dataclass(frozen=True)
class Record:
    """One row of Data_Entry_2017.csv and its image."""

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
        """The row: eleven cells under a header of twelve, as in NIH's CSV."""
        labels = "|".join(sorted(self.findings)) or NO_FINDING
        patient = f"{self.follow_up:03d},{self.patient_id:08d},{self.age},{self.sex},{self.view_position}"
        width, height, spacing = self.detector
        return f"{self.image_id},{labels},{patient},{width},{height},{spacing},{spacing}"


def plan_records(num_images: int, seed: int) -> list[Record]:
    """The rows of the release, by patient and follow-up; equal arguments give equal rows."""
    rng = np.random.default_rng([seed, num_images])
    odd_ages = dict(zip(rng.permutation(num_images).tolist(), ODD_AGES, strict=False))
    rgba = set(rng.permutation(num_images)[: max(3, round(0.01 * num_images))].tolist())
    records, patient_id = [], 0
    counts = collections.Counter()  # images of each finding
    test_counts = collections.Counter()  # those on the test list
    while (left := num_images - len(records)) > 0:
        patient_id += 1
        num_visits = min(left, 1 + int(rng.binomial(7, rng.beta(1.0, 2.4))))  # 1 to 8, about 3 on average
        sex = str(rng.choice(("F", "M")))
        years = int(np.clip(rng.normal(48, 17), 5, 85))
        visits = plan_findings(num_visits, counts, rng)
        names = [name for findings in visits for name in findings or (NO_FINDING,)]
        counts.update(names)
        # The test list gets a fifth of every finding, not only of the patients: chance could leave it with two Edemas.
        is_due = sum(counts[name] - 5 * test_counts[name] - 5 for name in set(names)) > 0
        is_test = patient_id == 2 or (is_due and patient_id > 1)
        test_counts.update(names if is_test else ())
        for follow_up, findings in enumerate(visits):
            age = odd_ages.get(len(records), f"{years + follow_up:03d}Y")
            view_position = "AP" if rng.uniform() < (0.5 if findings else 0.3) else "PA"  # AP: sicker patients, in bed
            detector = DETECTORS[rng.integers(len(DETECTORS))]
            is_rgba = len(records) in rgba
            records.append(Record(patient_id, follow_up, findings, age, sex, view_position, detector, is_test, is_rgba))
    return records


def plan_findings(num_visits: int, counts: dict[str, int], rng: np.random.Generator) -> list[tuple[str, ...]]:
    """The findings of the images of one patient: those that are rarest in `counts`, each in 88 % of the images."""
    if rng.uniform() < 0.46:
        return [()] * num_visits
    num_findings = rng.choice((1, 2, 3, 4), p=(0.33, 0.36, 0.24, 0.07))
    chosen: list[str] = []
    for finding in sorted(FINDINGS, key=lambda finding: counts[finding] + rng.uniform(0, 3)):
        if len(chosen) < num_findings and not CONTRADICTION.issubset({finding, *chosen}):
            chosen.append(finding)
    return [tuple(finding for finding in chosen if rng.uniform() < 0.88) for _ in range(num_visits)]
