"""Rotation, zoom, shift, mirroring and cropping of images in one affine warp, and of their boxes."""

import numpy as np


def affine(angles: np.ndarray, zooms: np.ndarray, shifts: np.ndarray, *, size: int, flipped: np.ndarray) -> np.ndarray:
    """Matrices [B, 2, 3] from output pixels to input pixels; rotation and zoom are about the centre of the image.

    Args:
        angles: [B] radians, counter-clockwise on the screen.
        zooms: [B]; above 1 enlarges.
        shifts: [B, 2] pixels (x, y) by which the content moves right and down.
        size: pixels per side.
        flipped: [B] bool, whether left and right are exchanged.
    """
    cosine, sine, mirror = np.cos(angles) / zooms, np.sin(angles) / zooms, np.where(flipped, -1, 1)
    linear = np.stack([mirror * cosine, -mirror * sine, sine, cosine], axis=-1).reshape(-1, 2, 2)
    centre = (size - 1) / 2  # the centre of a pixel has integer coordinates
    offset = centre - np.einsum("nij,nj->ni", linear, centre + shifts)
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def warp(images: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Images [B, S, S, 1] warped by matrices of `affine`, bilinear. Pixels beyond the edge repeat the edge.

    Black pixels there would add hard edges, and would change the mean and deviation used to standardise the image.
    """
    import cv2

    size = images.shape[1:3]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = np.empty_like(images)
    for image, matrix, target in zip(images, matrices, warped, strict=True):
        cv2.warpAffine(image, matrix, size[::-1], dst=target, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return warped


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, *, size: int) -> np.ndarray:
    """The positions of boxes after `warp` of their image: the smallest upright boxes around the warped ones.

    Args:
        boxes: [n, 4] (x0, y0, x1, y1) in pixels of the input image, x1 and y1 exclusive.
        matrix: [2, 3], one of `affine`.
        size: pixels per side of the image; the result is clipped to it.
    """
    corners = np.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [0, 3]], boxes[:, [2, 3]]], axis=1)  # [n, 4, 2]
    corners = corners - 0.5  # a box begins half a pixel before the centre of its first pixel
    moved = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T + 0.5
    return np.clip(np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1), 0, size)
