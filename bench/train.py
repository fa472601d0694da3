"""simple_cnn training images/s: from records over from tensors already in memory, and augmented over not.

    python -m bench.train --data_dir ../shared/nih-1024

Builds png and raw records of the release at 224 px in a temporary folder. The difference from tensors in memory is the
cost of reading; that from images without augmentation is the cost of augmentation.
"""

import argparse
import dataclasses
import pathlib
import tempfile

from bench import images_per_second, print_ratios
from bench.input import build, repeated
from cxr.params import Params
from cxr.records import parsing
from cxr.records.dataset import open_dataset
from input_fn import input_fn
from model_fn import model_fn

REPEAT = 4  # times the records are read in a pass


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, default="../shared/nih-1024", help="a release")
    return parser.parse_args(argv)


def main() -> None:
    """Print images/s of training from memory, from both kinds of records and from augmented images."""
    args = parse_args()

    import keras
    import tensorflow as tf

    params = Params(early_stopping_patience=1)
    with tempfile.TemporaryDirectory() as name:
        datasets, sources = {}, {}
        for encoding in ("png", "raw"):
            data_dir = pathlib.Path(name) / encoding
            build(args.data_dir, data_dir, encoding)
            datasets[encoding] = data = repeated(open_dataset(data_dir), REPEAT)
            sources[f"{encoding} records"] = lambda data=data: input_fn(
                "train", {"image": data}, params, epoch=0, inputs=["image"]
            )
        augmented = dataclasses.replace(params, augmentation="strong", mixup=0.2)
        sources["augmented raw records"] = lambda: input_fn(
            "train", {"image": datasets["raw"]}, augmented, epoch=0, inputs=["image"]
        )
        inputs, labels = next(iter(sources["png records"]().unbatch().batch(10_000)))
        tensors = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(params.batch_size, drop_remainder=True)
        tensors = parsing.without_autotuner(tensors)
        sources = {"tensors in memory": lambda: tensors, **sources}
        model = model_fn(params, datasets["raw"].info)
        model.compile("adamw", keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)

        def pass_over(make) -> int:
            batches = make()
            model.fit(batches, verbose=0, shuffle=False)
            return len(batches) * params.batch_size

        contestants = {source: lambda make=make: pass_over(make) for source, make in sources.items()}
        rates = images_per_second(contestants, rounds=3)
    print_ratios(rates, ours="png records")
    for source in ("png records", "raw records"):
        print(f"{source} over tensors in memory: {rates[source] / rates['tensors in memory']:.3f}")
    ratio = rates["augmented raw records"] / rates["raw records"]
    print(f"augmented over not augmented raw records: {ratio:.3f}   limit 0.9")


if __name__ == "__main__":
    main()
