"""Taking a trained model apart at its feature maps, for heat maps. Pure Keras, any backend."""

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


class NoFeatureMapError(ValueError):
    """The model has no feature map that could be seen from outside, as hub modules have none."""


def feature_maps(tensors: list) -> list:
    """Those of [B, h, w, channels]; what else comes along is what a model is told of the patient."""
    return [tensor for tensor in tensors if len(tensor.shape) == 4]


def last_pooling(model: "keras.Model"):
    """The last global average pooling among a model's own layers, None where it has none."""
    import keras

    poolings = [layer for layer in model.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    return poolings[-1] if poolings else None  # earlier ones are of squeeze-and-excitation blocks


def has_linear_head(model: "keras.Model") -> bool:
    """Whether nothing but dropout and the logits stand on the pooled feature map."""
    from keras import activations, layers

    pooling = last_pooling(model)
    if pooling is None:
        return False
    head = model.layers[model.layers.index(pooling) + 1 :]
    dense = [layer for layer in head if not isinstance(layer, layers.Dropout)]
    return (
        len(dense) == 1
        and isinstance(dense[0], layers.Dense)
        and dense[0].activation is activations.linear
        and len(model.outputs) == 1
    )


def split(model: "keras.Model", cells: int) -> tuple["keras.Model", "keras.Model"]:
    """Cut a model, and every network inside it, at a feature map.

    Args:
        cells: the map is the last one of at least so many a side that all paths run through; the last of all where no
            map is so fine.

    Returns:
        lower: what the model takes -> list of float [B, h, w, channels], one for each network, and of its inputs that
            are no images.
        upper: that list -> what the model returns.

    Raises:
        NoFeatureMapError: a network keeps its maps to itself.
    """
    import keras

    pooling = last_pooling(model)
    if pooling is not None:
        return cut(model, pooling, cells)
    found = []

    def call(layer, *args, **kwargs):
        if not isinstance(layer, keras.Model) or not feature_maps(layer.inputs):
            return layer(*args, **kwargs)
        lower, upper = split(layer, cells)
        between = keras.tree.flatten(lower(*args))
        found.extend(between)
        return upper(between)

    whole = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)  # same layers
    if not found:
        raise NoFeatureMapError(f"{model.name} exposes no feature map; use the method occlusion")
    return halves(whole, found)


def cut(model: "keras.Model", pooling: "keras.Layer", cells: int) -> tuple["keras.Model", "keras.Model"]:
    """Cut a model before its pooling, or, where the map there is too coarse, behind an earlier activation."""
    import keras

    activations = (keras.layers.ReLU, keras.layers.Activation)
    below = model.layers[: model.layers.index(pooling)]
    earlier = [layer.output for layer in reversed(below) if isinstance(layer, activations)]
    for feature_map in [pooling.input, *earlier]:
        if min(feature_map.shape[1:3]) >= cells:
            with contextlib.suppress(ValueError):  # Keras: a shortcut runs past this map
                return halves(model, [feature_map])
    return halves(model, [pooling.input])


def halves(model: "keras.Model", between: list) -> tuple["keras.Model", "keras.Model"]:
    """The model up to some of its tensors, and from them on."""
    import keras

    between = [*between, *(tensor for tensor in model.inputs if len(tensor.shape) != 4)]
    return keras.Model(model.input, between), keras.Model(between, model.output)
