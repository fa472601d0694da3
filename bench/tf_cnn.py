"""simple_cnn trained by a bare TensorFlow loop without Keras layers, for bench/train.py: what TensorFlow can reach."""

import itertools
from collections.abc import Callable

from cxr.params import Params


def trainer(tensors, params: Params) -> Callable[[int], None]:
    """A function that trains for a number of steps on batches in memory.

    Args:
        tensors: list of (images uint8 [B, S, S, 1], labels float32 [B, 14]).
    """
    import keras
    import tensorflow as tf

    dtype = tf.bfloat16 if params.precision == "bfloat16" else tf.float32
    widths = [1, *(params.num_channels << block for block in range(params.num_blocks))]
    draw = keras.initializers.GlorotUniform(params.seed)
    kernels = [tf.Variable(draw((3, 3, *pair))) for pair in itertools.pairwise(widths)]
    scales = [tf.Variable(tf.ones(width)) for width in widths[1:]]
    shifts = [tf.Variable(tf.zeros(width)) for width in widths[1:]]
    moving = [tf.Variable(tf.zeros((2, width)), trainable=False) for width in widths[1:]]
    dense = [tf.Variable(draw((widths[-1], tensors[0][1].shape[1]))), tf.Variable(tf.zeros(tensors[0][1].shape[1]))]
    variables = [*kernels, *scales, *shifts, *dense]
    optimizer = keras.optimizers.AdamW(params.learning_rate, weight_decay=params.weight_decay)
    optimizer.build(variables)

    def logits(images):
        values = tf.image.per_image_standardization(tf.cast(images, tf.float32))
        for kernel, scale, shift, statistics in zip(kernels, scales, shifts, moving, strict=True):
            values = tf.nn.conv2d(tf.cast(values, dtype), tf.cast(kernel, dtype), 1, "SAME")
            values = tf.nn.max_pool2d(values, 2, 2, "VALID")
            values, mean, variance = tf.compat.v1.nn.fused_batch_norm(values, scale, shift, epsilon=1e-3)
            statistics.assign(0.9 * statistics + 0.1 * tf.stack([mean, variance]))
            values = tf.nn.relu(values)
        return tf.cast(tf.reduce_mean(values, (1, 2)), tf.float32) @ dense[0] + dense[1]

    @tf.function(autograph=False)
    def step(images, labels):
        with tf.GradientTape() as tape:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits(images))
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def run(steps: int) -> None:
        for number in range(steps):
            step(*tensors[number % len(tensors)]).numpy()

    return run
