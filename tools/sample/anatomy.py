"""The anatomy of a made-up chest, and the findings that change it.

Lengths are in halves of the image: x grows to the image's right (the patient's left), y downward, (0, 0) is mid-chest.
A side is -1 (image left, the patient's right lung) or +1.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class RadiographSpec:
    """Everything that determines the pixels of one image, except its size."""

    seed: int
    patient_id: int
    follow_up: int
    sex: str = "F"  # "F" | "M"
    view_position: str = "PA"  # "PA" | "AP"
    findings: tuple[str, ...] = ()

    def rng(self, purpose: str, *, per_image: bool) -> np.random.Generator:
        """A separate random generator for each purpose, so that adding a finding changes nothing else."""
        image = self.follow_up + 1 if per_image else 0
        return np.random.default_rng([self.seed, self.patient_id, image, *purpose.encode()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One patient's chest."""

    half_width: float  # from the midline to the outer edge of a lung
    apex: float  # y of the lung tops
    domes: tuple[float, float]  # y of the top of the diaphragm, image left and image right
    dome_height: float  # from the top of the diaphragm down to the costophrenic angle
    heart: tuple[float, float]  # distance of the heart's edges from the midline, image left and image right
    heart_y: float
    mediastinum: float  # half of its width
    rib_spacing: float
    rib_phase: float
    tissue: float  # density of the chest wall
    breasts: float  # density they add

    def dome(self, side: int) -> float:
        return self.domes[(side + 1) // 2]

    def hilum(self, side: int) -> tuple[float, float]:
        return side * 0.33 * self.half_width, 0.45 * self.apex + 0.55 * self.heart_y


def draw_anatomy(spec: RadiographSpec) -> Anatomy:
    """The chest of a patient; between follow-ups only the view position changes it."""
    rng = spec.rng("anatomy", per_image=False)
    is_ap = spec.view_position == "AP"
    half_width = rng.uniform(0.66, 0.76)
    dome = rng.uniform(0.42, 0.52) - 0.06 * is_ap  # AP images are taken in bed, where patients breathe in less
    ratio = rng.uniform(0.40, 0.47) * (1.06 if is_ap else 1.0)  # in AP the heart is farther from the detector
    return Anatomy(
        half_width=half_width,
        apex=rng.uniform(-0.82, -0.74),
        domes=(dome - rng.uniform(0.01, 0.05), dome + rng.uniform(0.0, 0.03)),
        dome_height=rng.uniform(0.15, 0.22),
        heart=(2 * half_width * ratio * 0.34, 2 * half_width * ratio * 0.66),
        heart_y=dome - rng.uniform(0.18, 0.24),
        mediastinum=rng.uniform(0.11, 0.14) + 0.015 * is_ap,
        rib_spacing=rng.uniform(0.135, 0.16),
        rib_phase=rng.uniform(),
        tissue=rng.uniform(0.56, 0.66),
        breasts=rng.uniform(0.05, 0.13) if spec.sex == "F" else 0.0,
    )


def pick_side(rng: np.random.Generator) -> int:
    """The side of a one-sided finding: always its first random draw, so that anatomy and drawing use the same side."""
    return int(rng.choice((-1, 1)))


def raise_diaphragm(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Atelectasis: the affected lung has less volume."""
    domes = list(anatomy.domes)
    domes[(pick_side(rng) + 1) // 2] -= rng.uniform(0.14, 0.22)
    return dataclasses.replace(anatomy, domes=tuple(domes))


def widen_heart(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Cardiomegaly: a heart of 0.57 to 0.67 of the width of the chest."""
    width = 2 * anatomy.half_width * rng.uniform(0.57, 0.67)
    return dataclasses.replace(anatomy, heart=(0.34 * width, 0.66 * width))


def inflate_lungs(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Emphysema: long lungs over a low, flat diaphragm, and a narrow heart."""
    low = rng.uniform(0.12, 0.18)
    return dataclasses.replace(
        anatomy,
        domes=(anatomy.domes[0] + low, anatomy.domes[1] + low),
        dome_height=0.04,
        heart=(anatomy.heart[0] * 0.7, anatomy.heart[1] * 0.7),
        apex=anatomy.apex - 0.04,
    )
