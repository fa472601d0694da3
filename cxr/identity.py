"""run.json: the identity of a run, and the checks against it.

It is written before the first step and never changed by a resume. Every later use of the weights compares parameters,
frozen networks and dataset with it; if they differ, the weights belong to another model.
"""

import hashlib
import pathlib
from collections.abc import Iterator, Sequence

from cxr import experiment, storage
from cxr.params import Params, as_json, load_params, parse_params
from cxr.specs import LOCATIONS, without

FILE = "run.json"
SHOWN = 12  # digits of a hash in a message


def path_of(model_dir: pathlib.Path) -> pathlib.Path:
    """Path of run.json in an experiment."""
    return model_dir / FILE


def describe(
    params: Params,
    *,
    networks: dict[str, str],
    fingerprint: str,
    runtime: str,
    device: str,
    restore_from: dict | None = None,
    leak: dict | None = None,
) -> dict:
    """The content of run.json.

    Args:
        networks: SHA-256 of the weights of every extractor, by its name.
        fingerprint: fingerprint of the dataset of images.
        runtime: runtime of the extractors, see cxr/networks/runtime.py.
        device: description of the devices that it was trained on.
        restore_from: {"model_dir", "weights_sha256"} of the weights that it began with; None for initial weights.
        leak: patients of val that its networks were trained on, see `provenance.training_leak`.
    """
    return {
        "params": as_json(params),
        "networks": networks,
        "dataset_fingerprint": fingerprint,
        "restore_from": restore_from,
        "precision": params.precision,
        "runtime": runtime,
        "device": device,
        "leak": leak,
        "git_sha": experiment.git_sha(),
        "library_versions": experiment.library_versions(),
    }


def read(model_dir: pathlib.Path) -> dict:
    """Read run.json.

    Raises:
        FileNotFoundError: the experiment has not been trained.
        ValueError: it was trained by a version that wrote no run.json, or the file is damaged.
    """
    path = path_of(model_dir)
    if not path.is_file():
        if not experiment.has_run(model_dir):
            raise FileNotFoundError(f"{model_dir} has not been trained. Run: python train.py --model_dir {model_dir}")
        raise ValueError(
            f"{model_dir} was trained by a version that wrote no {FILE}, so the networks, parameters and data of its "
            f"weights are unknown. Train it again: python train.py --model_dir {model_dir} --restart"
        )
    return storage.read_json(path)


def begun(model_dir: pathlib.Path) -> dict | None:
    """run.json of a run that has begun, else None. Raises ValueError like `read`."""
    return read(model_dir) if experiment.has_run(model_dir) else None


def trained_params(model_dir: pathlib.Path) -> Params:
    """The parameters of a trained experiment, checked against its run.json.

    Raises:
        FileNotFoundError: it has not been trained.
        ValueError: params.json, dataset.json or members differ from those of the run; the text names the difference.
    """
    run = read(model_dir)
    params = load_params(model_dir)
    require_params(model_dir, params)
    if experiment.dataset_of(model_dir)["fingerprint"] != run["dataset_fingerprint"]:
        raise ValueError(
            f"{model_dir / 'dataset.json'} describes another dataset than the one its weights were trained on "
            f"({run['dataset_fingerprint'][:SHOWN]}). Restore it, or train again with --restart"
        )
    if params.members:
        require_members(model_dir, describe_members(model_dir, params))
    return params


def require_params(model_dir: pathlib.Path, params: Params) -> None:
    """Raise ValueError unless these are the parameters of the run; its networks may have moved to other paths."""
    run = read(model_dir)
    before = as_json(parse_params(run["params"], where=str(path_of(model_dir))))
    changed = list(differences(_without_locations(before), _without_locations(as_json(params))))
    if changed:
        raise ValueError(
            f"{model_dir / 'params.json'} was changed since the run began: {'; '.join(changed)}. Undo that, copy the "
            "folder to try another value, or begin again with --restart"
        )
    if run["runtime"] == "onednn" and params.extractors and not params.fine_tune:
        raise ValueError(
            f"the features of {model_dir} were computed by oneDNN, which OpenVINO has replaced and whose numbers "
            f"differ. Train it again: python train.py --model_dir {model_dir} --restart"
        )


def require_networks(model_dir: pathlib.Path, networks: dict[str, str]) -> None:
    """Raise ValueError unless the frozen networks, SHA-256 by name, are those of the run."""
    changed = list(differences(read(model_dir)["networks"], networks))
    if changed:
        raise ValueError(
            f"the frozen networks of {model_dir} are not those it was trained on: SHA-256 of {'; '.join(changed)}. "
            "Restore the old weights, or train again with --restart"
        )


def require_dataset(model_dir: pathlib.Path, fingerprint: str) -> None:
    """Raise ValueError unless the run began on the dataset with this fingerprint."""
    before = read(model_dir)["dataset_fingerprint"]
    if before != fingerprint:
        raise ValueError(
            f"--data_dir is not the dataset the run began on (fingerprint {before[:SHOWN]}, now "
            f"{fingerprint[:SHOWN]}). Use that one, or begin again with --restart"
        )


def differences(before: object, now: object, name: str = "") -> Iterator[str]:
    """Every leaf that differs between two JSON values, as "path.to.leaf OLD, now NEW"."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before = dict(enumerate(before))
        now = dict(enumerate(now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else f"{key}")
    elif before != now:
        yield f"{name} {_short(before)}, now {_short(now)}"


def _short(value: object) -> str:
    is_hash = isinstance(value, str) and len(value) == 64
    return value[:SHOWN] if is_hash else str(value)


def _without_locations(params: dict) -> dict:
    # "seen" is what somebody states of a network; it may be corrected later.
    extractors = [without(spec, (*LOCATIONS, "seen")) for spec in params["extractors"]]
    return params | {"extractors": extractors, "members": len(params["members"])}


def weights_of(model_dir: pathlib.Path) -> dict:
    """The best weights of an experiment, as "restore_from" in the run.json of a run that begins with them."""
    path = experiment.weights_path(model_dir, "best")
    if load_params(model_dir).members:
        raise ValueError(f"{model_dir} is an average and has no weights of its own; use one of its members")
    if not path.is_file():
        raise FileNotFoundError(f"no {path}. Run: python train.py --model_dir {model_dir}")
    return {"model_dir": str(model_dir), "weights_sha256": storage.sha256_of(path)}


def require_weights(restore_from: dict) -> pathlib.Path:
    """The folder of the weights that a run began with; ValueError if they have changed."""
    folder = pathlib.Path(restore_from["model_dir"])
    now = weights_of(folder)["weights_sha256"]
    if now != restore_from["weights_sha256"]:
        raise ValueError(
            f"the run began with the best weights of {folder}, which have changed since: SHA-256 "
            f"{_short(restore_from['weights_sha256'])}, now {_short(now)}. Restore the old ones, or begin again "
            "with --restart"
        )
    return folder


def weights_sha256(model_dir: pathlib.Path, checkpoint: str) -> str:
    """SHA-256 of the "best" or "last" weights of a trained experiment; of an average, of its members' hashes."""
    members = read(model_dir).get("members", [])
    if not members:
        return storage.sha256_of(experiment.weights_path(model_dir, checkpoint))
    return hashlib.sha256(" ".join(member["weights_sha256"] for member in members).encode()).hexdigest()


def members_of(model_dir: pathlib.Path, checkpoint: str) -> list[pathlib.Path]:
    """Folders of the members of a trained average, checked like `trained_params`; [] for other experiments.

    Raises:
        ValueError: the checkpoint is "last"; an average uses the best weights of its members.
    """
    members = trained_params(model_dir).members
    if members and checkpoint != "best":
        raise ValueError(
            f"{model_dir} averages the best weights of its members and has no {checkpoint} weights; leave out "
            f"--checkpoint {checkpoint}"
        )
    return [pathlib.Path(member) for member in members]


def describe_members(model_dir: pathlib.Path, params: Params) -> list[dict]:
    """The identity of each member of an average, in the order of params.members.

    Raises:
        FileNotFoundError: a member does not exist or has not been trained.
        ValueError: a member is an average itself, or differs from its own run.json.
    """
    return [_describe_member(pathlib.Path(member), model_dir) for member in params.members]


def _describe_member(folder: pathlib.Path, model_dir: pathlib.Path) -> dict:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}, a member of {model_dir}. If it was moved, change its path in "
            f"{model_dir / 'params.json'}: the SHA-256 of its weights shows that it is the same"
        )
    if load_params(folder).members:
        raise ValueError(f"{folder}, a member of {model_dir}, is an average itself; list its members instead")
    trained_params(folder)
    run = read(folder)
    kept = ("params", "networks", "dataset_fingerprint", "precision", "runtime")
    return {**weights_of(folder), **{key: run[key] for key in kept}, "prepared": run.get("prepared", {})}


def require_members(model_dir: pathlib.Path, members: Sequence[dict]) -> None:
    """Raise ValueError unless these are the members that the average was made of; their folders may have moved."""
    changed = []
    for before, now in zip(read(model_dir).get("members", []), members, strict=True):
        found = "; ".join(differences(before | {"model_dir": None}, now | {"model_dir": None}))
        changed += [f"{now['model_dir']}: {found}"] if found else []
    if changed:
        raise ValueError(
            f"the members of {model_dir} are not those that it was made of: {', and '.join(changed)}. Restore them, or "
            "make the average again with --restart"
        )


def of_average(members: Sequence[dict]) -> dict:
    """What run.json of an average has beside or instead of the content that `describe` returns."""
    joined = {key: " and ".join(dict.fromkeys(member[key] for member in members)) for key in ("precision", "runtime")}
    return {"members": members, **joined}
