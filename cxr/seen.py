"""The image sets that pretrained networks have seen: what params.json states, and what is known of named networks.

A network that has seen test images, with or without their labels, may score too well on them. Nothing in its weights
shows that, so it is stated: by "seen" in an extractor, or for known networks by the table below. A claim of the table
holds for the file as published: weights that were trained further have seen more.
"""

import difflib
import pathlib
import re
from typing import NamedTuple

NIH_TEST = ("nih_test", "nih_test_unlabeled")  # of the official split
NIH_TRAIN_VAL = ("nih_train_val", "nih_train_val_unlabeled")
NIH = (*NIH_TRAIN_VAL, *NIH_TEST)
NIH_RANDOM = ("nih_train_val", "nih_test")  # a random split of NIH puts images of the official test list into training
# Other sets may be named too; these are those of the table.
OTHERS = ("brax", "chexpert", "imagenet", "imagenet21k", "lvd_142m", "lvd_1689m", "mimic", "openi", "padchest")
OTHERS += ("radimagenet", "slake", "webli")


class Known(NamedTuple):
    """What a published network has seen."""

    pattern: str  # matches all of "source:network", see `_network_of`
    sets: tuple[str, ...]
    stated_by: str
    published: str | None = None  # where its files are, for the error without them


TXV = "TorchXRayVision, torchxrayvision/models.py and its documentation (random splits)"
TXV_FILES = "https://github.com/mlmed/torchxrayvision"
EVA_X = "Yao et al. 2024 (EVA-X): merged images of NIH's train list, CheXpert and MIMIC-CXR"
KNOWN = (
    Known(r"keras:imagenet", ("imagenet",), "Keras Applications"),
    # The names under which keras.applications publishes its files.
    Known(r"keras:.+_weights_tf_dim_ordering_tf_kernels_.*no_?top\.h5", ("imagenet",), "Keras Applications"),
    Known(r"keras:mobilenet_\d+_\d+_\d+_tf_no_top\.h5", ("imagenet",), "Keras Applications"),
    Known(r"keras:efficientnet(b\d|v2-\w+)_notop\.h5", ("imagenet",), "Keras Applications"),
    Known(
        r"keras:radimagenet[-_ ].*",
        ("radimagenet",),
        "Mei et al. 2022: trained solely from RadImageNet",
        "https://github.com/BMEII-AI/RadImageNet",
    ),
    Known(r"hub:https://tfhub\.dev/google/imagenet/.*", ("imagenet",), "TensorFlow Hub"),
    Known(
        r"keras_hub:hf://microsoft/rad-dino",
        ("nih_train_val_unlabeled", "nih_test_unlabeled", "brax", "chexpert", "mimic", "padchest"),
        "model card of RAD-DINO: 112,120 images of NIH, which is all of them",
        "https://huggingface.co/microsoft/rad-dino",
    ),
    Known(
        r"keras_hub:(medsiglip_.*|hf://google/medsiglip-.*|kaggle://keras/medsiglip/.*)",
        ("mimic", "slake"),
        "model card of MedSigLIP; at most 179 images of SLAKE are NIH's",
        "https://www.kaggle.com/models/keras/medsiglip",
    ),
    Known(r"keras_hub:(.*/)?(resnet|vit|efficientnet|densenet)_\w*_imagenet(/\d+)?", ("imagenet",), "KerasHub"),
    Known(r"keras_hub:(.*/)?(resnet|vit|efficientnet)_\w*_imagenet21k(/\d+)?", ("imagenet21k",), "KerasHub"),
    Known(
        r"keras_hub:(.*/)?dinov2[-_]\w+(/\d+)?",
        ("lvd_142m",),
        "Oquab et al. 2023 (DINOv2)",
        "https://www.kaggle.com/models/keras/dinov2",
    ),
    Known(r"keras_hub:(.*/)?dinov3_\w+_lvd1689m(/\d+)?", ("lvd_1689m",), "Simeoni et al. 2025 (DINOv3)"),
    Known(r"keras_hub:(.*/)?siglip2?_\w+(/\d+)?", ("webli",), "Zhai et al. 2023 (SigLIP)"),
    Known(r"onnx:densenet121-res224-(nih|rsna).*", NIH_RANDOM, TXV, TXV_FILES),
    Known(
        r"onnx:(densenet121-res224|resnet50-res512)-all.*",
        (*NIH_RANDOM, "chexpert", "mimic", "openi", "padchest"),
        TXV,
        TXV_FILES,
    ),
    Known(r"onnx:densenet121-res224-chex.*", ("chexpert",), TXV, TXV_FILES),
    Known(r"onnx:densenet121-res224-pc.*", ("padchest",), TXV, TXV_FILES),
    Known(r"onnx:densenet121-res224-mimic_.*", ("mimic",), TXV, TXV_FILES),
    Known(
        r"onnx:eva_x_\w+_merged520k_mim.*",
        ("nih_train_val", "chexpert", "mimic"),
        EVA_X,
        "https://github.com/hustvl/EVA-X",
    ),
)


def check(sets: list, where: str) -> None:
    """Raise ValueError unless these are names of image sets; a name that almost is one of NIH's must be exact."""
    for name in sets:
        if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9_]+", name)):
            raise ValueError(f"{where}: {name!r}; expected names such as {NIH[0]!r} or 'my_hospital_2020'")
        if name not in NIH and (name.startswith("nih") or difflib.get_close_matches(name, NIH, n=1, cutoff=0.8)):
            near = difflib.get_close_matches(name, NIH, n=1, cutoff=0)
            raise ValueError(f"{where}: unknown {name!r}. Did you mean {near[0]!r}? Sets of NIH are {', '.join(NIH)}")


def seen_by(spec: dict) -> list[str] | None:
    """The image sets that the network of an extractor has seen; None if that is not stated.

    Not for source "experiment", see cxr/evaluation/pretraining.py.
    """
    if "seen" in spec:
        return list(spec["seen"])
    if spec.get("source") == "keras" and spec.get("weights", "imagenet") is None:
        return []  # random weights
    found = _known(spec)
    return found and list(found.sets)


def where_published(spec: dict) -> str:
    """The end of an error about a missing network: where it is published, if that is known."""
    found = _known(spec)
    address = f"It is published at {found.published}; " if found and found.published else ""
    return f"{address}docs/encoders.md says how to get and export encoders"


def _known(spec: dict) -> Known | None:
    network = _network_of(spec)
    return next((known for known in KNOWN if re.fullmatch(known.pattern, network, re.IGNORECASE)), None)


def _network_of(spec: dict) -> str:
    """The published name of a network: its preset or handle, or the name of its file."""
    name = str(spec.get("preset") or spec.get("handle") or spec.get("path") or spec.get("weights", "imagenet"))
    is_file = spec.get("source") in ("keras", "onnx")
    return f"{spec.get('source')}:{pathlib.PurePath(name).name if is_file else name}"


def scored(sets: list[str], split: str, split_name: str) -> list[str]:
    """Those sets that may hold images of a split of NIH, with or without labels.

    Args:
        split: "train", "val" or "test". split_name: "official", "random" or "csv"; the last two mix NIH's lists.
    """
    if split == "train":
        return []
    official = {"val": NIH_TRAIN_VAL, "test": NIH_TEST}[split]
    return [name for name in sets if name in (official if split_name == "official" else NIH)]


def words(sets: list[str] | None) -> str:
    """ "nih_test, chexpert", "nothing" or "not stated"."""
    return "not stated" if sets is None else ", ".join(sets) or "nothing"
