"""Cut a model at a feature map: one model up to it, one model from it; gradients are taken between the two."""

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


class NoFeatureMapError(ValueError):
    """The model exposes no feature map, as hub modules do."""


def feature_maps(tensors: list) -> list:
    """Tensors [B, h, w, channels]; the others are patient inputs."""
    return [tensor for tensor in tensors if len(tensor.shape) == 4]


def last_pooling(model: "keras.Model"):
    """The last global average pooling among a model's own layers; None if it has none."""
    import keras

    poolings = [layer for layer in model.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    return poolings[-1] if poolings else None  # earlier ones belong to squeeze-and-excitation blocks


def has_linear_head(model: "keras.Model") -> bool:
    """Whether only dropout and the logits layer follow the pooled feature map."""
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


def cut_model(model: "keras.Model", cells: int) -> tuple["keras.Model", "keras.Model"]:
    """Cut a model, and every network inside it, at a feature map.

    Args:
        cells: cut at the last feature map with at least so many cells per side that all paths run through; at the last
            feature map if none is so fine.

    Returns:
        lower: inputs of the model -> list of float [B, h, w, channels], one for each network, and of the model's
            inputs other than images.
        upper: that list -> outputs of the model.

    Raises:
        NoFeatureMapError: no network exposes a feature map.
    """
    import keras

    pooling = last_pooling(model)
    if pooling is not None:
        return cut_network(model, pooling, cells)
    between = []

    def call(layer, *args, **kwargs):
        if not isinstance(layer, keras.Model) or not feature_maps(layer.inputs):
            return layer(*args, **kwargs)
        lower, upper = cut_model(layer, cells)
        outputs = keras.tree.flatten(lower(*args))
        between.extend(outputs)
        return upper(outputs)

    same_layers = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    if not between:
        raise NoFeatureMapError(f"{model.name} exposes no feature map; use the method occlusion")
    return cut_at(same_layers, between)


def cut_network(model: "keras.Model", pooling: "keras.Layer", cells: int) -> tuple["keras.Model", "keras.Model"]:
    """Cut a network before its pooling or, if the feature map there is too coarse, after an earlier activation."""
    import keras

    activations = (keras.layers.ReLU, keras.layers.Activation)
    below = model.layers[: model.layers.index(pooling)]
    earlier = [layer.output for layer in reversed(below) if isinstance(layer, activations)]
    for feature_map in [pooling.input, *earlier]:
        if min(feature_map.shape[1:3]) >= cells:
            with contextlib.suppress(ValueError):  # Keras rejects the cut if a shortcut bypasses this map
                return cut_at(model, [feature_map])
    return cut_at(model, [pooling.input])


def cut_at(model: "keras.Model", between: list) -> tuple["keras.Model", "keras.Model"]:
    """Cut a model at some of its tensors: one model up to them, one from them."""
    import keras

    between = [*between, *(tensor for tensor in model.inputs if len(tensor.shape) != 4)]
    return keras.Model(model.input, between), keras.Model(between, model.output)
