"""The table of many experiments, as Markdown for people and as CSV for programs."""

import csv
import io
import json

from cxr.evaluation import synthesis
from cxr.evaluation.synthesis import SPLITS, Row, Score

MARK = "†"  # of a score that does not compare with the others of its column


def markdown(rows: list[Row], split: str) -> str:
    """The table for people: the best row first, scores that do not compare marked; ends in a line end."""
    marked, params = {name: synthesis.strangers(rows, name) for name in SPLITS}, synthesis.differing_params(rows, split)
    scored = [f"{name} mean AUROC" for name in SPLITS]
    lines = [("experiment", *scored, "findings", "minutes", "split", "dataset", *params)]
    for place, row in enumerate(rows):
        score = synthesis.shown_score(row, split)
        lines.append((
            row.name,
            *(_interval(row.scores.get(name), row.name in marked[name]) for name in SPLITS),
            _text(score.findings),
            "" if row.minutes is None else f"{row.minutes:.1f}",
            _text(score.split_name),
            _text(score.fingerprint)[:12],
            *(_short(cells[place]) for cells in params.values()),
        ))  # fmt: skip
    return aligned_markdown(lines)


def to_csv(rows: list[Row], split: str) -> str:
    """The table for programs: every number in full, parameters as JSON, and in what a score does not compare."""
    params, file = synthesis.differing_params(rows, split), io.StringIO()
    strangers = {name: synthesis.strangers(rows, name) for name in SPLITS}
    writer = csv.writer(file, lineterminator="\n")
    numbers = [f"{name}_{part}" for name in SPLITS for part in ("mean_auroc", "low", "high", "differs_in")]
    writer.writerow(
        ["experiment", *numbers, "images", "findings", "minutes", "split_name", "dataset_fingerprint", *params]
    )
    for place, row in enumerate(rows):
        cells = [row.name]
        for name in SPLITS:
            score = row.scores.get(name)
            cells += [score.value, score.low, score.high] if score else [None] * 3
            cells.append(" ".join(strangers[name].get(row.name, [])))
        score, minutes = synthesis.shown_score(row, split), None if row.minutes is None else round(row.minutes, 2)
        cells += [score.images, score.findings, minutes, score.split_name, score.fingerprint]
        writer.writerow(cells + [column[place] for column in params.values()])
    return file.getvalue()


def aligned_markdown(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table whose columns stand under one another also as plain text; the first row is the head."""
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*safe, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in safe]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _interval(score: Score | None, is_marked: bool) -> str:
    if score is None:
        return ""
    mark = f" {MARK}" if is_marked else ""
    if score.value is None:
        return f"undefined{mark}"
    interval = "" if score.low is None or score.high is None else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.value:.3f}{interval}{mark}"


def _short(text: str) -> str:
    """A parameter's JSON as people say it: words without quotes, an extractor by its values alone."""
    value = json.loads(text) if text else ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return " + ".join(" ".join(map(str, item.values())) for item in value)
    return text


def _text(value: object) -> str:
    return "" if value is None else str(value)
