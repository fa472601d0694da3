"""Published AUROC and localization by finding. A score means nothing without its split, so each row names one."""

from typing import NamedTuple

import numpy as np

from cxr.findings import FINDINGS


class Published(NamedTuple):
    """One row of a published table."""

    source: str
    split: str  # "official", or "random": 70/10/20 by patient, different for each author
    images: int | None  # in its test set; None where not stated
    image_size: int | None  # pixels per side of the network's input; None where not stated
    aurocs: dict[str, float]  # by finding
    mean: float  # as published or computed from the row


OFFICIAL_IMAGES = 25_596  # on test_list.txt


def _row(
    source: str, split: str, values: str, mean: float, *, images: int | None = None, image_size: int | None = None
) -> Published:
    aurocs = dict(zip(FINDINGS, map(float, values.split()), strict=True))
    return Published(source, split, images, image_size, aurocs, mean)


WANG_2017 = _row(
    "Wang et al. 2017 (arXiv:1705.02315v5, ResNet-50)",
    "official",
    ".7003 .8100 .7585 .6614 .6933 .6687 .6580 .7993 .7032 .8052 .8330 .7859 .6835 .8717",
    0.7451,
    images=OFFICIAL_IMAGES,
)
YAO_2018 = _row(
    "Yao et al. 2018",
    "official",
    ".733 .856 .806 .673 .718 .777 .684 .805 .711 .806 .842 .743 .724 .775",
    0.761,
    images=OFFICIAL_IMAGES,
)
GUENDEL_2018 = _row(
    "Guendel et al. 2018 (DenseNet-121)",
    "official",
    ".767 .883 .828 .709 .821 .758 .731 .846 .745 .835 .895 .818 .761 .896",
    0.807,
    images=OFFICIAL_IMAGES,
    image_size=1024,
)
CRAL_RESNET_50 = _row(
    "Guan & Huang 2018 (CRAL, ResNet-50)",
    "official",
    ".779 .879 .824 .694 .831 .766 .726 .858 .758 .850 .909 .832 .778 .906",
    0.814,
    images=OFFICIAL_IMAGES,
)
CRAL_DENSENET_121 = _row(
    "Guan & Huang 2018 (CRAL, DenseNet-121)",
    "official",
    ".781 .883 .831 .697 .830 .764 .725 .866 .758 .853 .911 .826 .780 .918",
    0.816,
    images=OFFICIAL_IMAGES,
)
WANG_2017_RANDOM = _row(
    "Wang et al. 2017 (as quoted by CheXNet)",
    "random",
    ".716 .807 .784 .609 .706 .671 .633 .806 .708 .835 .815 .769 .708 .767",
    0.738,
)
YAO_2017 = _row(
    "Yao et al. 2017",
    "random",
    ".772 .904 .859 .695 .792 .717 .713 .841 .788 .882 .829 .767 .765 .914",
    0.803,
)
CHEXNET_2017 = _row(
    "CheXNet 2017 (DenseNet-121)",
    "random",
    ".8094 .9248 .8638 .7345 .8676 .7802 .7680 .8887 .7901 .8878 .9371 .8047 .8062 .9164",
    0.841,
)
ROWS = (
    *(WANG_2017, YAO_2018, GUENDEL_2018, CRAL_RESNET_50, CRAL_DENSENET_121),
    *(WANG_2017_RANDOM, YAO_2017, CHEXNET_2017),
)


def rows_of_split(split_name: str) -> tuple[Published, ...]:
    """The rows of one split, Wang et al. first; none for an unpublished split such as "csv"."""
    return tuple(row for row in ROWS if row.split == split_name)


def why_not_comparable(row: Published, *, split: str, split_name: str, images: int) -> str | None:
    """Why a score on these images is not comparable with a row; None where it is.

    Only the whole official test split has the same images for everyone.
    """
    if split_name != row.split:
        return f"it is on the {row.split} split"
    if row.split == "random":
        return "it is on another random split"
    if (split, images) != ("test", row.images):
        return f"it is on the {row.split} test split, all {row.images:,} images"
    return None


def mean_over_defined(row: Published, result: dict) -> float:
    """A published mean over the findings that have an AUROC in the result; over all where none has."""
    published = [row.aurocs[name] for name, values in result["findings"].items() if values["auroc"] is not None]
    return float(np.mean(published)) if published else row.mean


LOCALIZATION_SOURCE = "Wang et al. 2017 (CVPR, Table 4; all 984 boxes of the official test set)"
LOCALIZATION_BOXES = 984
LOCALIZATION_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration"),
    *("Mass", "Nodule", "Pneumonia", "Pneumothorax"),
)
LOCALIZATION = {  # T(IoBB): accuracy and false positives per image, in the order of LOCALIZATION_FINDINGS
    0.1: (".7277 .9931 .7124 .7886 .4352 .1645 .7500 .4591", ".8323 .3506 .7998 .5589 .6423 .6047 .9055 .4776"),
    0.25: (".5500 .9794 .5424 .5772 .2823 .0506 .5583 .3469", ".9167 .4553 .8598 .6077 .6707 .6158 .9614 .5000"),
    0.5: (".2833 .8767 .3333 .4227 .1411 .0126 .3833 .1836", "1.0203 .5630 .9268 .6585 .6941 .6189 1.0132 .5285"),
    0.75: (".1666 .7260 .2418 .3252 .1176 .0126 .2583 .1020", "1.0619 .6616 .9603 .6921 .7043 .6199 1.0569 .5396"),
    0.9: (".1333 .6849 .2091 .2520 .0588 .0126 .2416 .0816", "1.0752 .7226 .9797 .7124 .7144 .6199 1.0732 .5437"),
}


def published_localization(finding: str) -> dict | None:
    """Wang et al. on a finding: {"iobb": {"0.1": {"accuracy", "false_positives"}, ...}}; None if not published."""
    if finding not in LOCALIZATION_FINDINGS:
        return None
    place = LOCALIZATION_FINDINGS.index(finding)
    rows = {str(limit): [float(row.split()[place]) for row in both] for limit, both in LOCALIZATION.items()}
    return {"iobb": {limit: {"accuracy": a, "false_positives": f} for limit, (a, f) in rows.items()}}
