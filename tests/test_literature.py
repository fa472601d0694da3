import numpy as np
import pytest

from cxr.evaluation import literature
from cxr.findings import FINDINGS

ROWS = [value for value in vars(literature).values() if isinstance(value, literature.Published)]
by_source = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.source.split(" (")[0])


@by_source
def test_the_findings_are_in_their_order(row):
    assert tuple(row.aurocs) == FINDINGS


@by_source
def test_the_mean_is_that_of_the_findings(row):
    assert np.mean(list(row.aurocs.values())) == pytest.approx(row.mean, abs=0.0006)  # tables round to three places


@by_source
def test_the_split_is_named(row):
    assert row.split in ("official", "random")


def test_wang_2017_as_in_the_revised_paper():
    wang = literature.WANG_2017  # arXiv:1705.02315v5, table of the 14 findings, ResNet-50
    assert (wang.split, wang.images, wang.mean) == ("official", 25_596, 0.7451)
    assert wang.aurocs["Atelectasis"] == 0.7003
    assert wang.aurocs["Infiltration"] == 0.6614
    assert wang.aurocs["Pneumothorax"] == 0.7993
    assert wang.aurocs["Hernia"] == 0.8717
