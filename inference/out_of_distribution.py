"""Whether an image is unlike those of training: by its distance from them, or by the checks of `pictures`."""

import math
from typing import NamedTuple

from cxr.evaluation.out_of_distribution import Distances
from inference.pictures import Picture


class Judgement(NamedTuple):
    """Whether an image is out of distribution, and how far it is from the images of training."""

    out_of_distribution: bool | None  # None: no check failed, and distances are not fitted
    distance: float  # nan: not fitted


def judge(picture: Picture, distances: Distances | None) -> Judgement:
    """Judge one image; `distances` is None for an experiment without fitted distances."""
    if distances is None:
        return Judgement(True if picture.fails_check else None, math.nan)
    distance = float(distances.distance(picture.appearance))
    return Judgement(picture.fails_check or distance > distances.threshold, distance)
