import pytest

from tools.reporting import result_figures

HISTORY = [
    {"epoch": 1, "loss": 0.5, "val_loss": 0.5, "val_mean_auroc": 0.6, "val_within_auroc": 0.7},
    {"epoch": 2, "loss": 0.4, "val_loss": 0.5, "val_mean_auroc": 0.8, "val_within_auroc": 0.55},
]


@pytest.mark.parametrize(
    ("history", "title"),
    [
        (HISTORY, "Val mean AUROC within groups: best 0.700 in epoch 1"),
        ([row | {"val_within_auroc": None} for row in HISTORY], "Val mean AUROC: best 0.800 in epoch 2"),
    ],
)
def test_the_best_epoch_is_the_one_that_training_kept(history, title):
    assert result_figures.training(history)[1].title == title
