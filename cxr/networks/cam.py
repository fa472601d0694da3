"""Heat maps: which parts of an image raise the logit of a finding.

cam          class activation map (Zhou et al. 2016): exact where the logits are linear in the pooled last feature map
grad_cam     Selvaraju et al. 2017: weights each channel of the last feature map by its mean gradient
grad_cam++   Chattopadhay et al. 2018: weights positive gradients by pixel, for several occurrences of a finding
layer_cam    Jiang et al. 2021: weights each pixel by its own gradient, so it also suits an earlier, finer feature map
occlusion    Zeiler & Fergus 2014: how much a logit falls when a cell is covered; needs no gradient, suits any model

The maps of several extractors are resized to one grid and added, each as logit per unit of area, so an extractor that
the head ignores adds nothing. The gradient methods need the TensorFlow backend; cam and occlusion run on any.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr.networks import cutting, patient

if TYPE_CHECKING:
    import keras

METHODS = ("auto", "cam", "grad_cam", "grad_cam++", "layer_cam", "occlusion")
FINE_CELLS = 7  # per side, as at the end of ImageNet networks at 224 pixels; a nodule is lost in coarser maps
OCCLUSION_CELLS = 8  # per side: 64 extra passes per image
OCCLUSION_BATCH = 64


class HeatMapper:
    """Heat maps of one model. It shares the layers of the model, so further training changes its maps too."""

    def __init__(self, model: "keras.Model", method: str = "auto", *, crop_size: int | None = None) -> None:
        """Cut the model where the method needs it.

        Args:
            model: {"image": uint8 [B, S, S, 1]} to logits [B, findings], as `assembly.trained_model` makes it. Patient
                inputs, if it has any, are set to unknown.
            method: one of METHODS. "auto" is cam or grad_cam if the last feature map has FINE_CELLS per side, layer_cam
                on an earlier map if it is coarser, and occlusion if the model exposes no feature map.
            crop_size: crop_size of the model's params; None if its networks see the whole image.

        Raises:
            ValueError: the method does not suit the model or the backend.
        """
        import keras

        self.model = model = patient.image_only(model)
        self.method = fitting_method(model) if method == "auto" else method
        image_size = model.input["image"].shape[1]
        # Pixels per side of the centre square that a map covers.
        self.covers = image_size if self.method == "occlusion" else crop_size or image_size
        if self.method == "cam" and not cutting.has_linear_head(model):
            raise ValueError(f"{model.name} is not linear after its pooling; cam needs that, use grad_cam or occlusion")
        if self.method in ("cam", "occlusion"):
            return
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"{self.method} needs the TensorFlow backend, not {keras.backend.backend()}; use occlusion"
            )
        self.lower, self.upper = cutting.cut_model(model, FINE_CELLS if self.method == "layer_cam" else 1)

    def __call__(self, images: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """Heat maps of some findings.

        Args:
            images: uint8 [B, S, S, 1].
            columns: indexes of the findings in the logits.

        Returns:
            float32 [B, len(columns), h, w], over the centre square of `covers` pixels per side. The mean of a cam map
            is the logit without its bias; maps of the other methods are at least 0.
        """
        if self.method == "cam":
            return class_activation_maps(self.model, images, columns)
        if self.method == "occlusion":
            return occlusion_maps(self._logits, images, columns)
        return gradient_maps(self.lower, self.upper, images, columns=columns, method=self.method)

    def _logits(self, images: np.ndarray) -> np.ndarray:
        return self.model.predict({"image": images}, batch_size=OCCLUSION_BATCH, verbose=0)


class OcclusionMapper:
    """Heat maps by occlusion of any network, with the interface of HeatMapper."""

    method = "occlusion"

    def __init__(self, logits: Callable[[np.ndarray], np.ndarray], image_size: int) -> None:
        """Take a function from images uint8 [B, image_size, image_size, 1] to logits [B, findings]."""
        self.logits = logits
        self.covers = image_size

    def __call__(self, images: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """As `HeatMapper.__call__`."""
        return occlusion_maps(self.logits, images, columns)


def fitting_method(model: "keras.Model") -> str:
    """The method that "auto" selects, see HeatMapper."""
    import keras

    has_gradients = keras.backend.backend() == "tensorflow"
    try:
        lower, _ = cutting.cut_model(model, 1)
    except cutting.NoFeatureMapError:
        return "occlusion"
    sides = [side for feature_map in cutting.feature_maps(lower.outputs) for side in feature_map.shape[1:3]]
    is_fine = min(sides) >= FINE_CELLS
    if cutting.has_linear_head(model) and (is_fine or not has_gradients):
        return "cam"
    return ("grad_cam" if is_fine else "layer_cam") if has_gradients else "occlusion"


def class_activation_maps(model: "keras.Model", images: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Last feature map weighted by the output weights of each finding (Zhou et al. 2016, eq. 2): [B, F, h, w]."""
    import keras

    features = keras.Model(model.input, cutting.last_pooling(model).input)({"image": images}, training=False)
    features = keras.ops.convert_to_numpy(keras.ops.cast(features, "float32"))  # [B, h, w, channels]
    weights = keras.ops.convert_to_numpy(model.layers[-1].kernel)[:, list(columns)]
    return np.moveaxis(features @ weights, -1, 1)


def gradient_maps(
    lower: "keras.Model", upper: "keras.Model", images: np.ndarray, *, columns: Sequence[int], method: str
) -> np.ndarray:
    """Channels of the feature maps, weighted by the gradients of a logit and summed: [B, F, h, w], at least 0."""
    import keras
    import tensorflow as tf

    between = keras.tree.flatten(lower({"image": images}, training=False))  # Keras returns a list of one as its element
    maps = cutting.feature_maps(between)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        logits = upper(between, training=False)
    features = [tf.cast(feature_map, tf.float32).numpy() for feature_map in maps]
    grid = [max(sides) for sides in zip(*(feature.shape[1:3] for feature in features), strict=True)]
    heat_maps = []
    for column in columns:
        chosen = tf.one_hot(tf.fill([len(images)], column), logits.shape[-1], dtype=logits.dtype)
        gradients = tape.gradient(logits, maps, output_gradients=chosen)
        densities = [
            sum_channels(feature, tf.cast(gradient, tf.float32).numpy(), method) * np.float32(feature[0, :, :, 0].size)
            for feature, gradient in zip(features, gradients, strict=True)
        ]
        heat_maps.append(sum(resize_maps(density, grid) for density in densities))
    return np.maximum(np.stack(heat_maps, axis=1), 0)


def sum_channels(features: np.ndarray, gradients: np.ndarray, method: str) -> np.ndarray:
    """Sum over channels of features times the weights of a gradient method; [B, h, w, channels] to [B, h, w].

    Args:
        features, gradients: float32 [B, h, w, channels].
    """
    if method == "layer_cam":  # eq. 5: one weight per pixel and channel
        return (np.maximum(gradients, 0) * features).sum(axis=-1)
    if method == "grad_cam":  # eq. 1
        return (gradients.mean(axis=(1, 2), keepdims=True) * features).sum(axis=-1)
    # eq. 19, for the exponential of the logit, whose second and third derivatives are powers of the first
    denominator = 2 * gradients**2 + features.sum(axis=(1, 2), keepdims=True) * gradients**3
    alpha = np.divide(gradients**2, denominator, out=np.zeros_like(gradients), where=denominator != 0)
    weights = (alpha * np.maximum(gradients, 0)).mean(axis=(1, 2), keepdims=True)
    return (weights * features).sum(axis=-1)


def resize_maps(maps: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Maps [B, h, w] resized to a finer grid, bilinear."""
    import keras

    if list(maps.shape[1:]) == list(grid):
        return maps
    return keras.ops.convert_to_numpy(keras.ops.image.resize(maps[..., None], grid, interpolation="bilinear"))[..., 0]


def occlusion_maps(
    logits_of: Callable[[np.ndarray], np.ndarray], images: np.ndarray, columns: Sequence[int]
) -> np.ndarray:
    """How much a logit falls when a cell of the image is set to the image's mean: [B, F, 8, 8], at least 0."""
    edges = np.linspace(0, images.shape[1], OCCLUSION_CELLS + 1).round().astype(int)
    cells = [slice(low, high) for low, high in itertools.pairwise(edges)]
    falls = []
    for image in images:
        covered = np.repeat(image[None], OCCLUSION_CELLS**2 + 1, axis=0)  # the last one is not covered
        for place, cover in enumerate((rows, across) for rows in cells for across in cells):
            covered[place][cover] = round(float(image.mean()))
        logits = logits_of(covered)[:, list(columns)]
        falls.append((logits[-1] - logits[:-1]).T.reshape(len(columns), OCCLUSION_CELLS, OCCLUSION_CELLS))
    return np.maximum(np.stack(falls), 0).astype(np.float32)
