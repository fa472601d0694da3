"""The scores of many experiments as one table: Markdown for people, CSV for programs."""

import csv
import io
import json

from cxr.evaluation import synthesis
from cxr.evaluation.tables import aligned_markdown

MARK = "†"  # of a score that is not comparable with the others of its column


def to_markdown(rows: list[synthesis.Row], split: str) -> str:
    """The table for people, in the order of the rows; scores that are not comparable are marked."""
    marked = {name: synthesis.not_comparable(rows, name) for name in synthesis.SPLITS}
    params = synthesis.differing_params(rows, split)
    heads = [f"{name} mean AUROC" for name in synthesis.SPLITS]
    any_seen = any(row.score_of(split).networks_seen for row in rows)
    seen_head = ["networks have seen"] if any_seen else []
    lines = [("experiment", *heads, "findings", "minutes", "split", "dataset", *seen_head, *params)]
    for place, row in enumerate(rows):
        score = row.score_of(split)
        lines.append((
            row.name,
            *(_with_interval(row.scores.get(name), row.name in marked[name]) for name in synthesis.SPLITS),
            _text(score.findings),
            "" if row.minutes is None else f"{row.minutes:.1f}",
            _text(score.split_name),
            _text(score.fingerprint)[:12],
            *([_seen(score)] if any_seen else []),
            *(_short(cells[place]) for cells in params.values()),
        ))  # fmt: skip
    return aligned_markdown(lines)


def to_csv(rows: list[synthesis.Row], split: str) -> str:
    """The table for programs: every number in full, parameters as JSON, and why a score is not comparable."""
    params = synthesis.differing_params(rows, split)
    differs_in = {name: synthesis.not_comparable(rows, name) for name in synthesis.SPLITS}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [f"{name}_{part}" for name in synthesis.SPLITS for part in ("mean_auroc", "low", "high", "differs_in")]
    writer.writerow(
        ["experiment", *heads, "images", "findings", "minutes", "split_name", "dataset_fingerprint", "seen", *params]
    )
    for place, row in enumerate(rows):
        cells = [row.name]
        for name in synthesis.SPLITS:
            score = row.scores.get(name)
            cells += [score.value, score.low, score.high] if score else [None] * 3
            cells.append(" ".join(differs_in[name].get(row.name, [])))
        score = row.score_of(split)
        minutes = None if row.minutes is None else round(row.minutes, 2)
        cells += [score.images, score.findings, minutes, score.split_name, score.fingerprint, _seen(score)]
        writer.writerow(cells + [column[place] for column in params.values()])
    return file.getvalue()


def _seen(score: synthesis.SplitScore) -> str:
    """The image sets that the pretrained networks of an experiment have seen; empty without such networks."""
    stated = [["not stated"] if sets is None else sets for sets in score.networks_seen.values()]
    sets = [name for one in stated for name in one]
    return ", ".join(dict.fromkeys(sets)) or ("nothing" if score.networks_seen else "")


def _with_interval(score: synthesis.SplitScore | None, is_marked: bool) -> str:
    if score is None:
        return ""
    mark = f" {MARK}" if is_marked else ""
    if score.value is None:
        return f"undefined{mark}"
    interval = "" if score.low is None or score.high is None else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.value:.3f}{interval}{mark}"


def _short(text: str) -> str:
    """A parameter's JSON for people: strings without quotes, an extractor by its values alone, members by folder."""
    value = json.loads(text) if text else ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return " + ".join(" ".join(map(str, item.values())) for item in value)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return " + ".join(value)
    return text


def _text(value: object) -> str:
    return "" if value is None else str(value)
