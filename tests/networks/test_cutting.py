import keras
import pytest
from keras import layers

from cxr.networks.cutting import NoFeatureMapError, has_linear_head, split


def test_a_fine_map_is_taken_where_all_paths_meet():
    image = keras.Input((16, 16, 1), dtype="uint8", name="image")
    before = layers.ReLU(name="before")(keras.ops.cast(image, "float32"))
    inside = layers.ReLU(name="inside")(layers.Conv2D(1, 3, padding="same")(before))
    after = layers.MaxPooling2D(4)(layers.Add()([before, inside]))  # a shortcut runs past `inside`
    model = keras.Model({"image": image}, layers.Dense(1)(layers.GlobalAveragePooling2D()(after)))
    assert split(model, 1)[0].output[0] is after
    assert split(model, 7)[0].output[0] is before
    assert split(model, 100)[0].output[0] is after  # no map is so fine


def test_a_model_that_keeps_its_maps_to_itself_cannot_be_split():
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)), name="closed")
    with pytest.raises(NoFeatureMapError, match=r"^closed exposes no feature map; use the method occlusion"):
        split(model, 1)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ([layers.Dense(2)], True),
        ([layers.Dropout(0.5), layers.Dense(2)], True),
        ([layers.Dense(4), layers.Dense(2)], False),
        ([layers.Dense(2, activation="sigmoid")], False),
    ],
)
def test_a_head_is_linear_with_one_layer_and_no_activation(head, expected):
    image = keras.Input((8, 8, 3))
    hidden = layers.GlobalAveragePooling2D()(image)
    for layer in head:
        hidden = layer(hidden)
    assert has_linear_head(keras.Model(image, hidden)) == expected
