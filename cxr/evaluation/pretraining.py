"""What the pretrained networks of an experiment have seen, and its marks in results."""

import pathlib

from cxr import experiment, identity, seen, specs
from cxr.params import Params, load_params


def networks_seen(params: Params) -> dict[str, list[str] | None]:
    """Image sets that each extractor of an experiment has seen, by its name; None where that is not stated.

    An extractor of source "experiment" inherits those of its own extractors and adds what it was trained on. The
    extractors of the members of an average are called <member>/<name>.
    """
    found = {name: _seen_by(spec) for name, spec in specs.extractor_names(params.extractors).items()}
    for member in map(pathlib.Path, params.members):
        found |= {f"{member.name}/{name}": sets for name, sets in networks_seen(load_params(member)).items()}
    return found


def _seen_by(spec: dict) -> list[str] | None:
    return seen_in(pathlib.Path(spec["model_dir"])) if spec["source"] == "experiment" else seen.seen_by(spec)


def seen_in(model_dir: pathlib.Path) -> list[str]:
    """Image sets that the weights of a trained experiment have seen; with "not_stated" where a network hides its own.

    Its own training images are named by their split only: `provenance.find_leak` compares their patients one by one.
    """
    own = experiment.dataset_of(model_dir)["split"]["name"]
    sets = {f"train_of_{own}_split"}
    for found in networks_seen(load_params(model_dir)).values():
        sets |= {"not_stated"} if found is None else {*found}
    start = identity.read(model_dir)["restore_from"]
    return sorted(sets | {*(seen_in(pathlib.Path(start["model_dir"])) if start else ())})


def of_result(params: Params, split: str, split_name: str) -> dict:
    """The part "seen" of a metrics file.

    Returns:
        {"networks": as `networks_seen` returns, "scored": {network: those of its sets that may hold scored images}}.
    """
    networks = networks_seen(params)
    marked = {name: seen.scored(sets or [], split, split_name) for name, sets in networks.items()}
    return {"networks": networks, "scored": {name: sets for name, sets in marked.items() if sets}}


def seen_notes(found: dict | None, what: str) -> list[str]:
    """Lines under a table: what the networks have seen, and a warning where that may include scored images.

    Args:
        found: what `of_result` returned; None in files of an earlier version.
        what: the numbers that may be too good.
    """
    if not found or not found["networks"]:
        return []
    listed = "; ".join(f"{name}: {seen.words(sets)}" for name, sets in found["networks"].items())
    lines = [f"image sets that the pretrained networks have seen: {listed}"]
    for name, sets in found["scored"].items():
        labels = " without labels" if all(one.endswith("_unlabeled") for one in sets) else ""
        lines.append(f"SEEN: {name} was pretrained on {' and '.join(sets)}{labels}; the {what} may be too good")
    return lines
