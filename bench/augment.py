"""Augmented images/s at 224 px: ours beside Albumentations doing the same operations with the same limits.

    pip install -r bench/requirements-augment.txt
    python -m bench.augment

Rotation, shift and zoom; gamma, contrast and brightness; noise; an erased rectangle: on grey uint8 images in memory.
"""

import argparse
import os

import numpy as np

from bench.timing import images_per_second, print_ratios
from cxr.networks import augment
from cxr.params import Params

SIZE, BATCH, BATCHES = 224, 32, 10


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = tuple(name for name in augment.STRENGTHS if name != "none")
    parser.add_argument("--preset", choices=choices, default="medium", help="default: %(default)s")
    return parser.parse_args(argv)


def albumentations_pipeline(strength: float):
    """What `augment.augment` does at a strength, in Albumentations' words."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version
    import albumentations
    import cv2

    def both(limit: float) -> tuple[float, float]:
        return -limit * strength, limit * strength

    zoom, gamma = (1 + value for value in both(augment.ZOOM)), (np.exp(value) for value in both(augment.GAMMA))
    return albumentations.Compose(
        [
            albumentations.Affine(
                rotate=both(augment.ROTATION),
                translate_percent=both(augment.SHIFT),
                scale=tuple(zoom),
                keep_ratio=True,
                border_mode=cv2.BORDER_REPLICATE,
                p=1,
            ),
            albumentations.RandomBrightnessContrast(
                brightness_limit=both(augment.BRIGHTNESS / 255), contrast_limit=both(augment.CONTRAST), p=1
            ),
            albumentations.RandomGamma(gamma_limit=tuple(float(100 * value) for value in gamma), p=1),
            albumentations.GaussNoise(std_range=(0, augment.NOISE * strength / 255), p=1),
            albumentations.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=augment.ERASED,
                hole_width_range=augment.ERASED,
                fill="random_uniform",
                p=augment.ERASING * strength,
            ),
        ]
    )


def main() -> None:
    """Print images/s of both and the ratio beside its limit."""
    args = parse_args()
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 1), np.uint8)
    params = Params(augmentation=args.preset)
    pipeline = albumentations_pipeline(augment.STRENGTHS[args.preset])

    def ours() -> int:
        for step in range(BATCHES):
            augment.augment(images, params, np.random.default_rng((params.seed, 0, step)))
        return BATCH * BATCHES

    def theirs() -> int:
        for _ in range(BATCHES):
            np.stack([pipeline(image=image)["image"] for image in images])
        return BATCH * BATCHES

    rates = images_per_second({"ours": ours, "Albumentations": theirs})
    print_ratios(rates, ours="ours")
    print(f"ours over Albumentations: {rates['ours'] / rates['Albumentations']:.2f}   limit 3")


if __name__ == "__main__":
    main()
