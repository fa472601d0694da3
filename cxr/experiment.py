"""The files of an experiment folder (model_dir): paths, weights, resumable state, and moving a run aside.

params.json          parameters other than the defaults    best.weights.h5   best val mean AUROC
run.json             identity of the run                   last.weights.h5   last epoch
dataset.json         the dataset it was trained on         resume/           state to resume from
patients.json        patients of its train and val         networks/         frozen networks as OpenVINO runs them
train.log            log of the run                        history.csv       one row per epoch
out_of_distribution.json   distances fitted on train, with their threshold from val           tensorboard/
metrics_{split}_{checkpoint}.json   predictions_{split}_{checkpoint}.csv   experts_{split}_{checkpoint}.json
"""

import functools
import json
import pathlib
import shutil
import subprocess
import warnings
import zipfile
from importlib import metadata

import numpy as np

from cxr import storage
from cxr.errors import ROOT
from cxr.findings import require_same_findings

CHECKPOINTS = ("best", "last")
RESULTS = ("metrics_*.json", "predictions_*.csv", "experts_*.json", "report_*.html", "external", "tta_*")
RESULTS += ("localization", "out_of_distribution.json")
TRAINED = ("*.weights.h5", "run.json", "dataset.json", "patients.json", "train.log", "history.csv", "resume")
TRAINED += ("tensorboard", "head", "networks")
PRODUCTS = (*TRAINED, *RESULTS)
LIBRARIES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "pillow")


def weights_path(model_dir: pathlib.Path, checkpoint: str) -> pathlib.Path:
    """Path of the "best" or "last" weights of an experiment."""
    return model_dir / f"{checkpoint}.weights.h5"


def metrics_path(model_dir: pathlib.Path, split: str, checkpoint: str) -> pathlib.Path:
    """Path of the metrics of a split."""
    return model_dir / f"metrics_{split}_{checkpoint}.json"


def predictions_path(model_dir: pathlib.Path, split: str, checkpoint: str) -> pathlib.Path:
    """Path of the predictions for a split."""
    return model_dir / f"predictions_{split}_{checkpoint}.csv"


def experts_path(model_dir: pathlib.Path, split: str, checkpoint: str) -> pathlib.Path:
    """Path of the comparison with radiologists' labels of a split."""
    return model_dir / f"experts_{split}_{checkpoint}.json"


def patients_path(model_dir: pathlib.Path) -> pathlib.Path:
    """Path of the list of train and val patients, which shows whether another dataset shares patients with them."""
    return model_dir / "patients.json"


def patients_of(model_dir: pathlib.Path) -> dict[str, list[int]]:
    """{"train": patient ids, "val": patient ids} that an experiment's weights have seen; {} if unknown."""
    path = patients_path(model_dir)
    return storage.read_json(path) if path.is_file() else {}


def products(model_dir: pathlib.Path, patterns: tuple[str, ...] = PRODUCTS) -> list[pathlib.Path]:
    """Every file that a run, or a command that used its weights, wrote into the folder."""
    return sorted(path for pattern in patterns for path in model_dir.glob(pattern))


def has_run(model_dir: pathlib.Path) -> bool:
    """Whether a run has written weights or a state to resume from."""
    begun = ("run.json", "resume", "head")
    return any(path.name.endswith(".weights.h5") or path.name in begun for path in products(model_dir))


def require_untrained(model_dir: pathlib.Path) -> None:
    """Raise ValueError if a run has begun in the folder."""
    if has_run(model_dir):
        raise ValueError(
            f"{model_dir} already holds a run. Add --resume to continue it, "
            "or --restart to move it aside and begin again."
        )


def move_aside(model_dir: pathlib.Path, patterns: tuple[str, ...] = PRODUCTS) -> pathlib.Path | None:
    """Move all files of a run, or those that match the patterns, to model_dir/old/NNN; None if there are none."""
    found = products(model_dir, patterns)
    if not found:
        return None
    numbers = [
        int(path.name) for path in (model_dir / "old").glob("*") if path.name.isdecimal()
    ]  # other folders there are the user's own
    target = model_dir / "old" / f"{max(numbers, default=0) + 1:03d}"
    target.mkdir(parents=True)
    for path in found:
        path.rename(target / path.name)
    return target


def dataset_of(model_dir: pathlib.Path) -> dict:
    """The dataset.json that an experiment was trained on; it sets the input size and the order of the outputs."""
    path = model_dir / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(f"{model_dir} has not been trained. Run: python train.py --model_dir {model_dir}")
    info = storage.read_json(path)
    require_same_findings(info["findings"], str(path))
    return info


def save_weights(model, model_dir: pathlib.Path, *checkpoints: str) -> None:
    """Write a model's weights as "best", "last" or both; a reader sees the old file or the new one."""
    # Keras requires this suffix.
    first, *others = [model_dir / f"{checkpoint}.partial.weights.h5" for checkpoint in checkpoints]
    model.save_weights(first)
    for other in others:
        shutil.copyfile(first, other)
    for partial, checkpoint in zip((first, *others), checkpoints, strict=True):
        partial.replace(weights_path(model_dir, checkpoint))


def load_weights(model, model_dir: pathlib.Path, checkpoint: str) -> None:
    """Load the "best" or "last" weights into a model built from the same params.json and dataset.json.

    Raises:
        FileNotFoundError: the experiment has no weights yet.
        ValueError: they belong to another architecture.
    """
    path = weights_path(model_dir, checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"no {path}. Run: python train.py --model_dir {model_dir}")
    try:
        read_weights(model, path)
    except (ValueError, UserWarning) as error:
        raise ValueError(
            f"{path} does not fit the model that {model_dir / 'params.json'} describes; it was changed after training. "
            f"Restore it, or train again: python train.py --model_dir {model_dir} --restart ({error})"
        ) from error
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}). Train again: --restart") from error


def read_weights(model, path: pathlib.Path) -> None:
    """Read a weights file into a model. A layer without weights in the file is an error; Keras only warns.

    Raises:
        ValueError, UserWarning: the weights belong to another architecture.
        OSError, KeyError: the file is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.load_weights(path)


def require_measured(result: dict, weights_sha256: str, path: pathlib.Path) -> None:
    """Raise ValueError if the metrics file at `path` was measured with weights that have another hash."""
    if result.get("weights_sha256", weights_sha256) != weights_sha256:
        raise ValueError(
            f"{path} was measured with other weights than the experiment has now: its operating points do not apply. "
            "Run evaluate.py --split val again, with the same --model_dir and --checkpoint"
        )


def save_state(model_dir: pathlib.Path, values: list[np.ndarray], progress: dict) -> None:
    """Write the state that a run resumes from, in one file that appears whole or not at all.

    Args:
        values: of every variable of the model and the optimizer.
        progress: {"fingerprint", "history"}: fingerprint of the training data, and the rows of the epochs so far.
    """
    folder = model_dir / "resume"
    folder.mkdir(exist_ok=True)
    named = {f"{index:05d}": value for index, value in enumerate(values)}
    with storage.whole_file(folder / "state.npz") as file:
        np.savez(file, progress=np.array(json.dumps(progress)), **named)


def load_state(model_dir: pathlib.Path, fingerprint: str) -> tuple[list[np.ndarray], list[dict]] | None:
    """Read what `save_state` wrote: (values, history); None if there is no state yet.

    Raises:
        ValueError: the file is damaged, or belongs to a run on other data.
    """
    path = model_dir / "resume" / "state.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as state:  # numpy does not load pickles by default
            values = [state[key] for key in sorted(set(state.files) - {"progress"})]
            progress = json.loads(str(state["progress"]))
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}). Begin again with --restart") from error
    if progress["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} was saved by a run on other images or features. Use the --data_dir that it began on, or begin "
            "again with --restart"
        )
    return values, progress["history"]


@functools.cache  # of the code that this process runs, whatever is edited meanwhile
def git_sha() -> str | None:
    """Commit of this code, with "+" if files differ from it; None outside a git checkout."""
    try:
        run = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that affect the results."""
    return {name: metadata.version(name) for name in LIBRARIES}
