"""A healthy chest, drawn with numpy as a frontal radiograph would show it.

Lengths are in halves of the image: x grows to the image's right (the patient's left), y downward, (0, 0) is mid-chest.
A side is -1 (image left, the patient's right lung) or +1. Density is 0 for air and about 1 for metal.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Study:
    """What decides every pixel of one image, apart from its size."""

    seed: int
    patient_id: int
    follow_up: int
    sex: str = "F"  # "F" | "M"
    view_position: str = "PA"  # "PA" | "AP"
    findings: tuple[str, ...] = ()

    def rng(self, purpose: str, *, per_image: bool) -> np.random.Generator:
        """A random stream of its own for each purpose, so that adding a finding moves nothing else."""
        image = self.follow_up + 1 if per_image else 0
        return np.random.default_rng([self.seed, self.patient_id, image, *purpose.encode()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One patient's chest."""

    half_width: float  # from the midline to the outer edge of a lung
    apex: float  # y of the lung tops
    domes: tuple[float, float]  # y of the top of the diaphragm, image left and image right
    dome_height: float  # from the top of the diaphragm down to the costophrenic angle
    heart: tuple[float, float]  # reach of the heart to the image left and right of the midline
    heart_y: float
    mediastinum: float  # half its width
    rib_spacing: float
    rib_phase: float
    tissue: float  # density of the chest wall
    breasts: float  # density they add

    def dome(self, side: int) -> float:
        return self.domes[(side + 1) // 2]

    def hilum(self, side: int) -> tuple[float, float]:
        return side * 0.33 * self.half_width, 0.45 * self.apex + 0.55 * self.heart_y


def draw_anatomy(study: Study) -> Anatomy:
    """The patient's chest, the same in every follow-up but for what the view does to it."""
    rng = study.rng("anatomy", per_image=False)
    is_ap = study.view_position == "AP"
    half_width = rng.uniform(0.66, 0.76)
    dome = rng.uniform(0.42, 0.52) - 0.06 * is_ap  # a portable film is taken lying or sitting: a smaller breath
    ratio = rng.uniform(0.40, 0.47) * (1.06 if is_ap else 1.0)  # the heart lies farther from the detector in AP
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
        breasts=rng.uniform(0.05, 0.13) if study.sex == "F" else 0.0,
    )


def grid(study: Study, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Chest coordinates x, y of every pixel, [size, size] float32 each: the inverse of this image's pose."""
    rng = study.rng("pose", per_image=True)
    angle = np.deg2rad(rng.uniform(-4, 4))
    zoom = rng.uniform(0.95, 1.08) if study.view_position == "PA" else rng.uniform(0.88, 1.03)
    shift_x, shift_y = rng.uniform(-0.05, 0.05, 2)
    axis = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    x, y = (axis[None, :] - shift_x) / zoom, (axis[:, None] - shift_y) / zoom
    cos, sin = np.cos(angle), np.sin(angle)
    return (x * cos + y * sin).astype(np.float32), (y * cos - x * sin).astype(np.float32)


def edge(distance: np.ndarray, softness: float = 0.015) -> np.ndarray:
    """0 outside, 1 inside, a ramp of 2 * softness across the border where the signed distance is 0."""
    return np.clip(0.5 + distance * (0.5 / softness), 0, 1)


def smooth_noise(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """Random smooth field of about unit variance whose blobs are `period` wide; x and y within [-3, 3]."""
    width = int(6 / period) + 3
    table = 1.3 * rng.standard_normal(width * width, dtype=np.float32)
    column, row = (x + 3) / period, (y + 3) / period
    i, j = row.astype(np.intp), column.astype(np.intp)
    a, b = row - i.astype(np.float32), column - j.astype(np.float32)
    a, b, corner = a * a * (3 - 2 * a), b * b * (3 - 2 * b), i * width + j
    top = table[corner] * (1 - b) + table[corner + 1] * b
    return top * (1 - a) + (table[corner + width] * (1 - b) + table[corner + width + 1] * b) * a


def dome_line(anatomy: Anatomy, side: int, x: np.ndarray) -> np.ndarray:
    """y of the diaphragm: highest at 0.42 of the lung's width, falling to the costophrenic angle."""
    out = side * x / anatomy.half_width - 0.42
    return anatomy.dome(side) + anatomy.dome_height * np.where(out > 0, (out / 0.58) ** 2, 0.35 * (out / 0.42) ** 2)


def lung_shape(anatomy: Anatomy, side: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Soft mask of one lung, heart not taken out."""
    u, tip = x * side, 0.40 * anatomy.half_width
    down, cap = np.clip((y - anatomy.apex) / 0.85, 0, 1), np.clip((y - anatomy.apex) / 0.22, 0, 1)
    outer = tip + (anatomy.half_width - tip) * np.sqrt(1 - (1 - down) ** 2)
    inner = tip - (tip - anatomy.mediastinum) * np.sqrt(1 - (1 - cap) ** 2)
    above = dome_line(anatomy, side, x) - y
    return edge(np.minimum(np.minimum(outer - u, u - inner), np.minimum(y - anatomy.apex, above)))


def heart_shape(anatomy: Anatomy, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Soft mask of the heart: an egg whose apex points down to the image's right."""
    v = (y - anatomy.heart_y) / 0.36
    lean = x - 0.08 * v
    reach = np.where(lean > 0, np.float32(anatomy.heart[1]), np.float32(anatomy.heart[0]))
    return edge((1 - np.hypot(lean / reach, v)) * 0.3, 0.03)


class Chest:
    """A radiograph in the making; findings draw on `density` and read the rest."""

    def __init__(self, study: Study, anatomy: Anatomy, size: int):
        self.anatomy = anatomy
        self.severity = study.rng("severity", per_image=True).uniform(0.8, 1.0)  # better and worse days
        self.x, self.y = grid(study, size)  # [size, size]
        self.lung = {side: lung_shape(anatomy, side, self.x, self.y) for side in (-1, 1)}
        self.lungs = self.lung[-1] + self.lung[1]
        self.heart = heart_shape(anatomy, self.x, self.y)
        self.density = self._tissue()
        self.markings = self._vessels(study.rng("vessels", per_image=False))
        self.density += self.markings
        self._bones(is_ap=study.view_position == "AP")
        self._soft_parts(study.rng("soft parts", per_image=False))

    def opacify(self, mask: np.ndarray, amount: float) -> None:
        """Bring the density towards that of dense tissue; what is dense already hardly changes."""
        self.density += self.severity * amount * mask * np.maximum(0.92 - self.density, 0)

    def _tissue(self) -> np.ndarray:
        """Body, lungs and heart without their details."""
        x, y, anatomy = np.abs(self.x), self.y, self.anatomy
        torso = anatomy.half_width + 0.20
        shoulder = 0.22 + 0.95 * np.sqrt(np.clip((y + 1.0) / 0.5, 0, 1))
        width = np.minimum(shoulder, torso + 0.5 * (1 - np.clip((y + 0.55) / 0.7, 0, 1)) ** 2)
        density = (anatomy.tissue - 0.16 * (x / 0.9) ** 2 + 0.05 * y) * edge(width - x, 0.04)
        right = np.clip(0.5 + self.x / 0.24, 0, 1)  # the two domes meet behind the spine
        dome = right * dome_line(anatomy, 1, self.x) + (1 - right) * dome_line(anatomy, -1, self.x)
        abdomen = edge(y - dome, 0.02) * edge(torso - 0.06 - x, 0.10)
        density += np.maximum(0.20 * abdomen, 0.17 * edge(anatomy.mediastinum * 1.2 - x, 0.06))
        air = 0.17 + 0.08 * y + 0.10 * edge(x - anatomy.half_width + 0.10, 0.12)
        density += (air - density) * self.lungs
        knob = edge(0.10 - np.hypot(self.x - anatomy.mediastinum * 0.75, y - anatomy.heart_y + 0.58), 0.02)
        return density + np.maximum(self.heart, 0.8 * knob) * np.maximum(0.76 - density, 0)

    def _vessels(self, rng: np.random.Generator) -> np.ndarray:
        """Lung markings: winding streaks that run out from each hilum and thin out towards the wall."""
        markings = np.zeros_like(self.x)
        bend = smooth_noise(rng, self.x, self.y, 0.30)
        for side in (-1, 1):
            hilum_x, hilum_y = self.anatomy.hilum(side)
            dx, dy = self.x - hilum_x, self.y - hilum_y
            r = np.hypot(dx, dy)
            streaks = np.maximum(
                smooth_noise(rng, np.arctan2(dy, dx * side) * 0.6 + 0.08 * bend, r * 0.4, 0.08) - 0.2, 0
            )
            root = np.exp(-(((dx + side * 0.25 * dy) / 0.07) ** 2) - ((dy - 0.03) / 0.17) ** 2)
            streaks *= np.minimum(r / 0.15, 1) * np.exp(-r / 0.38)
            markings += self.lung[side] * (0.20 * streaks + 0.22 * root * (1 + 0.2 * bend))
        grain = 0.02 * self.lungs * smooth_noise(rng, self.x, self.y, 0.035)
        return np.maximum(markings + grain, 0) * (1 - 0.9 * self.heart)

    def _bones(self, *, is_ap: bool) -> None:
        u, y, anatomy = np.abs(self.x), self.y, self.anatomy
        cage = edge(anatomy.half_width + 0.05 - u, 0.03) * edge(y - anatomy.apex + 0.03, 0.03)
        for bend, faint in ((0.42 * u * u - 0.10 * u, 1.0), (0.5 * (anatomy.half_width - u), 0.45)):  # back, then front
            off = np.abs(((y - bend) / anatomy.rib_spacing + anatomy.rib_phase) % 1 - 0.5)
            rib = edge(0.24 - off, 0.06) * (0.55 + 8 * off * off)
            self.density += 0.10 * faint * rib * cage * (1 - 0.75 * self.heart) * edge(0.6 - y, 0.2)
        vertebra = 0.6 + 0.4 * np.cos(2 * np.pi * y / 0.15) ** 2
        self.density += 0.06 * vertebra * edge(0.085 - u, 0.02)
        tilt = anatomy.apex + (0.02 if is_ap else 0.12) - 0.16 * (u - 0.08) + 0.05 * np.sin(6 * u)
        self.density += 0.13 * edge(0.028 - np.abs(y - tilt), 0.012) * edge(u - 0.07, 0.02) * edge(0.75 - u, 0.04)
        blade = anatomy.half_width - (0.05 if is_ap else -0.02) + 0.25 * (y + 0.35)  # scapulae turn outward in PA only
        self.density += 0.08 * edge(0.02 - np.abs(u - blade), 0.015) * edge(0.25 - np.abs(y + 0.35), 0.05)

    def _soft_parts(self, rng: np.random.Generator) -> None:
        """Windpipe, breasts, stomach gas and the unevenness of tissue."""
        x, y, anatomy = self.x, self.y, self.anatomy
        self.density -= 0.13 * edge(0.04 - np.abs(x), 0.015) * edge(anatomy.hilum(1)[1] - 0.16 - y, 0.05)
        for side in (-1, 1):
            breast = np.hypot((x - side * 0.47) / 0.33, (y - 0.22) / 0.38)
            self.density += anatomy.breasts * edge(1 - breast, 0.12)
        gas = np.hypot((x - 0.33) / 0.13, (y - anatomy.dome(1) - 0.15) / 0.05)
        self.density -= float(rng.choice([0.0, 0.16])) * edge(1 - gas, 0.25)
        self.density += 0.015 * smooth_noise(rng, x, y, 0.25)


def expose(study: Study, density: np.ndarray) -> np.ndarray:
    """Density to 8-bit pixels [size, size]: marker, noise, and an exposure and contrast of this image's own."""
    rng = study.rng("exposure", per_image=True)
    size = len(density)
    unit = max(size // 32, 1)  # the side marker is an L in the upper right corner
    row, column = rng.integers(unit, 2 * unit, endpoint=True), size - rng.integers(3 * unit, 5 * unit)
    density = density.copy()
    density[row : row + 2 * unit, column : column + max(unit // 2, 1)] = 1
    density[row + 2 * unit - max(unit // 2, 1) : row + 2 * unit, column : column + unit * 3 // 2] = 1
    low, high, gamma = rng.uniform(0.0, 0.07), rng.uniform(0.9, 1.08), rng.uniform(0.75, 1.15)
    density = density + rng.uniform(0.008, 0.018) * rng.standard_normal(density.shape, dtype=np.float32)
    pixels = low + (high - low) * np.clip(density, 0, 1) ** gamma
    return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
