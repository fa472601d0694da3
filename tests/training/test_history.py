import csv
import math

import pytest

from training.history import History


def history_of(folder, values):
    history = History(folder)
    history.rows = [{"epoch": epoch, "val_mean_auroc": value} for epoch, value in enumerate(values, 1)]
    return history


@pytest.mark.parametrize(
    ("values", "best", "since"),
    [
        ([], math.nan, 0),  # before the first epoch
        ([0.6], 0.6, 0),
        ([0.6, 0.7], 0.7, 0),
        ([0.7, 0.6, 0.65], 0.7, 2),
        ([0.7, 0.7], 0.7, 1),  # a tie is not better: the earlier one stays
        ([None, None], math.nan, 0),  # undefined: the best is the last
        ([None, 0.6, 0.5], 0.6, 1),
    ],
)
def test_best_and_the_epochs_since(tmp_path, values, best, since):
    history = history_of(tmp_path, values)
    assert history.best == pytest.approx(best, nan_ok=True)
    assert history.epochs_since_best() == since


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0),
        ([0.6, 0.5], 0),
        ([0.6, 0.5, 0.6], 1),  # a tie is not better
        ([0.6, 0.5, 0.5, 0.5, 0.5], 2),  # the count restarts after each
        ([0.6, 0.5, 0.7, 0.6], 0),
        ([0.6, 0.5, 0.5, 0.7, 0.6, 0.6], 2),
        ([None, None, None], 0),  # undefined: no plateau
    ],
)
def test_plateaus_of_two_epochs(tmp_path, values, expected):
    assert history_of(tmp_path, values).plateaus(2) == expected


def test_history_csv_leaves_undefined_values_empty(tmp_path):
    history_of(tmp_path, [None, 0.5]).write()
    with (tmp_path / "history.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["epoch", "val_mean_auroc"], ["1", ""], ["2", "0.5"]]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.61234, "val AUROC 0.6123 (best 0.7000)"), (None, "val AUROC undefined")]
)
def test_a_row_is_described_in_one_line(tmp_path, value, shown):
    history = history_of(tmp_path, [0.7, value])
    history.rows[-1] |= {"loss": 0.16128, "images_per_second": 412.4, "seconds": 186.2}
    assert history.describe(10) == f"epoch   2/10   loss 0.1613   {shown}   412 img/s   186 s"
