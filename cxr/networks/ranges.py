"""The values that a network is fed for the grey levels 0 to 255, and whether its features look right for them."""

from collections.abc import Callable

import numpy as np

from cxr.specs import RADIMAGENET, is_radimagenet

IMAGENET_MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)  # of keras.applications' mode "caffe"
ROUNDING = 2**-10  # relative spacing of float16, in which features are cached
FEWEST_VALUES = 1000  # of features; fewer are too few to call them saturated
SATURATED = 0.99  # share of features at the lowest or the highest value


def stated_range(spec: dict) -> Callable | None:
    """The map of RGB pixels [0, 255] to the range that a spec asks for; None if it leaves that to its source."""
    if spec.get("range") == RADIMAGENET or ("range" not in spec and "mean" not in spec and is_radimagenet(spec)):
        return radimagenet_range
    if "range" in spec:
        low, high = spec["range"]
        return lambda pixels: pixels * ((high - low) / 255.0) + low
    if "mean" in spec:
        mean, std = (np.asarray(spec[key], np.float32) for key in ("mean", "std"))
        return lambda pixels: (pixels / 255.0 - mean) / std
    return None


def radimagenet_range(pixels):
    """RGB pixels [0, 255] as in the training scripts of RadImageNet: (BGR - ImageNet's mean) / 255 for every network.

    They pass both rescale=1/255 and preprocessing_function=imagenet_utils.preprocess_input to ImageDataGenerator, which
    applies the function, in its mode "caffe", before the factor.
    """
    return (pixels[..., ::-1] - IMAGENET_MEAN_BGR) / 255.0


def fed(size: int, to_range: Callable | None) -> str:
    """What a network is fed, in words: "224 x 224 pixels, black is -1, white is 1"; None is per-image standardised."""
    if to_range is None:
        return f"{size} x {size} pixels, standardised per image"
    black, white = (_words(to_range(np.full((1, 1, 1, 3), grey, np.float32))) for grey in (0, 255))
    return f"{size} x {size} pixels, black is {black}, white is {white}"


def _words(colour) -> str:
    values = [f"{value:.4g}" for value in np.asarray(colour).ravel().tolist()]
    return values[0] if len({*values}) == 1 else f"[{', '.join(values)}]"


def require_live(features: np.ndarray, images: np.ndarray, *, name: str, words: str) -> None:
    """Raise ValueError if the first features of a network do not depend on the image, or almost all are saturated.

    Both happen where the input has another range or size than in the network's training.

    Args:
        features: [n, D], of the images uint8 [n, H, W, 1].
        words: what the network was fed, see `fed`.
    """
    distinct = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)[1]
    if len(distinct) < 2 or not np.isfinite(features).all():
        return
    values = features[np.sort(distinct)].astype(np.float32)
    spread = np.ptp(values, axis=0)
    size = np.abs(values).max(axis=0)
    if (spread <= ROUNDING * size).all():
        raise ValueError(
            f"the features of {name} are constant: the same for all {len(distinct)} different images of the first "
            f"batch. {advice(words)}"
        )
    at_ends = np.isin(values, (values.min(), values.max())).mean()
    if values.size >= FEWEST_VALUES and at_ends >= SATURATED:
        raise ValueError(
            f"the features of {name} are saturated: {100 * at_ends:.1f} % of them in the first batch are "
            f"{values.min():.4g} or {values.max():.4g}. {advice(words)}"
        )


def advice(words: str) -> str:
    """What to check where features are wrong."""
    return (
        f'The network was fed {words}; correct "range" (or "mean" and "std"), "image_size" or the weights of its '
        "extractor in params.json"
    )
