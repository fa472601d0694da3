"""Fine-tuning images/s: batch norm by the fused kernel beside Keras's own.

    python -m bench.fine_tune --network MobileNet --alpha 0.25

A network with random weights on random pixels of 224 px from memory, under 14 logits.
"""

import argparse

import numpy as np

from bench.timing import images_per_second, print_ratios
from cxr.records import parsing


def main() -> None:
    """Print images/s of training a network with either kind of batch norm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="MobileNet", help="of keras.applications")
    parser.add_argument("--alpha", type=float, help="width of a MobileNet")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="per pass")
    args = parser.parse_args()

    import keras
    import tensorflow as tf

    from cxr.networks.batch_norm import with_fused_norms

    options = {} if args.alpha is None else {"alpha": args.alpha}
    make = getattr(keras.applications, args.network)
    network = make(include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3), **options)
    draw = np.random.default_rng(230)
    images = draw.uniform(-1, 1, (args.batch_size, 224, 224, 3)).astype(np.float32)
    labels = (draw.random((args.batch_size, 14)) < 0.1).astype(np.float32)
    batches = parsing.without_autotuner(tf.data.Dataset.from_tensors((images, labels)).repeat(args.steps))

    def contestant(network: keras.Model):
        model = keras.Model(network.input, keras.layers.Dense(14)(network.output))
        model.compile("adamw", keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)

        def pass_over() -> int:
            model.fit(batches, verbose=0)
            return args.steps * args.batch_size

        return pass_over

    contestants = {"fused": contestant(with_fused_norms(network)), "keras": contestant(network)}
    print_ratios(images_per_second(contestants, rounds=3), ours="fused")


if __name__ == "__main__":
    main()
