"""Every parameter of an experiment: its name, type, default and meaning, in one list.

params.json in an experiment folder holds only what differs from these defaults. The documentation's parameter table is
generated from here.
"""

import dataclasses
import json
import pathlib
import typing
from typing import Literal

from cxr import effects, fields, storage
from cxr.fields import param

FILE = "params.json"
MODELS = {  # fewest and most extractors
    "simple_cnn": (0, 0),
    "feature_extractor": (1, 1),
    "ensemble": (2, 16),
    "average": (0, 0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTune:
    """The second phase of an experiment: after the head, its networks are trained end to end from the images."""

    epochs: int = param(5, "passes over the training images", 1, 100_000)
    learning_rate: float = param(1e-5, "peak learning rate", 1e-8, 10)
    unfreeze: Literal["all"] | int = param(
        "all", "`all`, or how many of each network's last layers to train", 1, 10_000
    )
    batch_norm: Literal["frozen", "trained"] = param(
        "frozen", "batch norm layers: keep their pretrained statistics and scales, or train both"
    )
    batch_size: int = param(32, "images per step", 1, 65_536)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params:
    """Everything that changes the numbers an experiment reports."""

    model: Literal["simple_cnn", "feature_extractor", "ensemble", "average"] = param("simple_cnn", "architecture")
    members: tuple[str, ...] = param(
        (), "average: folders of two or more trained experiments, whose logits are averaged; nothing is trained"
    )
    image_size: int = param(224, "simple_cnn: pixels per side of its input; other records are resized", 32, 2048)
    num_channels: int = param(16, "simple_cnn: channels of the first block; each further block doubles them", 1, 1024)
    num_blocks: int = param(5, "simple_cnn: convolution blocks; each halves the image", 1, 8)
    extractors: tuple[dict, ...] = param(
        (), "pretrained networks: one for feature_extractor, two or more for ensemble; see below"
    )
    normalization: Literal["extractor", "per_image"] = param(
        "extractor", "pixels for an extractor: in the range it was trained on, or standardised per image"
    )
    transition_units: int = param(
        512, "ensemble: width that each extractor's features are projected to before they are added", 1, 65_536
    )
    hidden_units: tuple[int, ...] = param(
        (512, 256), "widths of the fully connected layers over the features", 1, 65_536
    )
    dropout: float = param(0.0, "dropout rate before each fully connected layer", 0, 0.95)
    metadata: bool = param(
        False, "add embeddings of age, sex and view position to the features; unknown values have their own", 0, 1
    )
    crop_size: int | None = param(
        None, "pixels per side of a crop of each record: random in training, centred otherwise", 32, 2048
    )
    augmentation: Literal["none", "light", "medium", "strong"] = param(
        "none", "strength of random rotation, shift, zoom, lighting, noise and erasing in training; see below"
    )
    horizontal_flip: bool = param(
        False, "mirror half of the training images; off by default, because a mirrored heart is itself a finding", 0, 1
    )
    mixup: float = param(
        0.0, "alpha of mixup, whose shares are drawn from Beta(alpha, alpha); 0 is off (Zhang et al. 2018)", 0, 10
    )
    loss: Literal["bce", "batch_balanced", "inverse_frequency", "focal"] = param(
        "bce",
        "binary cross-entropy, plain or weighted by batch or training counts, or focal loss",
    )
    batch_size: int = param(32, "images per step", 1, 65_536)
    num_epochs: int = param(10, "maximum passes over the training images", 1, 100_000)
    early_stopping_patience: int = param(5, "epochs without a better val AUROC before training stops", 1, 100_000)
    optimizer: Literal["adamw", "sgd"] = param("adamw", "AdamW, or SGD with Nesterov momentum 0.9")
    learning_rate: float = param(1e-3, "peak learning rate", 1e-8, 10)
    lr_schedule: Literal["constant", "cosine", "plateau"] = param(
        "cosine",
        "after warm-up: constant, cosine decay to 0, or divided by 10 after 2 epochs without a better val AUROC",
    )
    warmup_epochs: float = param(0.5, "epochs of linear warm-up from 0 to the peak learning rate", 0, 1000)
    weight_decay: float = param(
        1e-4, "decoupled weight decay, scaled by the learning rate (Loshchilov & Hutter 2019)", 0, 1
    )
    gradient_clip_norm: float | None = param(
        None,
        "maximum norm of the gradient over all weights; larger gradients are scaled down (Pascanu et al. 2013)",
        1e-6,
        1e6,
    )
    ema_decay: float | None = param(
        None, "decay per step of a moving average of the weights; the average is evaluated and saved", 0.5, 0.99999
    )
    precision: Literal["float32", "bfloat16", "int8", "mixed_float16"] = param(
        "float32",
        "arithmetic of convolutions and matrix products; int8 is for frozen networks. Trained weights stay float32",
    )
    fine_tune: FineTune | None = param(None, "second phase, which trains the extractors too; see below")  # noqa: RUF009
    seed: int = param(230, "random seed of the initial weights, record order, dropout and augmentation", 0, 2**32 - 1)

    def head_phase(self) -> "Params":
        """These parameters for the head that fine-tuning begins with, on cached features of unchanged images."""
        return dataclasses.replace(self, fine_tune=None, augmentation="none", horizontal_flip=False)

    def last_phase(self) -> "Params":
        """These parameters with the batch size, epochs and learning rate of fine-tuning, if it is set."""
        if self.fine_tune is None:
            return self
        return dataclasses.replace(
            self,
            batch_size=self.fine_tune.batch_size,
            num_epochs=self.fine_tune.epochs,
            learning_rate=self.fine_tune.learning_rate,
        )


def load_params(model_dir: pathlib.Path) -> Params:
    """Read and check params.json of an experiment.

    Raises:
        FileNotFoundError: params.json is missing.
        ValueError: an unknown key, a wrong type or an impossible value; the text names file, key and expected value.
    """
    path = model_dir / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}; an experiment is a folder with a params.json, which may be empty: {{}}. "
            "Copy one from experiments/simple_cnn."
        )
    return parse_params(storage.read_json(path), where=str(path))


def parse_params(values: dict, *, where: str) -> Params:
    """Check values against the fields of Params and against one another; `where` names their file in errors.

    A value that nothing would read is an error unless it is the default, so complete sets of parameters pass.
    """
    params = fields.parse(Params, values, where)
    _require_consistent(params, where)
    effects.require_effect(params, where)
    return params


def as_json(params: Params) -> dict:
    """All parameters as JSON holds them; `parse_params` reads them back."""
    return json.loads(json.dumps(dataclasses.asdict(params)))


def _require_consistent(params: Params, where: str) -> None:
    """Raise ValueError where parameters contradict one another."""
    if not params.extractors and params.image_size >> params.num_blocks == 0:
        raise ValueError(f"{where}: num_blocks {params.num_blocks} halves {params.image_size} pixels to none")
    low, high = MODELS[params.model]
    if not low <= len(params.extractors) <= high:
        wanted = {0: "no extractors", 1: "one extractor", 2: "two extractors or more"}[low]
        raise ValueError(f"{where}: model {params.model!r} takes {wanted}, not {len(params.extractors)}")
    if params.model == "average" and len(params.members) < 2:
        raise ValueError(f"{where}: model 'average' takes two members or more, not {len(params.members)}")
    if params.fine_tune and params.model == "simple_cnn":
        raise ValueError(f"{where}: fine_tune needs extractors; {params.model!r} trains all of its layers anyway")
    if params.fine_tune and any(spec.get("source") != "keras" for spec in params.extractors):
        raise ValueError(f"{where}: fine_tune is for extractors of source 'keras'; those of other sources stay frozen")
    if params.precision == "int8" and (params.fine_tune or not params.extractors):
        trains = "fine_tune trains its networks" if params.fine_tune else "simple_cnn trains all of its layers"
        raise ValueError(
            f"{where}: precision 'int8' is for frozen networks, and {trains}; take 'bfloat16', or 'float32'"
        )
    if params.precision == "mixed_float16" and any(spec.get("source") == "onnx" for spec in params.extractors):
        raise ValueError(f"{where}: encoders of source 'onnx' run on the CPU, in 'float32', 'bfloat16' or 'int8'")
    if params.mixup and params.metadata:
        raise ValueError(f"{where}: mixup cannot average two sexes or view positions; leave out mixup or metadata")


def parameter_table(kind: type = Params) -> str:
    """The fields of Params or FineTune as a Markdown table for the documentation."""
    kinds = typing.get_type_hints(kind)
    lines = ["| parameter | values | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        values = fields.describe(kinds[field.name], field.metadata)
        default = field.default if isinstance(field.default, str) else json.dumps(field.default)
        lines.append(f"| `{field.name}` | {values} | `{default}` | {field.metadata['meaning']} |")
    return "\n".join(lines)
