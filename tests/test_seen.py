import pytest

from cxr import seen

KERAS = {"source": "keras", "name": "ResNet50"}
HUB = {"source": "hub", "handle": "https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5"}
RAD_DINO = ["nih_train_val_unlabeled", "nih_test_unlabeled", "brax", "chexpert", "mimic", "padchest"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (KERAS, ["imagenet"]),  # the default weights
        (KERAS | {"weights": "imagenet"}, ["imagenet"]),
        (KERAS | {"weights": None}, []),  # random
        (KERAS | {"weights": "models/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"}, ["imagenet"]),
        (KERAS | {"weights": "../shared/hub/mobilenet_2_5_224_tf_no_top.h5"}, ["imagenet"]),
        (KERAS | {"weights": "RadImageNet-ResNet50_notop.h5"}, ["radimagenet"]),
        (KERAS | {"weights": "mine_notop.h5"}, None),
        (
            KERAS | {"weights": "RadImageNet-ResNet50_notop.h5", "seen": ["radimagenet", "nih_test"]},
            ["radimagenet", "nih_test"],
        ),
        (HUB, ["imagenet"]),
        ({"source": "hub", "handle": "models/imagenet/5"}, None),  # a folder may be anything
        ({"source": "keras_hub", "preset": "hf://microsoft/rad-dino"}, RAD_DINO),
        ({"source": "keras_hub", "preset": "presets/rad-dino"}, None),
        ({"source": "keras_hub", "preset": "medsiglip_900m_448"}, ["mimic", "slake"]),
        ({"source": "keras_hub", "preset": "resnet_50_imagenet"}, ["imagenet"]),
        ({"source": "keras_hub", "preset": "vit_base_patch16_224_imagenet21k"}, ["imagenet21k"]),
        ({"source": "keras_hub", "preset": "kaggle://keras/dinov2/keras/dinov2_base/2"}, ["lvd_142m"]),
        ({"source": "onnx", "path": "models/densenet121-res224-chex.onnx"}, ["chexpert"]),
        ({"source": "onnx", "path": "densenet121-res224-rsna.onnx"}, ["nih_train_val", "nih_test"]),
        ({"source": "onnx", "path": "model.onnx"}, None),
    ],
)
def test_what_a_named_network_has_seen(spec, expected):
    assert seen.seen_by(spec) == expected


@pytest.mark.parametrize(
    ("split", "split_name", "expected"),
    [
        ("test", "official", ["nih_test_unlabeled"]),
        ("val", "official", ["nih_train_val"]),
        ("train", "official", []),
        ("test", "random", ["nih_train_val", "nih_test_unlabeled"]),  # a random split mixes the official lists
        ("val", "csv", ["nih_train_val", "nih_test_unlabeled"]),
    ],
)
def test_sets_that_may_hold_scored_images(split, split_name, expected):
    assert seen.scored(["nih_train_val", "nih_test_unlabeled", "mimic"], split, split_name) == expected


def test_every_entry_of_the_table_names_sets_of_the_vocabulary_and_its_source():
    for known in seen.KNOWN:
        assert {*known.sets} <= {*seen.NIH, *seen.OTHERS}
        assert known.stated_by
