"""Every parameter of an experiment: its name, type, default and meaning, in one list.

params.json in an experiment folder holds only what differs from these defaults. The README's table is made from here.
"""

import dataclasses
import json
import pathlib
import typing
from typing import Literal

from cxr import effects, fields, storage
from cxr.fields import param

FILE = "params.json"
MODELS = {"simple_cnn": (0, 0), "feature_extractor": (1, 1), "ensemble": (2, 16)}  # extractors each takes, from and to


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTune:
    """The second phase of an experiment: its networks train end to end, from the images, after the head has."""

    epochs: int = param(5, "passes over the training images", 1, 100_000)
    learning_rate: float = param(1e-5, "peak step size", 1e-8, 10)
    unfreeze: Literal["all"] | int = param("all", "`all`, or how many of a network's last layers", 1, 10_000)
    batch_norm: Literal["frozen", "trained"] = param(
        "frozen", "statistics of batch norm: those of pre-training, or anew"
    )
    batch_size: int = param(32, "images per step", 1, 65_536)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params:
    """Everything that changes the numbers an experiment reports."""

    model: Literal["simple_cnn", "feature_extractor", "ensemble"] = param("simple_cnn", "architecture")
    image_size: int = param(224, "pixels a side that simple_cnn sees; records of another size are resized", 32, 2048)
    num_channels: int = param(16, "simple_cnn: channels of the first block; each block doubles them", 1, 1024)
    num_blocks: int = param(5, "simple_cnn: convolution blocks, each halving the image", 1, 8)
    extractors: tuple[dict, ...] = param((), "frozen networks: one for feature_extractor, more for ensemble; see below")
    normalization: Literal["extractor", "per_image"] = param(
        "extractor", "pixels for an extractor: its own range, or standardised per image whatever it was trained on"
    )
    transition_units: int = param(
        512, "ensemble: width to which each extractor is brought before they are added", 1, 65_536
    )
    hidden_units: tuple[int, ...] = param(
        (512, 256), "widths of the fully connected layers over the features", 1, 65_536
    )
    dropout: float = param(0.0, "share of values dropped before each fully connected layer in training", 0, 0.95)
    metadata: bool = param(
        False, "age, sex and view position as embeddings beside what is seen; unknown has its own", 0, 1
    )
    crop_size: int | None = param(
        None, "pixels a side cut from larger records: anywhere in training, from the centre else", 32, 2048
    )
    augmentation: Literal["none", "light", "medium", "strong"] = param(
        "none", "how far training images are turned, moved, zoomed, relit, made noisy and erased; see below"
    )
    horizontal_flip: bool = param(
        False, "mirror half of the training images; off, as hearts have a side and a mirrored one is a finding", 0, 1
    )
    mixup: float = param(
        0.0, "alpha of Beta(alpha, alpha), by whose draws pairs of images and labels mix (Zhang et al. 2018)", 0, 10
    )
    augmented_copies: int = param(
        0, "augmented copies of the training images whose features are cached; the epochs take turns", 0, 64
    )
    loss: Literal["bce", "batch_balanced", "inverse_frequency", "effective_number", "focal", "asymmetric"] = param(
        "bce", "cross-entropy; weighted by batch or by training counts; focal or asymmetric: see cxr/networks/losses.py"
    )
    label_smoothing: float = param(0.0, "share s of a label that is the coin's: y becomes y (1 - s) + s / 2", 0, 0.9)
    balanced_sampling: bool = param(
        False, "images of rare findings come more often, by the square root (Gupta et al. 2019, LVIS)", 0, 1
    )
    batch_size: int = param(32, "images per step", 1, 65_536)
    num_epochs: int = param(10, "passes over the training images, at most", 1, 100_000)
    early_stopping_patience: int = param(5, "epochs without a better val AUROC before training stops", 1, 100_000)
    optimizer: Literal["adamw", "sgd"] = param("adamw", "AdamW, or SGD with Nesterov momentum 0.9")
    learning_rate: float = param(1e-3, "peak step size", 1e-8, 10)
    lr_schedule: Literal["constant", "cosine", "plateau"] = param(
        "cosine", "after warm-up: keep the peak, fall to 0 by cosine, or to a tenth after 2 epochs without a better val"
    )
    warmup_epochs: float = param(0.5, "epochs of linear rise from 0 to the peak", 0, 1000)
    weight_decay: float = param(1e-4, "decoupled, per step times the step size (Loshchilov & Hutter 2019)", 0, 1)
    gradient_clip_norm: float | None = param(
        None, "longest gradient over all weights; longer ones are scaled down (Pascanu et al. 2013)", 1e-6, 1e6
    )
    ema_decay: float | None = param(
        None, "per step, of a moving average of the weights, which is what is evaluated and kept", 0.5, 0.99999
    )
    precision: Literal["float32", "bfloat16", "mixed_float16"] = param(
        "float32", "arithmetic of convolutions and matrix products; weights stay float32"
    )
    fine_tune: FineTune | None = param(None, "second phase that trains the extractors too; see below")  # noqa: RUF009
    seed: int = param(230, "of initial weights, record order, dropout and augmentation", 0, 2**32 - 1)

    def sees_changed_images(self) -> bool:
        """Whether training images differ from epoch to epoch, or from view to view."""
        return self.augmentation != "none" or self.horizontal_flip

    def head_phase(self) -> "Params":
        """These parameters for the head that fine-tuning begins with; features without views are not augmented."""
        head = dataclasses.replace(self, fine_tune=None)
        return head if self.augmented_copies else dataclasses.replace(head, augmentation="none", horizontal_flip=False)

    def last_phase(self) -> "Params":
        """These parameters with batch size, epochs and learning rate of fine-tuning, where there is any.

        It trains on images, not on features, so that there are no cached copies of them.
        """
        fine_tune = self.fine_tune
        if fine_tune is None:
            return self
        return dataclasses.replace(
            self,
            batch_size=fine_tune.batch_size,
            num_epochs=fine_tune.epochs,
            learning_rate=fine_tune.learning_rate,
            augmented_copies=0,
        )


def load_params(model_dir: pathlib.Path) -> Params:
    """Read and check params.json of an experiment.

    Raises:
        FileNotFoundError: there is none.
        ValueError: an unknown key, a wrong type or an impossible value; file, key and expectation are named.
    """
    path = model_dir / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}; an experiment is a folder with a params.json, which may be empty: {{}}. "
            "Copy one from experiments/simple_cnn."
        )
    return parse_params(storage.read_json(path), where=str(path))


def parse_params(values: dict, *, where: str) -> Params:
    """Check values against the fields of Params, and against one another; `where` names their origin in errors.

    A value other than the default that nothing would read is an error too, so complete sets of parameters pass.
    """
    params = fields.parse(Params, values, where)
    _require_fitting_model(params, where)
    effects.require_effect(params, where)
    return params


def as_json(params: Params) -> dict:
    """All parameters as JSON holds them; `parse_params` reads them back."""
    return json.loads(json.dumps(dataclasses.asdict(params)))


def _require_fitting_model(params: Params, where: str) -> None:
    """Raise ValueError where parameters contradict one another."""
    if not params.extractors and params.image_size >> params.num_blocks == 0:
        raise ValueError(f"{where}: num_blocks {params.num_blocks} halves {params.image_size} pixels to nothing")
    low, high = MODELS[params.model]
    if not low <= len(params.extractors) <= high:
        wanted = {0: "no extractors", 1: "one extractor", 2: "two extractors or more"}[low]
        raise ValueError(f"{where}: model {params.model!r} takes {wanted}, not {len(params.extractors)}")
    if params.fine_tune and not params.extractors:
        raise ValueError(f"{where}: fine_tune is for models with extractors; {params.model!r} trains all of itself")
    if params.fine_tune and any(spec.get("source") != "keras" for spec in params.extractors):
        raise ValueError(
            f"{where}: fine_tune is for extractors of source 'keras'; hub modules and experiments stay frozen"
        )
    if params.mixup and params.metadata:
        raise ValueError(f"{where}: mixup has no mean of two sexes or view positions; leave out mixup or metadata")


def parameter_table(kind: type = Params) -> str:
    """The fields of Params or FineTune as a Markdown table, for the README."""
    kinds = typing.get_type_hints(kind)
    lines = ["| parameter | values | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else default
        values = fields.describe(kinds[field.name], field.metadata)
        lines.append(f"| `{field.name}` | {values} | `{shown}` | {field.metadata['meaning']} |")
    return "\n".join(lines)
