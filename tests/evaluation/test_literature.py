import numpy as np
import pytest

from cxr.evaluation import literature
from cxr.findings import FINDINGS

by_source = pytest.mark.parametrize("row", literature.ROWS, ids=lambda row: f"{row.source} {row.split}")


def test_every_row_is_listed_once():
    defined = [value for value in vars(literature).values() if isinstance(value, literature.Published)]
    assert sorted(defined) == sorted(literature.ROWS)
    assert len({(row.source, row.split) for row in literature.ROWS}) == len(literature.ROWS) == 8


@by_source
def test_the_findings_are_in_their_order(row):
    assert tuple(row.aurocs) == FINDINGS


@by_source
def test_the_mean_is_that_of_the_findings(row):
    assert np.mean(list(row.aurocs.values())) == pytest.approx(row.mean, abs=0.0005)  # tables round to three places


@by_source
def test_the_split_is_named_and_the_official_one_has_its_images(row):
    assert (row.split, row.images) in {("official", 25_596), ("random", None)}


def test_wang_2017_as_in_the_revised_paper():
    wang = literature.WANG_2017  # arXiv:1705.02315v5, table of the 14 findings, ResNet-50
    assert (wang.split, wang.images, wang.mean) == ("official", 25_596, 0.7451)
    assert wang.aurocs["Atelectasis"] == 0.7003
    assert wang.aurocs["Infiltration"] == 0.6614
    assert wang.aurocs["Pneumothorax"] == 0.7993
    assert wang.aurocs["Hernia"] == 0.8717


def test_wang_et_al_come_first_of_each_split():
    assert literature.rows_of_split("official")[0] is literature.WANG_2017
    assert literature.rows_of_split("random")[0] is literature.WANG_2017_RANDOM
    assert literature.rows_of_split("csv") == ()
    assert {row.split for row in literature.rows_of_split("random")} == {"random"}


OFFICIAL, RANDOM = literature.WANG_2017, literature.CHEXNET_2017


@pytest.mark.parametrize(
    ("row", "split", "split_name", "images", "reason"),
    [
        (OFFICIAL, "test", "official", 25_596, None),
        (OFFICIAL, "test", "official", 25_595, "it is on the official test split, all 25,596 images"),
        (OFFICIAL, "val", "official", 25_596, "it is on the official test split, all 25,596 images"),
        (OFFICIAL, "test", "random", 25_596, "it is on the official split"),
        (RANDOM, "test", "official", 25_596, "it is on the random split"),
        (RANDOM, "test", "random", 22_000, "it is on another random split"),
    ],
)
def test_only_the_whole_official_test_split_is_comparable(row, split, split_name, images, reason):
    found = literature.why_not_comparable(row, split=split, split_name=split_name, images=images)
    assert found == reason
