"""An experiment that several files of tests score, trained once."""

import json
from pathlib import Path

import pytest

import train

PARAMS = {"image_size": 32, "num_channels": 4, "num_blocks": 1, "num_epochs": 1, "batch_size": 8}


@pytest.fixture(scope="session")
def one_epoch(built_dataset, with_few_resamples, tmp_path_factory) -> Path:
    """One epoch of training. Work on a copy."""
    model_dir = tmp_path_factory.mktemp("one_epoch")
    (model_dir / "params.json").write_text(json.dumps(PARAMS))
    with with_few_resamples():
        train.main(["--model_dir", str(model_dir), "--data_dir", str(built_dataset)])
    return model_dir
