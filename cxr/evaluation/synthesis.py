"""Metrics files of many experiments, of any version: their scores, which are comparable, and how params differ."""

import collections
import csv
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable

from cxr import experiment, storage

SPLITS = ("val", "test")  # columns of the table
MOVED_ASIDE = "old"  # folder of runs that --restart moved


@dataclasses.dataclass(frozen=True)
class SplitScore:
    """The mean AUROC in a metrics file, and what it was measured on; None where the file does not say."""

    value: float | None  # mean AUROC
    low: float | None
    high: float | None
    findings: int | None  # number of findings in the mean
    images: int | None
    split_name: str | None
    fingerprint: str | None
    leaks: bool  # whether the weights have seen patients that are scored
    networks_seen: dict  # image sets by pretrained network, see `pretraining.networks_seen`
    has_seen: bool  # whether they may include images that are scored
    params: dict

    @property
    def scored_on(self) -> dict:
        """Two values are comparable where these are equal."""
        return {
            "fingerprint": self.fingerprint,
            "split": self.split_name,
            "images": self.images,
            "findings": self.findings,
            "leak": self.leaks,
            "seen": self.has_seen,
        }


@dataclasses.dataclass(frozen=True)
class Row:
    """An experiment and its scores by split."""

    name: str  # its folder, relative to the folder of the table
    scores: dict[str, SplitScore]
    minutes: float | None  # of training

    def score_of(self, split: str) -> SplitScore:
        """The score of a split; without it that of the other split."""
        return self.scores.get(split) or next(iter(self.scores.values()))


def collect(parent_dir: pathlib.Path, checkpoint: str, warn: Callable[[str], None]) -> list[Row]:
    """Every experiment below a folder that has metrics of val or test for a checkpoint; runs in old/ are left out.

    Args:
        warn: called with a message for each unreadable file, which is left out.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    if not parent_dir.is_dir():
        raise FileNotFoundError(f"no folder {parent_dir}; expected one that holds experiments")
    paths = [path for split in SPLITS for path in parent_dir.rglob(f"metrics_{split}_{checkpoint}.json")]
    folders = sorted({path.parent for path in paths if MOVED_ASIDE not in path.relative_to(parent_dir).parts})
    rows = []
    for folder in folders:
        scores = {}
        for split in SPLITS:
            path = experiment.metrics_path(folder, split, checkpoint)
            if path in paths:
                try:
                    scores[split] = read_split_score(path)
                except (OSError, ValueError) as error:
                    warn(f"left out: {error}")
        if scores:
            name = folder.relative_to(parent_dir).as_posix() if folder != parent_dir else folder.resolve().name
            rows.append(Row(name, scores, read_minutes(folder, warn)))
    return rows


def read_split_score(path: pathlib.Path) -> SplitScore:
    """Read a metrics file, also of an earlier version with fewer fields; ValueError if it is not a metrics file."""
    result = storage.read_json(path)
    mean = result.get("mean_auroc")
    if not isinstance(mean, dict) or "value" not in mean:
        raise ValueError(f"{path} is not a metrics file: it has no mean_auroc with a value")
    for key in ("value", "low", "high"):
        number = mean.get(key)
        if number is not None and not (type(number) in (int, float) and 0 <= number <= 1):  # rejects nan too
            raise ValueError(
                f"{path} is not a metrics file: {key} of mean_auroc is {number!r}, expected 0 to 1 or null"
            )
    leak = result.get("leak")
    networks = result.get("seen")
    networks = networks if isinstance(networks, dict) else {}
    params = result.get("params")
    params = params if isinstance(params, dict) else {}
    if "tta" in result:  # not a parameter of training, but scores with and without it differ
        params = {**params, "evaluate --tta": result["tta"]}
    return SplitScore(
        value=mean["value"],
        low=mean.get("low"),
        high=mean.get("high"),
        findings=mean.get("findings"),
        images=result.get("images"),
        split_name=result.get("split_name"),
        fingerprint=result.get("dataset_fingerprint"),
        leaks=isinstance(leak, dict) and bool(leak.get("patients")),
        networks_seen=networks.get("networks", {}),
        has_seen=bool(networks.get("scored")),
        params=params,
    )


def read_minutes(folder: pathlib.Path, warn: Callable[[str], None]) -> float | None:
    """Minutes of training from history.csv, with those of the head before fine-tuning; None without a history."""
    paths = [path for path in (folder / "history.csv", folder / "head" / "history.csv") if path.is_file()]
    seconds = 0.0
    for path in paths:
        try:
            with path.open(newline="") as file:
                seconds += sum(float(row["seconds"]) for row in csv.DictReader(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn(f"no minutes: not every row of {path} has a number of seconds ({error!r})")
            return None
    return seconds / 60 if paths else None


def best_first(rows: list[Row], split: str) -> list[Row]:
    """Rows by descending score on a split; rows without that split follow, by their score on the other."""

    def value(row: Row, split: str) -> float:
        score = row.scores.get(split)
        return -math.inf if score is None or score.value is None else score.value

    other_split = next(name for name in SPLITS if name != split)
    return sorted(rows, key=lambda row: (-value(row, split), -value(row, other_split), row.name))


def not_comparable(rows: list[Row], split: str) -> dict[str, list[str]]:
    """Rows whose score on a split is not comparable with most of the others, each with what differs.

    The reference is the most frequent combination of dataset, split, images and findings among rows whose weights have
    seen none of the images; of equally frequent ones the first.
    """
    scored = {row.name: row.scores[split].scored_on for row in rows if split in row.scores}
    if not scored:
        return {}
    clean = {"leak": False, "seen": False}
    counts = collections.Counter(json.dumps(on) for on in scored.values() if on.items() >= clean.items())
    reference = json.loads(counts.most_common(1)[0][0]) if counts else {**next(iter(scored.values())), **clean}
    differing = {name: [key for key in reference if on[key] != reference[key]] for name, on in scored.items()}
    return {name: keys for name, keys in differing.items() if keys}


def flatten(params: dict, prefix: str = "") -> dict:
    """Nested parameters under dotted names: {"fine_tune.epochs": 5}."""
    flat = {}
    for name, value in params.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


def differing_params(rows: list[Row], split: str) -> dict[str, list[str]]:
    """The parameters that differ between rows: {name: values as JSON in the order of the rows, "" where unknown}.

    Files of an earlier version may lack a parameter; it differs only if the other rows differ.
    """
    flat = [flatten(row.score_of(split).params) for row in rows]
    names = list(dict.fromkeys(name for params in flat for name in params))
    columns = {name: [_parameter(params, name) for params in flat] for name in names}
    return {name: cells for name, cells in columns.items() if len({*cells} - {""}) > 1}


def _parameter(params: dict, name: str) -> str:
    """One parameter as JSON; null also where an object that holds it is null; "" where unknown."""
    if name in params:
        return json.dumps(params[name])
    while "." in name:
        name = name.rpartition(".")[0]
        if params.get(name, "") is None:
            return "null"
    return ""
