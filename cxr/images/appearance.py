"""What an image looks like from afar, as a short vector that needs no network: layout, tones and texture."""

import numpy as np

GRID = 8  # cells a side of the layout
SIDE = 64  # pixels a side that texture is measured at; halved until GRID
PERCENTILES = (1, 10, 50, 90, 99)
LENGTH = GRID * GRID + len(PERCENTILES) + 4  # of the vector: layout, tones and four octaves of texture
FLAT = 1.0  # grey levels: the smallest standard deviation that grey values are divided by
FAINT = 1e-3  # added to every texture before the logarithm


def appearance_of(pixels: np.ndarray) -> np.ndarray:
    """Layout, tones and texture of a grey image.

    Brightness and contrast are removed first (mean 0, standard deviation 1), so exposure does not matter. Layout is the
    mean of each cell of an 8 x 8 grid, row by row. Tones are percentiles of the grey values. Texture is the logarithm
    of the standard deviation of what each halving from 64 x 64 to 4 x 4 pixels removes (Burt & Adelson 1983), fine to
    coarse.

    Args:
        pixels: uint8 [height, width], without the black margins of `resize.resize_square`. Any shape is stretched to a
            square.

    Returns:
        float64 [73].
    """
    import cv2

    square = cv2.resize(pixels.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    level = (square - square.mean()) / max(float(square.std()), FLAT)
    layout = cv2.resize(level, (GRID, GRID), interpolation=cv2.INTER_AREA)
    tones = np.percentile(level, PERCENTILES)
    texture = []
    while len(level) >= GRID:
        smaller = cv2.resize(level, (len(level) // 2,) * 2, interpolation=cv2.INTER_AREA)
        removed = level - cv2.resize(smaller, level.shape, interpolation=cv2.INTER_LINEAR)
        texture.append(np.log(float(removed.std()) + FAINT))
        level = smaller
    return np.concatenate([layout.ravel().astype(np.float64), tones, texture])
