"""Boxes and heat maps: from one frame to another, overlap, and the boxes that a heat map draws.

Boxes are float [n, 4] (x0, y0, x1, y1), x to the right, y down, edges on a continuous scale where pixel i reaches from
i to i + 1: so x1 - x0 is a width, and a change of frame is a multiplication and a shift, exact both ways. Frames:

nih      BBox_List_2017.csv: pixels of the 1024 x 1024 release; of an image that is not square, of its longer side
image    pixels of the image file
model    the square that the model sees: the image resized, centred on black (cxr.images.resize.resize_square)
"""

from typing import NamedTuple

import numpy as np

from cxr.findings import NIH_SIZE

CUTS = (60, 180)  # of a heat map scaled to [0, 255]: Wang et al. 2017, section 4.3


class Placement(NamedTuple):
    """How an image lies in the model's frame."""

    width: int  # of the image, pixels
    height: int
    size: int  # of the model's frame, pixels a side

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
        scale, shift = self._scale_and_shift()
        return boxes * scale + shift

    def from_model(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the model's frame in the image's frame; the inverse of `to_model`."""
        scale, shift = self._scale_and_shift()
        return (boxes - shift) / scale

    def from_nih(self, boxes_nih: np.ndarray) -> np.ndarray:
        """Boxes of BBox_List_2017.csv in the image's frame."""
        return boxes_nih * (max(self.width, self.height) / NIH_SIZE)

    def to_nih(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the image's frame in that of BBox_List_2017.csv; the inverse of `from_nih`."""
        return boxes / (max(self.width, self.height) / NIH_SIZE)

    def _scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(np.divide(self.inner, (self.width, self.height)), 2), np.tile(self.corner, 2)

    def heat_on_image(
        self, heat_map: np.ndarray, longer_side: int | None = None, *, covers: int | None = None
    ) -> np.ndarray:
        """A heat map over the image alone, bilinear between the centres of its cells, flat beyond the outermost.

        Args:
            heat_map: [h, w] over the model's frame, black margins included.
            longer_side: of the result, in pixels; default that of the image.
            covers: pixels a side of the centre of the model's frame that the map is of; default all. Outside it the
                model sees nothing, and the result is the map's minimum.

        Returns:
            float64 [rows, columns] with the aspect of the image.
        """
        covers = covers or self.size
        shrink = (longer_side or max(self.width, self.height)) / max(self.width, self.height)
        shape, weights, outside = (round(self.height * shrink), round(self.width * shrink)), [], []
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
    """Weights [n, count] of `count` cells at n positions, cell i reaching from i to i + 1 with its value at i + 0.5."""
    at = np.clip(positions - 0.5, 0, count - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))


def areas(boxes: np.ndarray) -> np.ndarray:
    """Area of each box; 0 where it is turned inside out."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that every box of a [n, 4] shares with every box of b [m, 4]: [n, m]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
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
    """Boxes round every connected region of a heat map that is above 60, and of one that is above 180, of [0, 255].

    The map's own minimum becomes 0, its maximum 255 (Wang et al. 2017, section 4.3). Pixels touch by their sides and
    corners. A region with one box at both cuts has it once.

    Args:
        heat_map: [rows, columns], finite.

    Returns:
        float64 [n, 4] in its pixels, the largest first; none where the map is flat.
    """
    from scipy import ndimage

    if not np.isfinite(heat_map).all():
        raise ValueError("a heat map has values that are not finite; the model's weights or pixels are broken")
    low, high = float(heat_map.min()), float(heat_map.max())
    if high <= low:
        return np.zeros((0, 4))
    scaled, found = (heat_map - low) * (255 / (high - low)), set()
    for cut in CUTS:
        regions, _ = ndimage.label(scaled > cut, structure=np.ones((3, 3)))
        found |= {(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(regions)}
    boxes = np.array(sorted(found), np.float64)
    return boxes[np.argsort(-areas(boxes), kind="stable")]
