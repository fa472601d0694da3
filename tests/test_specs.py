import re

import pytest

from cxr import specs
from cxr.specs import extractor_name, extractor_names

RESNET = {"source": "keras", "name": "ResNet50"}


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"source": "keras", "name": "ResNet50V2"}, "ResNet50V2"),
        (
            {"source": "hub", "handle": "https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5"},
            "resnet_v2_50",
        ),
        ({"source": "hub", "handle": "../shared/hub/squeezenet_v1_1"}, "squeezenet_v1_1"),
        ({"source": "experiment", "model_dir": "experiments/demo_cnn/"}, "demo_cnn"),
        ({"source": "keras_hub", "preset": "hf://microsoft/rad-dino", "token": "cls"}, "rad-dino"),
        ({"source": "keras_hub", "preset": "kaggle://keras/resnet/keras/resnet_50_imagenet/2"}, "resnet_50_imagenet"),
        ({"source": "hub", "handle": "/5"}, "extractor"),
    ],
)
def test_an_extractor_has_a_short_name(spec, name):
    assert extractor_name(spec) == name


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/x", "b/y"], ["x", "y"]),
        (["a/x", "b/x"], ["x", "x_2"]),
        (["a/x", "b/x", "c/x"], ["x", "x_2", "x_3"]),
    ],
)
def test_equal_names_are_numbered(folders, names):
    specs = [{"source": "experiment", "model_dir": folder} for folder in folders]
    assert extractor_names(specs) == dict(zip(names, specs, strict=True))


def test_a_name_that_looks_numbered_does_not_replace_another_extractor():
    specs = [{"source": "experiment", "model_dir": folder} for folder in ("a/x", "b/x", "a/x_2")]
    assert list(extractor_names(specs).values()) == specs


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"range": [0, 1], "mean": 0.5, "std": 0.5}, 'give either "range", or "mean" and "std", or none of them'),
        ({"mean": 0.5}, 'give either "range", or "mean" and "std", or none of them'),
        ({"range": [1, 1]}, "range is [1, 1]; expected [low, high] or 'radimagenet'"),
        ({"range": [0, "1"]}, "expected [low, high] or 'radimagenet'"),
        ({"range": "imagenet"}, "range is 'imagenet'; expected [low, high] or 'radimagenet'"),
        ({"range": True}, "range is True, of the wrong type"),
        ({"mean": [0.5, 0.5], "std": 0.5}, "mean is [0.5, 0.5]; expected a number, or three of them"),
        ({"mean": 0.5, "std": [0.2, 0.2, 0]}, "std is [0.2, 0.2, 0]; expected more than 0"),
        ({"seen": "imagenet"}, "seen is 'imagenet', of the wrong type"),
        ({"seen": ["nih-test"]}, "'nih-test'; expected names such as 'nih_train_val'"),
        ({"seen": ["nih_tests"]}, "unknown 'nih_tests'. Did you mean 'nih_test'?"),
        ({"seen": ["nhi_test"]}, "unknown 'nhi_test'. Did you mean 'nih_test'?"),
        ({"source": "keras_hub"}, "has no 'preset'"),
        ({"source": "keras_hub", "preset": "x", "token": "first"}, "token is 'first'; expected 'cls' or 'mean'"),
        ({"source": "keras_hub", "preset": "x", "tokens": "cls"}, "unknown key 'tokens'. Did you mean 'token'?"),
        ({"source": "experiment", "model_dir": "x", "seen": []}, "unknown key 'seen'"),
    ],
)
def test_impossible_values_are_rejected(keys, text):
    spec = keys if "source" in keys else RESNET | keys
    with pytest.raises(ValueError, match=re.escape(text)):
        specs.check_spec(spec)


@pytest.mark.parametrize(
    "keys",
    [{"range": [-1024, 1024]}, {"mean": 0.5, "std": 0.25}, {"mean": [0.5, 0.4, 0.3], "std": 1}, {"seen": ["my_set"]}],
)
def test_possible_values_are_accepted(keys):
    specs.check_spec(RESNET | keys)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("models/RadImageNet-ResNet50_notop.h5", True),
        ("RadImageNet-IRV2-notop.h5", True),
        ("radimagenet_densenet121.weights.h5", True),
        ("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", False),
        ("RadImageNet-ResNet50/resnet50.h5", False),  # the name of the file counts, not that of its folder
        ("imagenet", False),
        (None, False),
    ],
)
def test_files_of_radimagenet_are_recognised_by_their_name(weights, expected):
    assert specs.is_radimagenet(RESNET | {"weights": weights}) is expected
