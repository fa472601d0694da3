"""Layers of networks that are trained, by the fastest kernels of TensorFlow. TensorFlow backend only.

Keras computes batch norm by elementwise operations. On a CPU they take more time in a training step of MobileNet than
the convolutions. And some kernels take ten times as long in bfloat16 as in float32; see docs/performance.md.
"""

import keras
import tensorflow as tf

FAST_MULTIPLE = 16  # of channels, for which the fused kernel is fast in bfloat16


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization of NHWC images: the same weights and, up to rounding, the same numbers."""

    def call(self, inputs, training=None, mask=None):
        """Normalise float [B, H, W, C] by the batch and update the moving statistics; in inference use those."""
        if not (training and self.trainable) or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        # The kernel reads and writes bfloat16 but computes in float32. Squares of float16 could overflow.
        is_bfloat16 = keras.backend.standardize_dtype(inputs.dtype) == "bfloat16"
        images = inputs if is_bfloat16 and inputs.shape[-1] % FAST_MULTIPLE == 0 else keras.ops.cast(inputs, "float32")
        ones = tf.ones(images.shape[-1])
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            images,
            self.gamma if self.scale else ones,
            self.beta if self.center else 0 * ones,
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(images) // images.shape[-1], "float32")
        variance *= (count - 1) / count  # the kernel divides by count - 1, Keras by count
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        # The kernel returns finite outputs for infinite statistics, such as those of NaN weights before a max pooling,
        # and training would not notice. This adds 0 to the loss, or NaN.
        self.add_loss(0 * tf.stop_gradient(tf.reduce_sum(mean) + tf.reduce_sum(variance)))
        return keras.ops.cast(outputs, self.compute_dtype)


class BatchNormalization(FusedBatchNormalization):
    """The fused layer under the name of Keras's own, which a weights file contains."""


def with_fast_kernels(network: keras.Model, *, trains_norms: bool) -> keras.Model:
    """A copy of a network with the same weights, for training.

    Depthwise convolutions with strides, whose gradient is slow in bfloat16, compute in float32.

    Args:
        trains_norms: batch norms of images are fused. Frozen ones stay Keras's own, whose names weights files contain.
    """

    def copied(layer: keras.Layer) -> keras.Layer:
        kind, config = type(layer), layer.get_config()
        if kind is keras.layers.BatchNormalization and not (layer.renorm or layer.synchronized):
            if trains_norms and len(layer.input.shape) == 4 and layer.axis in (3, -1):
                kind = FusedBatchNormalization
        elif kind is keras.layers.DepthwiseConv2D and max(layer.strides) > 1 and layer.compute_dtype == "bfloat16":
            config["dtype"] = "float32"
        return kind.from_config(config)

    copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy
