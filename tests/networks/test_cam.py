import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from support.ready import write_identity

from cxr import experiment
from cxr.evaluation.boxes import Placement, iobb
from cxr.evaluation.localization import detections_of
from cxr.findings import FINDINGS
from cxr.images.resize import resize_square
from cxr.networks import assembly, patient
from cxr.networks.cam import HeatMapper, fitting_method, sum_channels
from cxr.networks.cutting import NoFeatureMapError, cut_model, feature_maps
from cxr.params import Params, load_params
from model_fn import model_fn

COLUMNS = range(len(FINDINGS))
SMALL = {"image_size": 32, "num_channels": 4, "num_blocks": 2}
INFO = {
    "findings": list(FINDINGS),
    "image_size": 32,
    "splits": {"train": {"images": 98, "positives": dict.fromkeys(FINDINGS, 9)}},
    "fingerprint": "f" * 64,
}


def random_images(count: int = 3, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)


def save_experiment(folder: Path, **params) -> dict:
    """An experiment with random weights in place of trained ones; returns it as an extractor of params.json."""
    folder.mkdir()
    model = params.get("model")
    widths = {"hidden_units": [16, 12]} if model else {}
    widths |= {"transition_units": 8} if model == "ensemble" else {}
    (folder / "params.json").write_text(json.dumps(widths | params))
    (folder / "dataset.json").write_text(json.dumps(INFO))
    params = load_params(folder)
    extractors = assembly.load_extractors(params, INFO)
    write_identity(folder, {name: extractor.sha256 for name, extractor in extractors.items()})
    model = model_fn(params, INFO, extractors=extractors)
    experiment.save_weights(model.get_layer(params.model) if params.extractors else model, folder, "best")
    return {"source": "experiment", "model_dir": str(folder)}


def save_mobilenet(path: Path) -> dict:
    """A MobileNet as an extractor of params.json, with random kernels so large that its features are not all 0."""
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNet(include_top=False, alpha=0.25, weights=None, input_shape=(32, 32, 3))
    network.set_weights([w * 3 if w.ndim == 4 else w for w in network.get_weights()])
    network.save_weights(path)
    return {"source": "keras", "name": "MobileNet", "alpha": 0.25, "weights": str(path), "image_size": 32}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, keras.Model]:
    """One model of every architecture, rebuilt from its folder."""
    root = tmp_path_factory.mktemp("experiments")
    mobilenet = save_mobilenet(root.parent / "mobilenet.weights.h5")
    cnn = save_experiment(root / "cnn", **SMALL)
    deep = save_experiment(root / "deep", **SMALL | {"num_blocks": 4})
    save_experiment(root / "network", model="feature_extractor", extractors=[mobilenet])
    pair = save_experiment(root / "ensemble", model="ensemble", extractors=[cnn, deep])
    save_experiment(root / "over_ensemble", model="ensemble", extractors=[pair, cnn])
    save_experiment(root / "metadata_cnn", **SMALL, metadata=True)
    with_metadata = save_experiment(
        root / "metadata_network", model="feature_extractor", extractors=[cnn], metadata=True
    )
    save_experiment(root / "over_metadata", model="feature_extractor", extractors=[with_metadata])
    return {folder.name: patient.image_only(assembly.trained_model(folder)) for folder in root.iterdir()}


ARCHITECTURES = pytest.mark.parametrize(
    "name", ["cnn", "deep", "network", "ensemble", "over_ensemble", "metadata_cnn", "metadata_network", "over_metadata"]
)


def pooled_model(feature_map, image, kernel, *, activation=None) -> keras.Model:
    """Global average pooling and logits over a feature map."""
    logits = layers.Dense(len(kernel[0]), activation=activation, name="logits")
    model = keras.Model({"image": image}, logits(layers.GlobalAveragePooling2D()(feature_map)))
    logits.set_weights([np.array(kernel, np.float32), np.zeros(len(kernel[0]), np.float32)])
    return model


def brightness_model(size: int, cell: int, kernel=((1.0,),), **options) -> keras.Model:
    """A model whose only feature map is the mean brightness of cells of the given size."""
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    return pooled_model(layers.AveragePooling2D(cell)(keras.ops.cast(image, "float32")), image, kernel, **options)


def test_class_activation_map_by_hand():
    image = np.array([[10, 30], [0, 200]], np.uint8)[None, ..., None]
    mapper = HeatMapper(brightness_model(2, 1, [[2.0, -1.0]]), "cam")
    assert mapper(image, [0, 1]).tolist() == [[[[20, 60], [0, 400]], [[-10, -30], [0, -200]]]]
    assert mapper(image, [1]).tolist() == [[[[-10, -30], [0, -200]]]]


@pytest.mark.parametrize("name", ["cnn", "deep"])
def test_the_mean_of_a_class_activation_map_is_the_logit_without_bias(trained, name):
    model, images = trained[name], random_images()
    maps = HeatMapper(model, "cam")(images, COLUMNS)
    assert maps.dtype == np.float32
    logits = maps.mean(axis=(2, 3)) + keras.ops.convert_to_numpy(model.get_layer("logits").bias)
    np.testing.assert_allclose(logits, model.predict({"image": images}, verbose=0), atol=1e-5)


@ARCHITECTURES
@pytest.mark.parametrize("cells", [1, 7])
def test_the_two_parts_of_a_cut_model_compute_the_model(trained, name, cells):
    model, images = trained[name], random_images()
    lower, upper = cut_model(model, cells)
    between = keras.tree.flatten(lower({"image": images}, training=False))
    maps = feature_maps(between)
    assert len(maps) == {"ensemble": 2, "over_ensemble": 3}.get(name, 1)
    assert all(min(feature_map.shape[1:3]) >= cells for feature_map in maps)
    np.testing.assert_allclose(
        upper(between, training=False), model.predict({"image": images}, verbose=0), rtol=2e-3, atol=1e-4
    )


@ARCHITECTURES
@pytest.mark.parametrize("method", ["grad_cam", "grad_cam++", "layer_cam"])
def test_gradient_maps_of_every_architecture(trained, name, method):
    mapper = HeatMapper(trained[name], method)
    maps = mapper(random_images(2), [0, 5, 13])
    side = 8 if method == "layer_cam" else {"deep": 2, "network": 1}.get(name, 8)
    assert (maps.shape, maps.dtype) == ((2, 3, side, side), np.float32)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn", "cam"),  # 8 x 8 cells under a linear head
        ("deep", "layer_cam"),  # 2 x 2 cells
        ("network", "layer_cam"),  # 1 x 1
        ("ensemble", "layer_cam"),  # one of its two maps is coarse
        ("metadata_cnn", "grad_cam"),  # its logits also depend on patient inputs
    ],
)
def test_the_method_that_auto_selects(trained, name, expected):
    assert HeatMapper(trained[name]).method == expected


def test_auto_selects_grad_cam_for_a_fine_map_under_a_nonlinear_head():
    assert fitting_method(brightness_model(16, 2, activation="relu")) == "grad_cam"


def test_grad_cam_under_a_linear_head_is_the_positive_part_of_the_class_activation_map(trained):
    images = random_images()
    exact = HeatMapper(trained["cnn"], "cam")(images, COLUMNS)
    np.testing.assert_allclose(HeatMapper(trained["cnn"], "grad_cam")(images, COLUMNS), np.maximum(exact, 0), atol=1e-4)


def test_weights_of_the_methods_by_hand():
    features = np.array([[[1.0, 2.0], [3.0, 4.0]]])[..., None]
    gradients = np.array([[[2.0, 0.0], [-1.0, 3.0]]])[..., None]
    assert sum_channels(features, gradients, "grad_cam").tolist() == [[[1, 2], [3, 4]]]  # mean gradient 1
    assert sum_channels(features, gradients, "layer_cam").tolist() == [[[2, 0], [0, 12]]]
    # Features sum to 10, so alpha is g^2 / (2 g^2 + 10 g^3): 4 / 88 and 9 / 288; where the gradient is 0, 0.
    weight = (4 / 88 * 2 + 9 / 288 * 3) / 4
    np.testing.assert_allclose(
        sum_channels(features, gradients, "grad_cam++"), [[[weight, 2 * weight], [3 * weight, 4 * weight]]], rtol=1e-6
    )


def two_networks(kernel) -> keras.Model:
    """Two networks over one image, with 2 x 2 and 4 x 4 cells, each pooled to one feature."""
    image = keras.Input((8, 8, 1), dtype="uint8", name="image")
    features = []
    for cell in (4, 2):
        pixels = keras.Input((8, 8, 1), dtype="uint8", name="image")
        brightness = layers.AveragePooling2D(cell)(keras.ops.cast(pixels, "float32"))
        network = keras.Model({"image": pixels}, layers.GlobalAveragePooling2D()(brightness), name=f"of_{cell}")
        features.append(network({"image": image}))
    logits = layers.Dense(1, name="logits")
    model = keras.Model({"image": image}, logits(layers.Concatenate()(features)))
    logits.set_weights([np.array(kernel, np.float32), np.zeros(1, np.float32)])
    return model


def test_maps_of_several_networks_are_added_as_logit_per_area():
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, :2, :2] = 80  # 80 in the first of 4 x 4 cells, 20 in the first of 2 x 2
    fine = HeatMapper(two_networks([[0.0], [3.0]]), "grad_cam")(image, [0])[0, 0]
    assert fine[0].tolist() == pytest.approx([240, 0, 0, 0])
    coarse = HeatMapper(two_networks([[5.0], [0.0]]), "grad_cam")(image, [0])[0, 0]
    assert coarse[0].tolist() == pytest.approx([100, 75, 25, 0])  # 100 and 0, bilinear
    both = HeatMapper(two_networks([[5.0], [3.0]]), "grad_cam")(image, [0])[0, 0]
    np.testing.assert_allclose(both, fine + coarse, rtol=1e-6)


def test_occlusion_is_the_fall_of_the_logit():
    image = np.zeros((1, 16, 16, 1), np.uint8)
    image[0, :2, 2:4] = 128  # the second of 8 x 8 cells; the mean is 2
    maps = HeatMapper(brightness_model(16, 1, [[1.0, -1.0]]), "occlusion")(image, [0, 1])
    fall = 4 * (128 - 2) / 256  # four pixels become 2
    assert maps[0, 0, 0].tolist() == pytest.approx([0, fall, 0, 0, 0, 0, 0, 0])
    assert maps[0, 0, 1:].max() == 0  # where black pixels become 2 the logit rises
    assert maps[0, 1, 0, 0] == pytest.approx(4 * 2 / 256)


class Closed(layers.Layer):
    """A network without an exposed feature map, like a hub module."""

    def call(self, pixels):
        return keras.ops.mean(keras.ops.cast(pixels, "float32"), axis=(1, 2))


def closed_model() -> keras.Model:
    image = keras.Input((16, 16, 1), dtype="uint8", name="image")
    extractor = keras.Model({"image": image}, Closed()(image), name="closed_extractor")
    outer = keras.Input((16, 16, 1), dtype="uint8", name="image")
    return keras.Model({"image": outer}, layers.Dense(1, name="logits")(extractor({"image": outer})), name="whole")


def test_auto_selects_occlusion_for_a_model_without_a_feature_map():
    assert HeatMapper(closed_model()).method == "occlusion"
    assert HeatMapper(closed_model())(random_images(2, 16), [0]).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam++", "layer_cam"])
def test_gradients_need_a_feature_map(method):
    with pytest.raises(NoFeatureMapError, match="closed_extractor exposes no feature map; use the method occlusion"):
        HeatMapper(closed_model(), method)


@pytest.mark.parametrize("make", [closed_model, lambda: brightness_model(16, 2, activation="relu")])
def test_cam_needs_a_linear_head(make):
    with pytest.raises(ValueError, match="is not linear after its pooling; cam needs that, use grad_cam or occlusion"):
        HeatMapper(make(), "cam")


def test_gradient_methods_need_the_tensorflow_backend(trained, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert [fitting_method(trained[name]) for name in ("deep", "network")] == ["cam", "occlusion"]
    with pytest.raises(ValueError, match="layer_cam needs the TensorFlow backend, not jax; use occlusion"):
        HeatMapper(trained["deep"], "layer_cam")


def test_maps_follow_the_weights_during_training(trained):
    model, images = trained["cnn"], random_images()
    mappers = [HeatMapper(model, method) for method in ("cam", "grad_cam")]
    before, weights = [mapper(images, [0]) for mapper in mappers], model.get_weights()
    try:
        model.set_weights([weight * 1.5 for weight in weights])
        assert all(not np.allclose(mapper(images, [0]), old) for mapper, old in zip(mappers, before, strict=True))
    finally:
        model.set_weights(weights)


@pytest.mark.parametrize("method", ["cam", "layer_cam"])
def test_maps_in_half_precision_are_float32(method):
    model = model_fn(Params(**SMALL, precision="mixed_float16"), INFO)
    maps = HeatMapper(model, method)(random_images(), [3])
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert np.ptp(maps) > 0


def test_a_heat_mapper_does_not_change_the_model(trained):
    model, images = trained["ensemble"], random_images()
    before, names = model.predict({"image": images}, verbose=0), [layer.name for layer in model.layers]
    HeatMapper(model, "layer_cam")(images, [0])
    assert [layer.name for layer in model.layers] == names
    assert np.array_equal(model.predict({"image": images}, verbose=0), before)
    assert model.get_layer("ensemble").get_layer("logits").input is not None


@pytest.mark.parametrize(("width", "height"), [(512, 512), (640, 320), (300, 600)])
def test_a_planted_spot_is_found_where_it_was_planted(width, height):
    pixels = np.full((height, width), 20, np.uint8)
    box = np.array([[0.55 * width, 0.2 * height, 0.55 * width + 100, 0.2 * height + 100]])
    x0, y0, x1, y1 = box[0].astype(int)
    pixels[y0:y1, x0:x1] = 250
    placement = Placement(width, height, 128)
    mapper = HeatMapper(brightness_model(128, 8))
    assert mapper.method == "cam"
    heat_map = mapper(resize_square(pixels, 128)[None, ..., None], [0])[0, 0]
    place = detections_of(placement.heat_on_image(heat_map, 256), placement)
    assert iobb(place.boxes_nih, placement.to_nih(box)).max() > 0.5
    peak = np.array(place.peak_nih) * max(width, height) / 1024
    assert (box[0, :2] < peak).all()
    assert (peak < box[0, 2:]).all()


def test_a_map_covers_the_crop_that_the_networks_see():
    model = model_fn(Params(**SMALL | {"image_size": 24}, crop_size=24), INFO)
    assert HeatMapper(model, "cam", crop_size=24).covers == 24
    assert HeatMapper(model, "occlusion", crop_size=24).covers == 32  # cells of the whole image are covered
    assert HeatMapper(model, "cam").covers == 32
