"""Training images changed at random, batch by batch: geometry, light, noise, erasing, mixing.

A function of its seed and of nothing else, so that a resumed run sees the images of an uninterrupted one. It works on
uint8 in OpenCV: one warp for rotation, shift, zoom, flip and crop together, one table of 256 greys for gamma, contrast
and brightness together. An image keeps its size: where the model cuts the centre out of it (crop_size), another crop is
the same image moved.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cxr.networks.geometry import affine, crop_start, warp
from cxr.params import Params
from cxr.patient import UNKNOWN

STRENGTHS = {"none": 0, "light": 1, "medium": 2, "strong": 3}  # what each limit below is multiplied with
ROTATION = 4.0  # degrees either way
SHIFT = 0.03  # of a side, either way
ZOOM = 0.05  # share either way
GAMMA = 0.1  # of its logarithm, either way
CONTRAST = 0.1  # share either way, about middle grey
BRIGHTNESS = 8.0  # greys of 255, either way
NOISE = 1.5  # greys, at most, of the standard deviation
ERASING = 0.1  # share of the images of which a rectangle is erased (Zhong et al. 2020)
ERASED = (0.1, 0.3)  # of a side: the sides of such a rectangle
FORGETTING = (
    0.1  # share of the images whose age, sex and view position are withheld in training, so that a model can do without
)
WITHHELD = {"age": np.nan, "sex": UNKNOWN, "view_position": UNKNOWN}
NOISE_SCALE = 32.0  # greys of one standard deviation in the field of noise


class Light(NamedTuple):
    """How the greys of images change; float [B] each."""

    gamma: np.ndarray
    contrast: np.ndarray
    brightness: np.ndarray  # greys of 255


def changes_batches(params: Params, *, has_images: bool) -> bool:
    """Whether `change_batch` does anything to training batches with images or without."""
    moved = params.augmentation != "none" or params.horizontal_flip or params.crop_size
    return bool((has_images and moved) or params.mixup or params.metadata)


def change_batch(
    columns: dict[str, np.ndarray], labels: np.ndarray, params: Params, *, seed: Sequence[int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A training batch as the model is to see it this time.

    Args:
        columns: "image" uint8 [B, S, S, 1] is augmented; it, or else features float32 [B, D], are mixed; of "age",
            "sex" and "view_position" [B] some are withheld.
        labels: float32 [B, 14]; mixed as their images are.
        seed: numbers of at least 0 from which everything random follows.
    """
    random = np.random.default_rng(seed)
    columns = dict(columns)
    if "image" in columns:
        columns["image"] = augment(columns["image"], params, random)
    if params.mixup:
        share = random.beta(params.mixup, params.mixup, len(labels)).astype(np.float32)
        columns |= {name: mix(values, share) for name, values in columns.items() if name not in WITHHELD}
        labels = mix(labels, share)
    if params.metadata and "age" in columns:
        columns |= forget(columns, random.random(len(labels)) < FORGETTING)
    return columns, labels


def augment(images: np.ndarray, params: Params, random: np.random.Generator) -> np.ndarray:
    """Images uint8 [B, S, S, 1], each changed by draws of its own, as far as params.augmentation says."""
    return augment_with_matrices(images, params, random)[0]


def augment_with_matrices(
    images: np.ndarray, params: Params, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """The same, and how each image was moved: matrices [B, 2, 3] for `geometry.move_boxes`, None if none was."""
    strength, (count, size), matrices = STRENGTHS[params.augmentation], images.shape[:2], None
    if strength or params.horizontal_flip or params.crop_size:
        matrices = draw_matrices(params, count, size, random=random)
        images = warp(images, matrices)
    if strength:
        images = relight(images, draw_light(strength, count, random))
        images = add_noise(images, random.uniform(0, NOISE * strength, count), random)
        images = erase(images, random.random(count) < ERASING * strength, random)
    return images, matrices


def draw_matrices(params: Params, count: int, size: int, *, random: np.random.Generator) -> np.ndarray:
    """Affine matrices float64 [count, 2, 3] from pixels (x, y) of the changed image to those of the given one."""
    strength = STRENGTHS[params.augmentation]
    angles = np.deg2rad(ROTATION) * strength * random.uniform(-1, 1, count)
    zooms = 1 + ZOOM * strength * random.uniform(-1, 1, count)
    shifts = SHIFT * strength * size * random.uniform(-1, 1, (count, 2))
    flipped = random.random(count) < 0.5 * params.horizontal_flip
    matrices = affine(angles, zooms, shifts, size=size, flipped=flipped)
    if params.crop_size:
        start = crop_start(size, params.crop_size)
        offsets = random.integers(-start, size - params.crop_size - start, (count, 2), endpoint=True)
        matrices[:, :, 2] += np.einsum("nij,nj->ni", matrices[:, :, :2], offsets)  # first to the crop, then the rest
    return matrices


def draw_light(strength: float, count: int, random: np.random.Generator) -> Light:
    """Changes of light for `count` images."""
    gamma, contrast, brightness = strength * random.uniform(-1, 1, (3, count))
    return Light(np.exp(GAMMA * gamma), 1 + CONTRAST * contrast, BRIGHTNESS * brightness)


def relight(images: np.ndarray, light: Light) -> np.ndarray:
    """Images through ((v / 255)^gamma - 1/2) * contrast + 1/2, in greys, plus brightness."""
    import cv2

    gamma, contrast, brightness = (values[:, None] for values in light)
    greys = (np.linspace(0, 1, 256) ** gamma - 0.5) * contrast + 0.5  # [B, 256]
    tables = np.clip(np.rint(greys * 255 + brightness), 0, 255).astype(np.uint8)
    return np.stack([cv2.LUT(image, table) for image, table in zip(images, tables, strict=True)]).reshape(images.shape)


def add_noise(images: np.ndarray, deviations: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Images plus normal noise of a standard deviation each, in greys.

    One field of noise serves the batch, each image from another place: drawing it anew costs more than all the rest.
    """
    import cv2

    pixels = images[0].size
    field = random.standard_normal(2 * pixels, dtype=np.float32) * NOISE_SCALE + 128
    field = np.clip(np.rint(field), 0, 255).astype(np.uint8)
    places = random.integers(0, pixels, len(images))
    for image, place, scale in zip(images, places, deviations / NOISE_SCALE, strict=True):
        noise = field[place : place + pixels].reshape(image.shape)
        cv2.addWeighted(image, 1.0, noise, scale, -128 * scale, dst=image)
    return images


def erase(images: np.ndarray, chosen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Images of which the chosen ones have lost a rectangle to one grey."""
    size = images.shape[1]
    for place in np.flatnonzero(chosen):
        height, width = np.rint(random.uniform(*ERASED, 2) * size).astype(int)
        top, left = random.integers(0, size - height), random.integers(0, size - width)
        images[place, top : top + height, left : left + width] = random.integers(256)
    return images


def mix(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Each row of [B, ...] by its share, plus the row that faces it when the batch is read backwards by the rest."""
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    mixed = values * share + values[::-1] * (1 - share)
    return np.rint(mixed).astype(values.dtype) if values.dtype == np.uint8 else mixed


def forget(columns: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
    """The patients' columns with the chosen rows unknown."""
    return {
        name: np.where(chosen, value, columns[name]).astype(columns[name].dtype) for name, value in WITHHELD.items()
    }


def tta_images(images: np.ndarray, copy: int, crop_size: int | None) -> np.ndarray:
    """Images [B, S, S, 1] as a copy for test-time augmentation, over which logits are averaged; all change alike.

    Copy 0 is the image itself. With a crop_size 1 to 4 are the crops at the corners; all others are turned, shifted and
    zoomed a little, as by light augmentation.
    """
    if copy == 0:
        return images
    size = images.shape[1]
    random = np.random.default_rng(copy)
    [matrix] = draw_matrices(Params(augmentation="light", crop_size=crop_size), 1, size, random=random)
    if crop_size and copy <= 4:
        start = crop_start(size, crop_size)
        low, high = -start, size - crop_size - start
        matrix = np.array([[1.0, 0.0, (low, high)[(copy - 1) % 2]], [0.0, 1.0, (low, high)[(copy - 1) // 2]]])
    return warp(images, np.broadcast_to(matrix, (len(images), 2, 3)))
