"""Batch norm by TensorFlow's fused kernel, for networks that are fine-tuned. TensorFlow backend only.

Keras composes batch norm of elementwise operations, which on a CPU takes more of a training step of MobileNet than its
convolutions do; see docs/performance.md.
"""

import keras
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization of NHWC images, with the same weights and, but for rounding, the same numbers."""

    def call(self, inputs, training=None, mask=None):
        """Normalise float [B, H, W, C] over B, H and W and move the statistics; by those in inference."""
        if not (training and self.trainable) or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        images = keras.ops.cast(inputs, "float32")
        ones = tf.ones(images.shape[-1])
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            images,
            self.gamma if self.scale else ones,
            self.beta if self.center else 0 * ones,
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(images) // images.shape[-1], "float32")
        variance *= (count - 1) / count  # the kernel gives that of a sample; Keras keeps that of the batch
        for moving, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + of_batch * (1 - self.momentum))
        return keras.ops.cast(outputs, self.compute_dtype)


def with_fused_norms(network: keras.Model) -> keras.Model:
    """A copy of a network, with its weights, whose batch norms over images are fused."""

    def copied(layer: keras.Layer) -> keras.Layer:
        is_norm = type(layer) is keras.layers.BatchNormalization and not (layer.renorm or layer.synchronized)
        fits = is_norm and len(layer.input.shape) == 4 and layer.axis in (3, -1)
        return (FusedBatchNormalization if fits else type(layer)).from_config(layer.get_config())

    copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy
