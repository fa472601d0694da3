"""Images turned, zoomed, moved, mirrored and cropped in one affine warp, and boxes that go with them."""

import numpy as np


def affine(angles: np.ndarray, zooms: np.ndarray, shifts: np.ndarray, *, size: int, flipped: np.ndarray) -> np.ndarray:
    """Matrices [B, 2, 3] from changed pixels to given ones, turned and zoomed about the centre of the image.

    Args:
        angles: radians [B], counter-clockwise as seen.
        zooms: [B], above 1 enlarges.
        shifts: [B, 2] pixels (x, y) by which the content moves right and down.
    """
    cosine, sine, mirror = np.cos(angles) / zooms, np.sin(angles) / zooms, np.where(flipped, -1, 1)
    linear = np.stack([mirror * cosine, -mirror * sine, sine, cosine], axis=-1).reshape(-1, 2, 2)
    centre = (size - 1) / 2  # pixels are at whole numbers
    offset = centre - np.einsum("nij,nj->ni", linear, centre + shifts)
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def crop_start(size: int, crop_size: int) -> int:
    """Where the centre crop begins, in rows as in columns."""
    if crop_size > size:
        raise ValueError(
            f"crop_size {crop_size} is larger than the records, which have {size} pixels a side; "
            f"lower it, or take records with an --image_size of at least {crop_size}"
        )
    return (size - crop_size) // 2


def warp(images: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Images [B, S, S, 1] through matrices of `affine`, bilinear; beyond its edge an image goes on as it ends.

    Black there would put hard lines into the image and change the mean and deviation by which it is standardised.
    """
    import cv2

    size, flags = images.shape[1:3], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = np.empty_like(images)
    for image, matrix, target in zip(images, matrices, warped, strict=True):
        cv2.warpAffine(image, matrix, size[::-1], dst=target, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return warped


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, *, size: int) -> np.ndarray:
    """Where boxes lie after `warp` of their image: the smallest upright boxes round them.

    Args:
        boxes: [n, 4] (x0, y0, x1, y1) in pixels of the given image, x1 and y1 exclusive.
        matrix: [2, 3], one of `affine`.
        size: of the image, to which the result is clipped.
    """
    corners = np.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [0, 3]], boxes[:, [2, 3]]], axis=1)  # [n, 4, 2]
    corners = corners - 0.5  # edges lie half a pixel before the pixels they begin at
    moved = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T + 0.5
    return np.clip(np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1), 0, size)


def centre_crop(images, crop_size: int | None):
    """The centre of images [B, S, S, 1], of any backend or numpy; None leaves them whole."""
    if crop_size is None:
        return images
    start = crop_start(images.shape[1], crop_size)
    return images[:, start : start + crop_size, start : start + crop_size]
