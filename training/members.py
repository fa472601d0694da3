"""An average of trained experiments: check its members, and fit its operating points and calibration on val."""

import itertools
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from cxr import experiment, identity
from cxr.evaluation import metrics
from cxr.records.dataset import Dataset
from evaluate import score_split, trained_logits
from training.epochs import val_columns
from training.history import NAMES
from training.start import TrainingJob, begin_run, criterion_of

log = logging.getLogger("train")


def average_members(job: TrainingJob) -> dict:
    """Average the logits of the members for val and score them; nothing is trained. Returns the metrics of val.

    Raises:
        FileNotFoundError: a member does not exist or has not been trained.
        ValueError: members do not fit together or the dataset, or differ from those that the run began with.
    """
    if job.restore_from:
        raise ValueError("--restore_from has no effect on an average: it trains nothing and has no weights of its own")
    members = identity.describe_members(job.model_dir, job.params)
    require_different(members)
    require_image_size(members, job.images)
    begin_run(job, {}, members=members)
    val = job.indexes["val"]
    criterion = criterion_of(val)
    logits = []
    for folder in identity.members_of(job.model_dir, "best"):
        logits.append(trained_logits(folder, "val", job.images, engine=job.engine))
        value = val_columns(val, metrics.sigmoid(logits[-1].astype(np.float64)))[criterion]
        log.info("member %s   %s %s", folder, NAMES[criterion], "undefined" if value is None else f"{value:.4f}")
    where = {"params": job.params, "model_dir": job.model_dir, "checkpoint": "best"}
    return score_split(np.mean(logits, axis=0), "val", job.images, **where)


def require_different(members: Sequence[dict]) -> None:
    """Raise ValueError if two members have the same weights."""
    for first, second in itertools.combinations(members, 2):
        if first["weights_sha256"] == second["weights_sha256"]:
            raise ValueError(
                f"the members {first['model_dir']} and {second['model_dir']} have the same weights (SHA-256 "
                f"{first['weights_sha256'][: identity.SHOWN]}), which would count twice; leave one of them out"
            )


def require_image_size(members: Sequence[dict], images: Dataset) -> None:
    """Raise ValueError unless all members were trained on images of the size of these, which they get as they are."""
    for member in members:
        size = experiment.dataset_of(pathlib.Path(member["model_dir"]))["image_size"]
        if size != images.info["image_size"]:
            raise ValueError(
                f"the member {member['model_dir']} was trained on images of {size} pixels, {images.folder} has "
                f"{images.info['image_size']}; all members of an average get the same images"
            )
