"""Published per-finding AUROC to stand beside. A number without its split is no number: each row names its own."""

from typing import NamedTuple

from cxr.findings import FINDINGS


class Published(NamedTuple):
    """One row of a published table."""

    source: str
    split: str  # "official" or "random"
    images: int  # in its test set
    aurocs: dict[str, float]  # by finding
    mean: float  # as published or computed from the row


WANG_2017 = Published(
    source="Wang et al. 2017 (arXiv:1705.02315v5, ResNet-50)",
    split="official",
    images=25_596,
    aurocs=dict(
        zip(
            FINDINGS,
            (0.7003, 0.8100, 0.7585, 0.6614, 0.6933, 0.6687, 0.6580)
            + (0.7993, 0.7032, 0.8052, 0.8330, 0.7859, 0.6835, 0.8717),
            strict=True,
        )
    ),
    mean=0.7451,
)
