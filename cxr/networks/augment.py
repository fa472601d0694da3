"""Augmentation of training batches: geometry, lighting, noise, erasing, mixup, withheld patient inputs.

The result depends only on the seed, so a resumed run sees the same images as an uninterrupted one. Images stay uint8
and are changed by OpenCV: one warp does rotation, shift, zoom, flip and crop, and one table of 256 grey levels does
gamma, contrast and brightness. An image keeps its size: the model crops its centre (crop_size), so a random crop is a
shift of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cxr.networks.geometry import affine, warp
from cxr.networks.pixels import crop_start
from cxr.params import Params
from cxr.patient import UNKNOWN

STRENGTHS = {"none": 0, "light": 1, "medium": 2, "strong": 3}  # factor on each limit below
ROTATION = 4.0  # degrees in either direction
SHIFT = 0.03  # fraction of a side, in either direction
ZOOM = 0.05  # relative, in either direction
GAMMA = 0.1  # of log(gamma), in either direction
CONTRAST = 0.1  # relative, about middle grey, in either direction
BRIGHTNESS = 8.0  # grey levels of 255, in either direction
NOISE = 1.5  # largest standard deviation, grey levels
ERASING = 0.1  # fraction of images in which a rectangle is erased (Zhong et al. 2020)
ERASED = (0.1, 0.3)  # shortest and longest side of the rectangle, as fractions of the image
WITHHOLDING = 0.1  # fraction of training images without patient inputs, so that the model also works without them
WITHHELD = {"age": np.nan, "sex": UNKNOWN, "view_position": UNKNOWN}
NOISE_SCALE = 32.0  # standard deviation of the noise field, grey levels


class Light(NamedTuple):
    """Changes of lighting; float [B] each."""

    gamma: np.ndarray
    contrast: np.ndarray
    brightness: np.ndarray  # grey levels of 255


def changes_batches(params: Params, *, has_images: bool) -> bool:
    """Whether `change_batch` changes training batches, which hold images or features."""
    moved = params.augmentation != "none" or params.horizontal_flip or params.crop_size
    return bool((has_images and moved) or params.mixup or params.metadata)


def change_batch(
    columns: dict[str, np.ndarray], labels: np.ndarray, params: Params, *, seed: Sequence[int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Augment a training batch.

    Args:
        columns: "image" uint8 [B, S, S, 1], which is augmented and mixed, or features float32 [B, D], which are mixed;
            and "age", "sex" and "view_position" [B], which are withheld in some rows.
        labels: float32 [B, 14], mixed like their images.
        seed: non-negative integers that determine everything random.
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
        columns |= withhold(columns, random.random(len(labels)) < WITHHOLDING)
    return columns, labels


def augment(images: np.ndarray, params: Params, random: np.random.Generator) -> np.ndarray:
    """Images uint8 [B, S, S, 1], each with its own random changes of the strength params.augmentation."""
    return augment_with_matrices(images, params, random)[0]


def augment_with_matrices(
    images: np.ndarray, params: Params, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of `augment` and, if they were warped, the matrices [B, 2, 3] for `geometry.move_boxes`."""
    strength = STRENGTHS[params.augmentation]
    count, size = images.shape[:2]
    matrices = None
    if strength or params.horizontal_flip or params.crop_size:
        matrices = draw_matrices(params, count, size, random=random)
        images = warp(images, matrices)
    if strength:
        images = relight(images, draw_light(strength, count, random))
        images = add_noise(images, random.uniform(0, NOISE * strength, count), random)
        images = erase(images, random.random(count) < ERASING * strength, random)
    return images, matrices


def draw_matrices(params: Params, count: int, size: int, *, random: np.random.Generator) -> np.ndarray:
    """Random affine matrices float64 [count, 2, 3] from pixels (x, y) of the output image to those of the input."""
    strength = STRENGTHS[params.augmentation]
    angles = np.deg2rad(ROTATION) * strength * random.uniform(-1, 1, count)
    zooms = 1 + ZOOM * strength * random.uniform(-1, 1, count)
    shifts = SHIFT * strength * size * random.uniform(-1, 1, (count, 2))
    flipped = random.random(count) < 0.5 * params.horizontal_flip
    matrices = affine(angles, zooms, shifts, size=size, flipped=flipped)
    if params.crop_size:
        start = crop_start(size, params.crop_size)
        offsets = random.integers(-start, size - params.crop_size - start, (count, 2), endpoint=True)
        matrices[:, :, 2] += np.einsum("nij,nj->ni", matrices[:, :, :2], offsets)  # crop first
    return matrices


def draw_light(strength: float, count: int, random: np.random.Generator) -> Light:
    """Random changes of lighting for `count` images."""
    gamma, contrast, brightness = strength * random.uniform(-1, 1, (3, count))
    return Light(np.exp(GAMMA * gamma), 1 + CONTRAST * contrast, BRIGHTNESS * brightness)


def relight(images: np.ndarray, light: Light) -> np.ndarray:
    """Images with grey values v mapped to 255 * (((v / 255)^gamma - 1/2) * contrast + 1/2) + brightness."""
    import cv2

    gamma, contrast, brightness = (values[:, None] for values in light)
    greys = (np.linspace(0, 1, 256) ** gamma - 0.5) * contrast + 0.5  # [B, 256]
    tables = np.clip(np.rint(greys * 255 + brightness), 0, 255).astype(np.uint8)
    return np.stack([cv2.LUT(image, table) for image, table in zip(images, tables, strict=True)]).reshape(images.shape)


def add_noise(images: np.ndarray, deviations: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Images plus normal noise; `deviations` [B] are standard deviations in grey levels.

    All images of the batch use one noise field, each from a random offset: drawing noise for each image would take
    longer than all other changes together.
    """
    import cv2

    pixels = images[0].size
    field = random.standard_normal(2 * pixels, dtype=np.float32) * NOISE_SCALE + 128
    field = np.clip(np.rint(field), 0, 255).astype(np.uint8)
    offsets = random.integers(0, pixels, len(images))
    for image, offset, scale in zip(images, offsets, deviations / NOISE_SCALE, strict=True):
        noise = field[offset : offset + pixels].reshape(image.shape)
        cv2.addWeighted(image, 1.0, noise, scale, -128 * scale, dst=image)
    return images


def erase(images: np.ndarray, chosen: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Images in which the chosen ones have a random rectangle filled with one grey level."""
    size = images.shape[1]
    for row in np.flatnonzero(chosen):
        height, width = np.rint(random.uniform(*ERASED, 2) * size).astype(int)
        top, left = random.integers(0, size - height), random.integers(0, size - width)
        images[row, top : top + height, left : left + width] = random.integers(256)
    return images


def mix(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mix row i with row B-1-i of values [B, ...]: share * x + (1 - share) * x', where `share` is [B]."""
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    mixed = values * share + values[::-1] * (1 - share)
    return np.rint(mixed).astype(values.dtype) if values.dtype == np.uint8 else mixed


def withhold(columns: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
    """The patient inputs with the chosen rows set to unknown."""
    return {
        name: np.where(chosen, value, columns[name]).astype(columns[name].dtype) for name, value in WITHHELD.items()
    }


def tta_images(images: np.ndarray, copy: int, crop_size: int | None) -> np.ndarray:
    """Copies of images [B, S, S, 1] for test-time augmentation; all images change in the same way.

    Copy 0 is the image itself. With a crop_size copies 1 to 4 are the crops at the corners. All others are rotated,
    shifted and zoomed as in light augmentation.
    """
    if copy == 0:
        return images
    size = images.shape[1]
    random = np.random.default_rng(copy)
    [matrix] = draw_matrices(Params(augmentation="light", crop_size=crop_size), 1, size, random=random)
    if crop_size and copy <= 4:
        start = crop_start(size, crop_size)
        ends = (-start, size - crop_size - start)
        matrix = np.array([[1.0, 0.0, ends[(copy - 1) % 2]], [0.0, 1.0, ends[(copy - 1) // 2]]])
    return warp(images, np.broadcast_to(matrix, (len(images), 2, 3)))
