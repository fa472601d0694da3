import keras
import pytest
from keras import layers

from cxr.networks.cutting import NoFeatureMapError, cut_model, has_linear_head


def test_a_model_is_cut_at_a_fine_map_on_all_paths():
    image = keras.Input((16, 16, 1), dtype="uint8", name="image")
    before = layers.ReLU(name="before")(keras.ops.cast(image, "float32"))
    inside = layers.ReLU(name="inside")(layers.Conv2D(1, 3, padding="same")(before))
    after = layers.MaxPooling2D(4)(layers.Add()([before, inside]))  # a shortcut bypasses `inside`
    model = keras.Model({"image": image}, layers.Dense(1)(layers.GlobalAveragePooling2D()(after)))
    assert cut_model(model, 1)[0].output[0] is after
    assert cut_model(model, 7)[0].output[0] is before
    assert cut_model(model, 100)[0].output[0] is after  # no feature map is so fine


def test_a_model_without_an_exposed_feature_map_cannot_be_cut():
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)), name="closed")
    with pytest.raises(NoFeatureMapError, match=r"^closed exposes no feature map; use the method occlusion"):
        cut_model(model, 1)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ([layers.Dense(2)], True),
        ([layers.Dropout(0.5), layers.Dense(2)], True),
        ([layers.Dense(4), layers.Dense(2)], False),
        ([layers.Dense(2, activation="sigmoid")], False),
    ],
)
def test_a_head_is_linear_if_it_is_one_layer_without_activation(head, expected):
    image = keras.Input((8, 8, 3))
    hidden = layers.GlobalAveragePooling2D()(image)
    for layer in head:
        hidden = layer(hidden)
    assert has_linear_head(keras.Model(image, hidden)) == expected
