"""Heat maps of an average of experiments: the mean of its members' maps."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cxr.networks.cam import HeatMapper, resize_maps

CELLS = 32  # per side of a mean map, finer than the maps of most networks


class HeatMaps(Protocol):
    """The interface of `cam.HeatMapper`."""

    method: str
    covers: int

    def __call__(self, images: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """Heat maps [B, len(columns), h, w] of images uint8 [B, S, S, 1], over the centre of `covers` pixels."""


class MeanHeatMapper:
    """The mean of several heat maps of the same images.

    Maps of different methods and networks have different scales: logits per unit of area, falls of a logit. So what is
    below 0 in a map becomes 0, and the map is divided by its sum: every member has the same weight wherever it looks.
    The map of a member that nothing speaks for stays 0. Maps of a crop are 0 around it.
    """

    def __init__(self, mappers: Sequence[HeatMapper], image_size: int) -> None:
        """Take a mapper of each member, for images of `image_size` pixels per side."""
        self.mappers = mappers
        self.method = "mean of " + ", ".join(dict.fromkeys(mapper.method for mapper in mappers))
        self.covers = image_size

    def __call__(self, images: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """As `HeatMapper.__call__`: float32 [B, len(columns), CELLS, CELLS]; each map has a sum of at most 1."""
        maps = [shares(on_whole_image(mapper(images, columns), mapper.covers / self.covers)) for mapper in self.mappers]
        return np.mean(maps, axis=0)


def on_whole_image(maps: np.ndarray, share: float) -> np.ndarray:
    """Maps [B, F, h, w] of the centre of an image, resized to CELLS per side of the whole image and 0 outside.

    Args:
        share: side of the centre over that of the image.
    """
    margin = round(CELLS * (1 - share) / 2)
    inner = CELLS - 2 * margin
    resized = resize_maps(maps.reshape(-1, *maps.shape[2:]), [inner, inner])
    padded = np.pad(resized, ((0, 0), (margin, margin), (margin, margin)))
    return padded.reshape(*maps.shape[:2], CELLS, CELLS)


def shares(maps: np.ndarray) -> np.ndarray:
    """Maps [..., h, w] without what is below 0, divided by their sums; a map without anything above 0 becomes 0."""
    positive = np.maximum(maps, 0)
    sums = positive.sum(axis=(-2, -1), keepdims=True)
    return np.divide(positive, sums, out=np.zeros_like(positive), where=sums > 0)
