"""Where in an image a model sees a finding: heat maps of its logits.

cam          class activation map (Zhou et al. 2016): exact where the logits are linear in the pooled last feature map
grad_cam     Selvaraju et al. 2017: the last feature map weighted by the mean gradient of each channel
grad_cam++   Chattopadhay et al. 2018: by gradients weighted where they are positive, for several places at once
layer_cam    Jiang et al. 2021: gradient by gradient, so that it also works on an earlier, finer map
occlusion    Zeiler & Fergus 2014: how much a logit falls when a cell is covered; no gradient, any model

Of several extractors the maps are brought to one grid and added, each as logit per unit of area: what the head ignores
adds nothing. The gradient methods need the TensorFlow backend; cam and occlusion do not.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr.networks import patient
from cxr.networks.cutting import NoFeatureMapError, feature_maps, has_linear_head, last_pooling, split

if TYPE_CHECKING:
    import keras

METHODS = ("auto", "cam", "grad_cam", "grad_cam++", "layer_cam", "occlusion")
FINE_CELLS = 7  # a side: what ImageNet networks end with at 224 pixels; a nodule is lost in coarser maps
OCCLUSION_CELLS = 8  # a side: 64 more passes an image
OCCLUSION_BATCH = 64


class HeatMapper:
    """Heat maps of one model, by a method that fits it. It shares the model's layers: trained on, they stay current."""

    def __init__(self, model: "keras.Model", method: str = "auto", *, crop_size: int | None = None) -> None:
        """Take the model apart.

        Args:
            model: {"image": uint8 [B, S, S, 1]} to logits [B, findings], as `assembly.trained_model` makes it. One that
                also asks for the patient is told of nobody.
            method: one of METHODS. "auto" is cam or grad_cam where the last feature map has FINE_CELLS a side,
                layer_cam on an earlier map where it has not, and occlusion where there is no feature map to be seen.
            crop_size: of its params: pixels a side of the centre of the image that its networks see; None for all.

        Raises:
            ValueError: the method does not fit the model, or the backend.
        """
        import keras

        self.model = model = patient.image_only(model)
        self.method = fitting_method(model) if method == "auto" else method
        whole = model.input["image"].shape[1]
        self.covers = whole if self.method == "occlusion" else crop_size or whole  # pixels a side, of the centre
        if self.method == "cam" and not has_linear_head(model):
            raise ValueError(f"{model.name} is not linear after its pooling; cam needs that, use grad_cam or occlusion")
        if self.method in ("cam", "occlusion"):
            return
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"{self.method} needs the TensorFlow backend, not {keras.backend.backend()}; use occlusion"
            )
        self.lower, self.upper = split(model, FINE_CELLS if self.method == "layer_cam" else 1)

    def __call__(self, images: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """Heat maps of some findings.

        Args:
            images: uint8 [B, S, S, 1].
            columns: places of the findings in the logits.

        Returns:
            float32 [B, len(columns), h, w], over the centre of the square of `covers` pixels. The mean of a map of cam
            is the logit but for the bias; the others are at least 0.
        """
        if self.method == "cam":
            return class_activation_maps(self.model, images, columns)
        if self.method == "occlusion":
            return occlusion_maps(self.model, images, columns)
        return gradient_maps(self.lower, self.upper, images, columns=columns, method=self.method)


def fitting_method(model: "keras.Model") -> str:
    """What "auto" stands for: see HeatMapper."""
    import keras

    gradients = keras.backend.backend() == "tensorflow"
    try:
        lower, _ = split(model, 1)
    except NoFeatureMapError:
        return "occlusion"
    is_fine = min(side for feature_map in feature_maps(lower.outputs) for side in feature_map.shape[1:3]) >= FINE_CELLS
    if has_linear_head(model) and (is_fine or not gradients):
        return "cam"
    return ("grad_cam" if is_fine else "layer_cam") if gradients else "occlusion"


def class_activation_maps(model: "keras.Model", images: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """The last feature map weighted by each finding's output weights (Zhou et al. 2016, eq. 2): [B, F, h, w]."""
    import keras

    features = keras.Model(model.input, last_pooling(model).input)({"image": images}, training=False)
    features = keras.ops.convert_to_numpy(keras.ops.cast(features, "float32"))  # [B, h, w, channels]
    weights = keras.ops.convert_to_numpy(model.layers[-1].kernel)[:, list(columns)]
    return np.moveaxis(features @ weights, -1, 1)


def gradient_maps(
    lower: "keras.Model", upper: "keras.Model", images: np.ndarray, *, columns: Sequence[int], method: str
) -> np.ndarray:
    """Sum of every feature map's channels, weighted by the gradients of a logit: [B, F, h, w], at least 0."""
    import keras
    import tensorflow as tf

    between = keras.tree.flatten(lower({"image": images}, training=False))  # Keras unpacks a list of one
    maps = feature_maps(between)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        logits = upper(between, training=False)
    features = [tf.cast(feature_map, tf.float32).numpy() for feature_map in maps]
    grid = [max(sides) for sides in zip(*(feature.shape[1:3] for feature in features), strict=True)]
    found = []
    for column in columns:
        one = tf.one_hot(tf.fill([len(images)], column), logits.shape[-1], dtype=logits.dtype)
        gradients = tape.gradient(logits, maps, output_gradients=one)
        densities = [
            weighted(feature, tf.cast(gradient, tf.float32).numpy(), method) * np.float32(feature[0, :, :, 0].size)
            for feature, gradient in zip(features, gradients, strict=True)
        ]
        found.append(sum(on_grid(density, grid) for density in densities))
    return np.maximum(np.stack(found, axis=1), 0)


def weighted(features: np.ndarray, gradients: np.ndarray, method: str) -> np.ndarray:
    """Sum over channels of features times weights, both float32 [B, h, w, channels]: [B, h, w]."""
    if method == "layer_cam":  # eq. 5: every place has its own weight
        return (np.maximum(gradients, 0) * features).sum(axis=-1)
    if method == "grad_cam":  # eq. 1
        return (gradients.mean(axis=(1, 2), keepdims=True) * features).sum(axis=-1)
    # eq. 19, as for an exponential of the logit: its second and third derivative are powers of the first
    denominator = 2 * gradients**2 + features.sum(axis=(1, 2), keepdims=True) * gradients**3
    alpha = np.divide(gradients**2, denominator, out=np.zeros_like(gradients), where=denominator != 0)
    weights = (alpha * np.maximum(gradients, 0)).mean(axis=(1, 2), keepdims=True)
    return (weights * features).sum(axis=-1)


def on_grid(maps: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Maps [B, h, w] on a finer grid, bilinear."""
    import keras

    if list(maps.shape[1:]) == list(grid):
        return maps
    return keras.ops.convert_to_numpy(keras.ops.image.resize(maps[..., None], grid, interpolation="bilinear"))[..., 0]


def occlusion_maps(model: "keras.Model", images: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """How far a logit falls when a cell of the image is covered with the image's mean: [B, F, 8, 8], at least 0."""
    edges = np.linspace(0, images.shape[1], OCCLUSION_CELLS + 1).round().astype(int)
    cells = [slice(low, high) for low, high in itertools.pairwise(edges)]
    falls = []
    for image in images:
        covered = np.repeat(image[None], OCCLUSION_CELLS**2 + 1, axis=0)  # the last one stays as it is
        for place, cover in enumerate((rows, across) for rows in cells for across in cells):
            covered[place][cover] = round(float(image.mean()))
        logits = model.predict({"image": covered}, batch_size=OCCLUSION_BATCH, verbose=0)[:, list(columns)]
        falls.append((logits[-1] - logits[:-1]).T.reshape(len(columns), OCCLUSION_CELLS, OCCLUSION_CELLS))
    return np.maximum(np.stack(falls), 0).astype(np.float32)
