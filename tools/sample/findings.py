"""The 14 findings, each drawn on a phantom chest with its radiological signs. Every function returns a box."""

import numpy as np

from tools.sample.anatomy import pick_side
from tools.sample.phantom import Chest, edge, lung_shape, smooth_noise

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive


def box_of(mask: np.ndarray) -> Box:
    """The smallest box around mask values above 0.35, or above 0.9 of the maximum if that is lower."""
    rows, columns = np.nonzero(mask > min(0.35, 0.9 * float(mask.max())))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def draw_atelectasis(chest: Chest, rng: np.random.Generator) -> Box:
    """One or two plates across the base of the lung, or a wedge from the hilum to the diaphragm."""
    side = pick_side(rng)
    u, base = chest.x * side, chest.anatomy.dome(side)
    tilt, reach = rng.uniform(-0.35, 0.35), rng.uniform(0.15, 0.21)
    middle = 0.58 * chest.anatomy.half_width
    if rng.uniform() < 0.6:
        mask = np.zeros_like(u)
        for up in (0.10, 0.22)[: rng.integers(1, 3)]:
            across = chest.y - (base - up) - tilt * (u - middle)
            mask = np.maximum(mask, edge(0.028 - np.abs(across), 0.012) * edge(reach - np.abs(u - middle), 0.05))
    else:
        down = chest.y - (base - 0.42)
        mask = edge(down) * edge(0.16 + 0.75 * down - u, 0.02)
    mask = mask * chest.lung[side]
    chest.opacify(mask, 0.72)
    return box_of(mask)


def draw_cardiomegaly(chest: Chest, rng: np.random.Generator) -> Box:
    """The anatomy has the wide heart; here only its density over the lungs is raised."""
    chest.opacify(chest.heart, rng.uniform(0.15, 0.30))
    return box_of(chest.heart * (chest.y < chest.anatomy.dome(1) + 0.10))


def draw_effusion(chest: Chest, rng: np.random.Generator) -> Box:
    """Fluid that fills the costophrenic angle: a meniscus at the chest wall that hides the diaphragm."""
    side = pick_side(rng)
    u = chest.x * side / chest.anatomy.half_width
    level = chest.anatomy.dome(side) - rng.uniform(0.06, 0.30)
    surface = level + 0.05 - rng.uniform(0.18, 0.28) * np.clip((u - 0.35) / 0.65, 0, 1) ** 2.5
    mask = edge(chest.y - surface, 0.025) * np.minimum(2 * chest.lung[side], 1)
    chest.opacify(mask * (1 - 0.6 * chest.heart), 0.85)
    return box_of(mask)


def draw_infiltration(chest: Chest, rng: np.random.Generator) -> Box:
    """Several ill-defined fluffy patches in one lung or both."""
    mask, sides = np.zeros_like(chest.x), ((-1,), (1,), (-1, 1), (-1, 1))[rng.integers(4)]
    for _ in range(rng.integers(8, 13)):
        side = int(rng.choice(sides))
        x = side * rng.uniform(0.27, 0.62)
        y = rng.uniform(chest.anatomy.apex + 0.25, chest.anatomy.dome(side) - 0.08)
        mask += np.exp(-((chest.x - x) ** 2 + (chest.y - y) ** 2) / rng.uniform(0.06, 0.11) ** 2)
    mask = np.minimum(mask, 1) * (0.8 + 0.2 * smooth_noise(rng, chest.x, chest.y, 0.06)) * chest.lungs
    chest.opacify(mask, 0.8)
    return box_of(mask)


def draw_round(chest: Chest, rng: np.random.Generator, *, radius: float, amount: float) -> Box:
    """A round opacity with a slightly lobed border."""
    side = pick_side(rng)
    anatomy = chest.anatomy
    xs = side * rng.uniform(0.28, anatomy.half_width - 0.08 - radius * 0.7, 6)
    ys = rng.uniform(anatomy.apex + 0.2 + radius, anatomy.dome(side) - 0.05 - radius, 6)
    near = [np.hypot(chest.x - float(x), chest.y - float(y)) < radius for x, y in zip(xs, ys, strict=True)]
    darkest = np.argmin([chest.density[disc].mean() for disc in near])  # where heart or consolidation do not hide it
    x, y = float(xs[darkest]), float(ys[darkest])
    angle = np.arctan2(chest.y - y, chest.x - x)
    lobed = radius * (1 + 0.05 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.03 * np.sin(5 * angle + rng.uniform(0, 6)))
    mask = edge(lobed - np.hypot(chest.x - x, chest.y - y), 0.018)
    chest.opacify(mask, amount)
    return box_of(mask)


def draw_mass(chest: Chest, rng: np.random.Generator) -> Box:
    return draw_round(chest, rng, radius=rng.uniform(0.13, 0.20), amount=rng.uniform(0.7, 0.85))


def draw_nodule(chest: Chest, rng: np.random.Generator) -> Box:
    return draw_round(chest, rng, radius=rng.uniform(0.060, 0.078), amount=rng.uniform(0.9, 1.0))


def draw_pneumonia(chest: Chest, rng: np.random.Generator) -> Box:
    """A filled segment with air in its bronchi: a ragged patch with dark branches from the hilum."""
    side = pick_side(rng)
    hilum_x, hilum_y = chest.anatomy.hilum(side)
    x, y = side * rng.uniform(0.40, 0.50), rng.uniform(-0.30, chest.anatomy.dome(side) - 0.18)
    near = np.hypot((chest.x - x) / rng.uniform(0.21, 0.26), (chest.y - y) / rng.uniform(0.18, 0.24))
    ragged = smooth_noise(rng, chest.x, chest.y, 0.09)
    mask = edge(1 - near + 0.14 * ragged, 0.28) * chest.lung[side]
    chest.opacify(mask, 0.68)
    dx, dy = chest.x - hilum_x, chest.y - hilum_y
    r = np.hypot(dx, dy)
    turned = (np.arctan2(dy, dx) - np.arctan2(y - hilum_y, x - hilum_x) + np.pi) % (2 * np.pi) - np.pi
    for branch in (-0.5, -0.17, 0.17, 0.5):
        off = r * np.abs(turned - branch * (0.5 + r) + 0.04 * ragged)
        chest.density -= 0.22 * edge(0.016 - off, 0.012) * mask * edge(0.9 - near, 0.2)
    return box_of(mask)


def draw_pneumothorax(chest: Chest, rng: np.random.Generator) -> Box:
    """Air between the chest wall and a collapsed lung: black, without markings, beside a thin white pleural line."""
    side = pick_side(rng)
    hilum_x, hilum_y = chest.anatomy.hilum(side)
    shrink, lung = rng.uniform(0.55, 0.74), chest.lung[side]
    scale = shrink + (1 - shrink) * np.clip((chest.y - hilum_y) / 0.45, 0, 1)  # the gap narrows towards the base
    x, y = hilum_x + (chest.x - hilum_x) / scale, hilum_y + (chest.y - 0.06 - hilum_y) / scale
    inner = lung_shape(chest.anatomy, side, x, y)
    root = edge(chest.anatomy.mediastinum + 0.06 - chest.x * side, 0.05) * edge(chest.y - hilum_y + 0.3, 0.05)
    inner = np.maximum(inner, np.maximum(root, edge(chest.y - hilum_y - 0.35, 0.05)))
    rim = (1 - inner) * lung
    chest.density -= rim * (0.09 + chest.markings)
    chest.opacify(inner * lung, 0.12)
    chest.opacify(4 * inner * (1 - inner) * lung, 0.5)
    return box_of(rim)


def draw_consolidation(chest: Chest, rng: np.random.Generator) -> Box:
    """A lobe without air: dense, even, with a straight border at the fissure."""
    side = pick_side(rng)
    fissure = rng.uniform(-0.22, -0.04) + rng.uniform(-0.22, 0.22) * (chest.x * side - 0.4)
    above = fissure - chest.y
    if rng.uniform() < 0.3:  # the lobe below the fissure
        above = np.minimum(-above, 0.34 + above)
    mask = edge(above, 0.012) * np.minimum(1.3 * chest.lung[side], 1)
    chest.opacify(mask, rng.uniform(0.68, 0.82))
    return box_of(mask)


def draw_edema(chest: Chest, rng: np.random.Generator) -> Box:
    """Haze around both hila in the shape of bat wings, without the outer third of the lungs."""
    reach, height = rng.uniform(0.22, 0.27), rng.uniform(0.28, 0.38)
    mask = np.zeros_like(chest.x)
    for side in (-1, 1):
        x, y = chest.anatomy.hilum(side)
        mask += chest.lung[side] * np.exp(-(((chest.x - x) / reach) ** 4) - ((chest.y - y - 0.03) / height) ** 4)
    mask *= 0.9 + 0.12 * smooth_noise(rng, chest.x, chest.y, 0.05)
    chest.opacify(mask, rng.uniform(0.50, 0.65))
    return box_of(mask)


def draw_emphysema(chest: Chest, rng: np.random.Generator) -> Box:
    """The anatomy has the long lungs; here they become darker and lose their markings, unevenly."""
    patchy = rng.uniform(0.03, 0.06) + 0.02 * smooth_noise(rng, chest.x, chest.y, 0.3)
    chest.density -= chest.lungs * (1 - chest.heart) * (np.maximum(patchy, 0) + 0.6 * chest.markings)
    return box_of(chest.lungs)


def draw_fibrosis(chest: Chest, rng: np.random.Generator) -> Box:
    """A net of fine lines in the lower zones of both lungs, densest at the base."""
    start = rng.uniform(-0.10, 0.05)
    warp = 0.035 * smooth_noise(rng, chest.x, chest.y, 0.12)
    net = np.zeros_like(chest.x)
    for angle in rng.uniform(0, 0.5) + np.array((0, 1.05, 2.09), np.float32):
        wave = np.cos((chest.x * np.cos(angle) + chest.y * np.sin(angle) + warp) * 2 * np.pi / 0.10)
        net = np.maximum(net, edge(wave - 0.80, 0.25))
    zone = chest.lungs * (1 - 0.7 * chest.heart) * edge(chest.y - start - 0.1, 0.2)
    chest.opacify(net * zone, rng.uniform(0.45, 0.6))
    return box_of(zone)


def draw_pleural_thickening(chest: Chest, rng: np.random.Generator) -> Box:
    """A white band inside the chest wall, on one side or both, from the apex down."""
    mask, sides = np.zeros_like(chest.x), ((-1,), (1,), (-1, 1))[rng.integers(3)]
    for side in sides:
        x, y = 0.18 * side, 0.6
        shrink = rng.uniform(0.85, 0.90) + 0.012 * smooth_noise(rng, chest.x, chest.y, 0.25)
        inner = lung_shape(chest.anatomy, side, x + (chest.x - x) / shrink, y + (chest.y - y) / shrink)
        reach = edge(chest.x * side - 0.26, 0.10) * edge(rng.uniform(0.0, 0.35) - chest.y, 0.12)
        mask += (1 - inner) * chest.lung[side] * reach
    chest.opacify(mask, rng.uniform(0.65, 0.85))
    return box_of(mask)


def draw_hernia(chest: Chest, rng: np.random.Generator) -> Box:
    """Stomach behind the heart: a round wall, with gas above a fluid level."""
    radius = rng.uniform(0.14, 0.19)
    x, y = rng.uniform(-0.04, 0.14), chest.anatomy.dome(1) - rng.uniform(0.02, 0.12)
    inside = radius - np.hypot((chest.x - x) / 1.15, chest.y - y)
    sac = edge(inside)
    gas = sac * edge(y + rng.uniform(-0.03, 0.03) - chest.y, 0.012)
    chest.density += sac * (0.80 - chest.density) * 0.7 - 0.36 * gas
    chest.opacify(edge(0.016 - np.abs(inside), 0.012), 0.7)
    return box_of(sac)
