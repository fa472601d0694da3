"""Published per-finding AUROC to stand beside. A number without its split is no number: each row names its own."""

from typing import NamedTuple

from cxr.findings import FINDINGS


class Published(NamedTuple):
    """One row of a published table."""

    source: str
    split: str  # "official", or "random": 70/10/20 by patient, drawn by each author anew
    images: int | None  # in its test set; None where it is not stated
    image_size: int | None  # pixels a side that the network sees; None where it is not stated
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
    """The rows of one split, Wang et al. first; none for a split that nobody else has, such as "csv"."""
    return tuple(row for row in ROWS if row.split == split_name)


def why_not_comparable(row: Published, *, split: str, split_name: str, images: int) -> str | None:
    """Why a score of these images does not stand beside a row; None where it does.

    Only the whole official test split is the same images for everybody.
    """
    if split_name != row.split:
        return f"it is of the {row.split} split"
    if row.split == "random":
        return "every random split is other images"
    if (split, images) != ("test", row.images):
        return f"it is of the {row.split} test split, all {row.images:,} images"
    return None
