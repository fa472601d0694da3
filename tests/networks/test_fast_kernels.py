import keras
import numpy as np
import pytest

from cxr.networks import precision
from cxr.networks.fast_kernels import FusedBatchNormalization, with_fast_kernels

EPSILON = 1e-3  # Keras's default


def norms(**options) -> tuple[keras.Layer, keras.Layer]:
    """The fused layer and that of Keras, built for [B, H, W, 2] with the same weights."""
    pair = FusedBatchNormalization(**options), keras.layers.BatchNormalization(**options)
    for layer in pair:
        layer.build((None, 3, 3, 2))
    pair[1].set_weights([np.arange(1.0, 3) + place for place, _ in enumerate(pair[1].get_weights())])
    pair[0].set_weights(pair[1].get_weights())
    return pair


def test_values_and_statistics_worked_by_hand():
    layer = FusedBatchNormalization(momentum=0.75)
    images = np.array([0.0, 2.0, 4.0, 6.0], np.float32).reshape(2, 2, 1, 1)  # mean 3, variance (9 + 1 + 1 + 9) / 4 = 5
    expected = (images - 3) / np.sqrt(5 + EPSILON)
    np.testing.assert_allclose(layer(images, training=True), expected, atol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [0.75 * 0 + 0.25 * 3])
    np.testing.assert_allclose(layer.moving_variance, [0.75 * 1 + 0.25 * 5])
    np.testing.assert_allclose(layer(images), (images - 0.75) / np.sqrt(2 + EPSILON), atol=1e-6)  # moving statistics


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"momentum": 0.9, "epsilon": 0.1}])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_statistics_equal_those_of_keras(options, training):
    import tensorflow as tf

    draw = np.random.default_rng(0)
    images = tf.constant(draw.normal(5, 3, (4, 3, 3, 2)), tf.float32)
    weight = tf.constant(draw.normal(0, 1, images.shape), tf.float32)
    found = []
    for layer in norms(**options):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=training)
            loss = tf.reduce_sum(outputs * weight)
        gradients = tape.gradient(loss, [images, *layer.trainable_weights])
        found.append([*map(np.asarray, (outputs, *gradients)), *layer.get_weights()])
    for ours, keras_own in zip(*found, strict=True):
        np.testing.assert_allclose(ours, keras_own, atol=2e-5, rtol=2e-5)


def test_a_frozen_norm_keeps_its_statistics_in_training():
    layer, _ = norms()
    layer.trainable = False
    before = layer.get_weights()
    layer(np.ones((2, 3, 3, 2), np.float32), training=True)
    np.testing.assert_equal(layer.get_weights(), before)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_in_lower_precision_statistics_stay_float32(policy):
    layer = FusedBatchNormalization(dtype=policy)
    outputs = layer(np.full((2, 3, 3, 2), 300.0, np.float32), training=True)
    assert outputs.dtype == policy.removeprefix("mixed_")
    assert layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(layer.moving_mean, [3, 3], rtol=1e-5)  # 0.01 of 300, whose square float16 cannot hold


def test_a_network_keeps_its_weights_layers_and_outputs():
    network = keras.applications.MobileNet(
        include_top=False, alpha=0.25, weights=None, pooling="avg", input_shape=(32, 32, 3)
    )
    fused = with_fast_kernels(network, trains_norms=True)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(fused(images), network(images))
    assert [layer.name for layer in fused.layers[1:]] == [layer.name for layer in network.layers[1:]]
    kinds = {type(layer) for layer in fused.layers}
    assert FusedBatchNormalization in kinds
    assert keras.layers.BatchNormalization not in kinds


@pytest.mark.parametrize("options", [{"axis": 1}, {"renorm": True}, {"synchronized": True}])
def test_batch_norms_that_the_kernel_does_not_support_are_not_replaced(options):
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.BatchNormalization(**options)(image))
    assert type(with_fast_kernels(network, trains_norms=True).layers[1]) is keras.layers.BatchNormalization


def test_frozen_batch_norms_are_not_replaced():
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.BatchNormalization()(image))
    assert type(with_fast_kernels(network, trains_norms=False).layers[1]) is keras.layers.BatchNormalization


def test_batch_norms_of_vectors_are_not_replaced():
    vector = keras.Input((8,))
    network = keras.Model(vector, keras.layers.BatchNormalization()(vector))
    assert type(with_fast_kernels(network, trains_norms=True).layers[1]) is keras.layers.BatchNormalization


def test_statistics_that_are_not_finite_make_the_loss_nan():
    layer = FusedBatchNormalization()
    layer(np.ones((2, 3, 3, 2), np.float32), training=True)
    assert float(sum(layer.losses)) == 0
    layer(np.full((2, 3, 3, 2), 3e38, np.float32), training=True)  # the sum over 18 values overflows
    assert np.isnan(float(sum(layer.losses)))


def test_simple_cnn_is_fused_and_its_weights_keep_the_names_of_keras(tmp_path):
    import h5py

    from cxr.findings import FINDINGS
    from cxr.params import Params
    from model_fn import model_fn

    info = {"findings": list(FINDINGS), "image_size": 32}
    info |= {"splits": {"train": {"images": 8, "positives": dict.fromkeys(FINDINGS, 1)}}}
    model = model_fn(Params(image_size=32, num_channels=1, num_blocks=1), info)
    assert [isinstance(layer, FusedBatchNormalization) for layer in model.layers].count(True) == 1
    model.save_weights(tmp_path / "fused.weights.h5")
    with h5py.File(tmp_path / "fused.weights.h5") as file:
        assert list(file["layers/batch_normalization/vars"]) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("channels", "computed"), [(16, "bfloat16"), (48, "bfloat16"), (8, "float32"), (24, "float32")]
)
def test_bfloat16_reaches_the_kernel_where_it_is_fast(monkeypatch, channels, computed):
    import tensorflow as tf

    kernel, seen = tf.compat.v1.nn.fused_batch_norm, []

    def watched(images, *arguments, **options):
        seen.append(images.dtype.name)
        return kernel(images, *arguments, **options)

    images = np.random.default_rng(0).normal(5, 3, (4, 3, 3, channels)).astype(np.float32)
    layer, reference = FusedBatchNormalization(dtype="mixed_bfloat16"), FusedBatchNormalization()
    expected = reference(images, training=True)
    monkeypatch.setattr(tf.compat.v1.nn, "fused_batch_norm", watched)
    outputs = layer(keras.ops.cast(images, "bfloat16"), training=True)
    assert (seen, outputs.dtype) == ([computed], "bfloat16")
    # bfloat16 has 8 bits: a normalised value of 2 to 4 is within 1/64
    np.testing.assert_allclose(keras.ops.cast(outputs, "float32"), expected, atol=0.03)


def test_strided_depthwise_convolutions_of_a_bfloat16_network_compute_in_float32():
    with precision.layers_in("bfloat16"):
        image = keras.Input((9, 9, 3))
        hidden = keras.layers.DepthwiseConv2D(3, name="plain")(image)
        hidden = keras.layers.DepthwiseConv2D(3, strides=2, name="strided")(hidden)
        network = keras.Model(image, keras.layers.Conv2D(4, 1, strides=2, name="full")(hidden))
    fast = with_fast_kernels(network, trains_norms=False)
    found = {layer.name: layer.compute_dtype for layer in fast.layers[1:]}
    assert found == {"plain": "bfloat16", "strided": "float32", "full": "bfloat16"}
    images = np.random.default_rng(0).uniform(-1, 1, (2, 9, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(*(np.asarray(model(images), np.float32) for model in (fast, network)), atol=0.02)
