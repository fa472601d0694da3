"""Metrics files of many experiments, of whatever version, as the rows of one table."""

import collections
import csv
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable

from cxr import experiment, storage

SPLITS = ("val", "test")  # both are shown wherever there is a file
ASIDE = "old"  # runs that --restart moved away


@dataclasses.dataclass(frozen=True)
class Score:
    """What one metrics file says; None where it does not."""

    value: float | None  # mean AUROC
    low: float | None
    high: float | None
    findings: int | None  # over how many the mean is
    images: int | None
    split_name: str | None
    fingerprint: str | None
    leaks: bool  # whether the weights have seen patients that are scored
    params: dict

    @property
    def scored_on(self) -> dict:
        """What must be equal for two values to compare."""
        return {
            "fingerprint": self.fingerprint,
            "split": self.split_name,
            "images": self.images,
            "findings": self.findings,
            "leak": self.leaks,
        }


@dataclasses.dataclass(frozen=True)
class Row:
    """An experiment and its scores by split."""

    name: str  # folder, relative to that of the table
    scores: dict[str, Score]
    minutes: float | None  # of training


def collect(parent_dir: pathlib.Path, checkpoint: str, warn: Callable[[str], None]) -> list[Row]:
    """Every experiment below a folder that has metrics of val or test for a checkpoint; runs in old/ are left out.

    Args:
        warn: is told of each file that cannot be read, which is left out.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not parent_dir.is_dir():
        raise FileNotFoundError(f"no folder {parent_dir}; expected one that holds experiments")
    paths = [path for split in SPLITS for path in parent_dir.rglob(f"metrics_{split}_{checkpoint}.json")]
    folders = sorted({path.parent for path in paths if ASIDE not in path.relative_to(parent_dir).parts})
    rows = []
    for folder in folders:
        scores = {}
        for split in SPLITS:
            path = experiment.metrics_path(folder, split, checkpoint)
            if path in paths:
                try:
                    scores[split] = read_score(path)
                except (OSError, ValueError) as error:
                    warn(f"left out: {error}")
        if scores:
            name = folder.relative_to(parent_dir).as_posix() if folder != parent_dir else folder.resolve().name
            rows.append(Row(name, scores, read_minutes(folder, warn)))
    return rows


def read_score(path: pathlib.Path) -> Score:
    """Read a metrics file, of a version that may lack fields; ValueError names one that is none."""
    found = storage.read_json(path)
    mean = found.get("mean_auroc")
    if not isinstance(mean, dict) or "value" not in mean:
        raise ValueError(f"{path} is no metrics file: it has no mean_auroc with a value")
    for key in ("value", "low", "high"):
        number = mean.get(key)
        if number is not None and not (type(number) in (int, float) and 0 <= number <= 1):  # nan is not either
            raise ValueError(f"{path} is no metrics file: {key} of mean_auroc is {number!r}, expected 0 to 1 or null")
    params, leak = found.get("params"), found.get("leak")
    params = params if isinstance(params, dict) else {}
    if "tta" in found:  # test-time augmentation: no parameter of training, but one of the score
        params = {**params, "evaluate --tta": found["tta"]}
    return Score(
        value=mean["value"],
        low=mean.get("low"),
        high=mean.get("high"),
        findings=mean.get("findings"),
        images=found.get("images"),
        split_name=found.get("split_name"),
        fingerprint=found.get("dataset_fingerprint"),
        leaks=isinstance(leak, dict) and bool(leak.get("patients")),
        params=params,
    )


def read_minutes(folder: pathlib.Path, warn: Callable[[str], None]) -> float | None:
    """Minutes of training by history.csv, those of the head before fine-tuning included; None without a history."""
    paths = [path for path in (folder / "history.csv", folder / "head" / "history.csv") if path.is_file()]
    seconds = 0.0
    for path in paths:
        try:
            with path.open(newline="") as file:
                seconds += sum(float(row["seconds"]) for row in csv.DictReader(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn(f"no minutes: {path} has not a number of seconds in every row ({error!r})")
            return None
    return seconds / 60 if paths else None


def by_score(rows: list[Row], split: str) -> list[Row]:
    """The rows, the best on a split first; after those without that split's, the best on the other."""

    def value(row: Row, split: str) -> float:
        score = row.scores.get(split)
        return -math.inf if score is None or score.value is None else score.value

    other = next(name for name in SPLITS if name != split)
    return sorted(rows, key=lambda row: (-value(row, split), -value(row, other), row.name))


def shown_score(row: Row, split: str) -> Score:
    """The score of a split, or of the other where there is none."""
    return row.scores.get(split) or next(iter(row.scores.values()))


def strangers(rows: list[Row], split: str) -> dict[str, list[str]]:
    """Rows whose score on a split does not compare with that of most rows, each with what differs.

    The rule is the set of images, split and number of findings that most rows share; of equally many, the first.
    """
    scored = {row.name: row.scores[split].scored_on for row in rows if split in row.scores}
    clean = [on for on in scored.values() if not on["leak"]]
    counts = collections.Counter(json.dumps(on) for on in clean)
    if not scored:
        return {}
    rule = json.loads(counts.most_common(1)[0][0]) if counts else {**next(iter(scored.values())), "leak": False}
    differing = {name: [key for key in rule if on[key] != rule[key]] for name, on in scored.items()}
    return {name: keys for name, keys in differing.items() if keys}


def flatten(params: dict, prefix: str = "") -> dict:
    """Nested parameters by one name each, with dots: {"fine_tune.epochs": 5}."""
    flat = {}
    for name, value in params.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


def differing_params(rows: list[Row], split: str) -> dict[str, list[str]]:
    """By name, those parameters that are not the same in all rows, as JSON in order of the rows; "" where unknown.

    A parameter that some files lack, as their version did not have it, differs only if the others differ.
    """
    flat = [flatten(shown_score(row, split).params) for row in rows]
    names = list(dict.fromkeys(name for params in flat for name in params))
    columns = {name: [_parameter(params, name) for params in flat] for name in names}
    return {name: cells for name, cells in columns.items() if len({*cells} - {""}) > 1}


def _parameter(params: dict, name: str) -> str:
    """One parameter as JSON; null also inside an object that is null; "" where there is none of the name."""
    if name in params:
        return json.dumps(params[name])
    while "." in name:
        name = name.rpartition(".")[0]
        if params.get(name, "") is None:
            return "null"
    return ""
