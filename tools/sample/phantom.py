"""A healthy chest, drawn with numpy like a frontal radiograph.

Coordinates and sides are those of `anatomy`. Density is 0 for air and about 1 for metal.
"""

import numpy as np

from tools.sample.anatomy import Anatomy, RadiographSpec


def grid(spec: RadiographSpec, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Chest coordinates x, y of every pixel, [size, size] float32 each: the inverse of this image's pose."""
    rng = spec.rng("pose", per_image=True)
    angle = np.deg2rad(rng.uniform(-4, 4))
    zoom = rng.uniform(0.95, 1.08) if spec.view_position == "PA" else rng.uniform(0.88, 1.03)
    shift_x, shift_y = rng.uniform(-0.05, 0.05, 2)
    axis = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    x, y = (axis[None, :] - shift_x) / zoom, (axis[:, None] - shift_y) / zoom
    cos, sin = np.cos(angle), np.sin(angle)
    return (x * cos + y * sin).astype(np.float32), (y * cos - x * sin).astype(np.float32)


def edge(distance: np.ndarray, softness: float = 0.015) -> np.ndarray:
    """0 outside, 1 inside, with a ramp of width 2 * softness where the signed distance is 0."""
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
    """Soft mask of one lung, with the heart included."""
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
    """A radiograph while it is drawn: findings change `density` and read the other attributes."""

    def __init__(self, spec: RadiographSpec, anatomy: Anatomy, size: int):
        self.anatomy = anatomy
        self.severity = spec.rng("severity", per_image=True).uniform(0.8, 1.0)  # varies between visits
        self.x, self.y = grid(spec, size)  # [size, size]
        self.lung = {side: lung_shape(anatomy, side, self.x, self.y) for side in (-1, 1)}
        self.lungs = self.lung[-1] + self.lung[1]
        self.heart = heart_shape(anatomy, self.x, self.y)
        self.density = self._tissue()
        self.markings = self._vessels(spec.rng("vessels", per_image=False))
        self.density += self.markings
        self._bones(is_ap=spec.view_position == "AP")
        self._soft_parts(spec.rng("soft parts", per_image=False))

    def opacify(self, mask: np.ndarray, amount: float) -> None:
        """Raise the density towards that of dense tissue; tissue that is already dense hardly changes."""
        self.density += self.severity * amount * mask * np.maximum(0.92 - self.density, 0)

    def _tissue(self) -> np.ndarray:
        """Body, lungs and heart without details."""
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
        """Lung markings: winding streaks from each hilum that become thinner towards the chest wall."""
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
        """Windpipe, breasts, stomach gas and uneven tissue."""
        x, y, anatomy = self.x, self.y, self.anatomy
        self.density -= 0.13 * edge(0.04 - np.abs(x), 0.015) * edge(anatomy.hilum(1)[1] - 0.16 - y, 0.05)
        for side in (-1, 1):
            breast = np.hypot((x - side * 0.47) / 0.33, (y - 0.22) / 0.38)
            self.density += anatomy.breasts * edge(1 - breast, 0.12)
        gas = np.hypot((x - 0.33) / 0.13, (y - anatomy.dome(1) - 0.15) / 0.05)
        self.density -= float(rng.choice([0.0, 0.16])) * edge(1 - gas, 0.25)
        self.density += 0.015 * smooth_noise(rng, x, y, 0.25)


def expose(spec: RadiographSpec, density: np.ndarray) -> np.ndarray:
    """Turn density into 8-bit pixels [size, size], with a side marker, noise, and a random exposure and contrast."""
    rng = spec.rng("exposure", per_image=True)
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
