"""Boxes and heat maps: frames, overlap, and the boxes detected in a heat map.

Boxes are float [n, 4] (x0, y0, x1, y1), x to the right, y down, on a continuous scale where pixel i covers i to i + 1.
So x1 - x0 is a width, and a change of frame is a scale and a shift, exact in both directions. Frames:

nih      BBox_List_2017.csv: pixels of the 1024 x 1024 release; if the image is not square, its longer side is 1024
image    pixels of the image file
model    the square input of the model: the image resized, centred on black (cxr.images.resize.resize_square)
"""

from typing import NamedTuple

import numpy as np

from cxr.findings import NIH_SIZE

CUTS = (60, 180)  # of a heat map scaled to [0, 255]: Wang et al. 2017, section 4.3


class Placement(NamedTuple):
    """Position and scale of an image in the model's frame."""

    width: int  # of the image, pixels
    height: int
    size: int  # of the model's frame, pixels per side

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height of the image inside the model's frame, whole pixels."""
        scale = self.size / max(self.width, self.height)
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))

    @property
    def corner(self) -> tuple[int, int]:
        """x and y of the image's top left corner inside the model's frame."""
        return (self.size - self.inner[0]) // 2, (self.size - self.inner[1]) // 2

    def to_model(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the image's frame in the model's frame."""
        scale = np.divide(self.inner, (self.width, self.height))
        return boxes * np.tile(scale, 2) + np.tile(self.corner, 2)

    def from_nih(self, boxes_nih: np.ndarray) -> np.ndarray:
        """Boxes of BBox_List_2017.csv in the image's frame."""
        return boxes_nih * (max(self.width, self.height) / NIH_SIZE)

    def to_nih(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the image's frame in that of BBox_List_2017.csv; the inverse of `from_nih`."""
        return boxes / (max(self.width, self.height) / NIH_SIZE)

    def heat_on_image(
        self, heat_map: np.ndarray, longer_side: int | None = None, *, covers: int | None = None
    ) -> np.ndarray:
        """A heat map over exactly the image, bilinear between the centres of cells, constant beyond the outermost.

        Args:
            heat_map: [h, w] over the model's frame, black margins included.
            longer_side: of the result, in pixels; default that of the image.
            covers: the map covers only the centre of the model's frame, so many pixels per side; default all. Outside,
                where the model has no input, the result is the minimum of the map.

        Returns:
            float64 [rows, columns] with the aspect ratio of the image.
        """
        covers = covers or self.size
        shrink = (longer_side or max(self.width, self.height)) / max(self.width, self.height)
        shape = (round(self.height * shrink), round(self.width * shrink))
        weights = []
        outside = []
        for count, pixels, corner, inner in zip(
            heat_map.shape, shape, self.corner[::-1], self.inner[::-1], strict=True
        ):
            pixels = max(1, pixels)
            places = corner + (np.arange(pixels) + 0.5) * inner / pixels - (self.size - covers) // 2
            weights.append(bilinear(count, places * count / covers))
            outside.append((places < 0) | (places > covers))
        heat = weights[0] @ heat_map.astype(np.float64) @ weights[1].T
        heat[outside[0][:, None] | outside[1][None, :]] = heat_map.min()
        return heat


def bilinear(count: int, positions: np.ndarray) -> np.ndarray:
    """Weights [n, count] of `count` cells at n positions; cell i covers i to i + 1 and has its value at i + 0.5."""
    at = np.clip(positions - 0.5, 0, count - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))


def areas(boxes: np.ndarray) -> np.ndarray:
    """Area of each box; 0 where x1 < x0 or y1 < y0."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area of the intersection of every box of a [n, 4] with every box of b [m, 4]: [n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=2)


def iou(detected: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: [n, m] in [0, 1], 0 where both are empty."""
    shared = intersections(detected, annotated)
    union = areas(detected)[:, None] + areas(annotated)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def iobb(detected: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Intersection over the area of the *detected* box of every pair (Wang et al. 2017): [n, m] in [0, 1]."""
    shared = intersections(detected, annotated)
    own = np.broadcast_to(areas(detected)[:, None], shared.shape)
    return np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)


def detect(heat_map: np.ndarray) -> np.ndarray:
    """Boxes around every connected region above 60 and every one above 180, of a heat map scaled to [0, 255].

    The minimum of the map becomes 0, its maximum 255 (Wang et al. 2017, section 4.3). Pixels that touch at a side or
    corner are connected. Equal boxes at both cuts count once.

    Args:
        heat_map: [rows, columns], finite.

    Returns:
        float64 [n, 4] in pixels of the map, the largest first; empty where the map is flat.
    """
    from scipy import ndimage

    if not np.isfinite(heat_map).all():
        raise ValueError("the heat map has NaN or infinite values: the weights of the model are damaged")
    low, high = float(heat_map.min()), float(heat_map.max())
    if high <= low:
        return np.zeros((0, 4))
    scaled = (heat_map - low) * (255 / (high - low))
    found = set()
    for cut in CUTS:
        regions, _ = ndimage.label(scaled > cut, structure=np.ones((3, 3)))
        found |= {(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(regions)}
    boxes = np.array(sorted(found), np.float64)
    return boxes[np.argsort(-areas(boxes), kind="stable")]
