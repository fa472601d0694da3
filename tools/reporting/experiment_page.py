"""The page of an experiment: the contents of its template."""

import dataclasses
import json
import pathlib
import re
import shlex

import numpy as np

from cxr import experiment
from cxr.evaluation import literature, shortcuts, tables
from cxr.findings import FINDINGS
from cxr.params import Params
from tools.reporting import finding_figures, page, pictures, result_figures
from tools.reporting.evaluated import Evaluated, hardest
from tools.reporting.experts_part import experts_part
from tools.reporting.group_figures import group_rows, groups
from tools.reporting.localization_part import localization_part

LOG_LINES = 400  # of train.log at most; enough for some hundred epochs
SHORT_NAMES = {"youden": "Youden", "sensitivity_90": "sensitivity 0.9 on val", "best_f1": "best F1"}


def experiment_page(evaluated: Evaluated, command: str) -> str:
    """The report of one split of one experiment, as HTML.

    Args:
        command: the command that writes this page.
    """
    result = evaluated.result
    rows = literature.rows_of_split(result["split_name"])
    return page.render(
        "experiment.html",
        name=evaluated.model_dir.resolve().name,
        result=result,
        run=evaluated.run,
        external=evaluated.folder != evaluated.model_dir,
        notes=page.noted(notes(result)),
        comparison_notes=page.noted(tables.comparison_notes(result["comparison"]) if "comparison" in result else []),
        compared_within=compared_within(result),
        published=rows[0] if rows else None,
        published_mean=literature.mean_over_defined(rows[0], result) if rows else None,
        also_published=[(row, literature.mean_over_defined(row, result)) for row in rows[1:]],
        aurocs=result_figures.aurocs(result, rows[0] if rows else None) if result["images"] else None,
        training=result_figures.training(evaluated.history) if evaluated.history else None,
        groups_drawn=groups(result) if result["images"] else None,
        group_rows=group_rows(result),
        shortcuts=shortcut_notes(result),
        later_shortcuts=later_shortcuts(evaluated),
        experts=experts_part(evaluated),
        localization=localization_part(evaluated),
        findings=[finding_part(evaluated, name) for name in FINDINGS],
        with_images=has_images(evaluated),
        pictures=hardest_pictures(evaluated),
        commands=commands(evaluated, command),
        params=params_rows(result["params"]),
        log="\n".join((evaluated.log or "").splitlines()[:LOG_LINES]),
    )


def notes(result: dict) -> list[str]:
    """Provenance and warnings, as evaluate.py prints them under its table."""
    return tables.results_notes(result, literature.rows_of_split(result["split_name"]))


def shortcut_notes(result: dict) -> list[str]:
    """The lines that name findings whose pooled AUROC exceeds that within groups."""
    return [note for note in shortcuts.group_notes(result) if note.startswith("SHORTCUT")]


def later_shortcuts(evaluated: Evaluated) -> list[str]:
    """The same of the weights of the last epoch on val, if those are other weights.

    The best epoch is the best within groups, so it is often earlier than a shortcut is learned.
    """
    last = evaluated.last
    if last is None or "within" not in last or last["weights_sha256"] == evaluated.result["weights_sha256"]:
        return []
    return shortcut_notes(last)


def compared_within(result: dict) -> dict | None:
    """The comparison within the groups that the table shows, and the name of their grouping."""
    other = result.get("comparison")
    grouping = other and shortcuts.grouping_shown(other)
    return {"words": shortcuts.words(grouping), **other["within"][grouping]} if other else None


def finding_part(evaluated: Evaluated, name: str) -> dict:
    """The section of one finding."""
    predictions = evaluated.predictions
    column = FINDINGS.index(name)
    values = evaluated.result["findings"][name]
    labels = predictions.labels[:, column]
    scores = predictions.probabilities[:, column]
    drawn = []
    if values["auroc"] is not None:
        drawn = finding_figures.finding_figures(name, values, labels, scores, predictions.patient_ids)
    wrong = {}
    for kind, rows in hardest(predictions, name, values["threshold"]).items():
        ids = predictions.image_ids[rows].tolist()
        truths = [", ".join(np.array(FINDINGS)[predictions.labels[row] == 1]) or "No Finding" for row in rows]
        wrong[kind] = [
            {"image_id": image_id, "probability": float(score), "labels": truth}
            for image_id, score, truth in zip(ids, scores[rows], truths, strict=True)
        ]
    return {"name": name, "scores": values, "drawn": drawn, "points": confusion(values, labels, scores), "wrong": wrong}


def confusion(values: dict, labels: np.ndarray, scores: np.ndarray) -> list[dict]:
    """Counts of right and wrong calls at each operating point that is defined."""
    rows = []
    for key, point in values["operating_points"].items():
        if point["threshold"] is not None:
            called = scores >= point["threshold"]
            counts = {
                "true_positives": int((called & (labels == 1)).sum()),
                "false_positives": int((called & (labels == 0)).sum()),
                "false_negatives": int((~called & (labels == 1)).sum()),
                "true_negatives": int((~called & (labels == 0)).sum()),
            }
            rows.append({"name": SHORT_NAMES[key], **point, **counts})
    return rows


def has_images(evaluated: Evaluated) -> bool:
    """Whether the dataset has images."""
    return evaluated.dataset is not None and evaluated.dataset.info["kind"] == "images"


def hardest_pictures(evaluated: Evaluated) -> dict[str, str]:
    """The images that the sections of the findings name, by id; none without images."""
    if not has_images(evaluated):
        return {}
    thresholds = {name: values["threshold"] for name, values in evaluated.result["findings"].items()}
    rows = [hardest(evaluated.predictions, name, threshold).values() for name, threshold in thresholds.items()]
    ids = {image_id for both in rows for some in both for image_id in evaluated.predictions.image_ids[some].tolist()}
    return pictures.pictures_of(evaluated.dataset, evaluated.result["split"], ids)


def commands(evaluated: Evaluated, command: str) -> list[str]:
    """The commands that made weights, metrics and this page; train.log has the --data_dir of training."""
    trained = re.search(r"^data (.+?)   split ", evaluated.log or "", re.MULTILINE)
    trained_on = trained[1] if trained else "RECORDS"
    evaluated_on = str(evaluated.dataset.folder) if evaluated.dataset else trained_on
    model_dir = shlex.quote(str(evaluated.model_dir))
    start = evaluated.run["restore_from"]
    restore_from = f" --restore_from {shlex.quote(start['model_dir'])}" if start else ""
    return [
        f"python train.py --model_dir {model_dir} --data_dir {shlex.quote(trained_on)}{restore_from}",
        f"python evaluate.py --model_dir {model_dir} --data_dir {shlex.quote(evaluated_on)} "
        f"--split {evaluated.result['split']}",
        command,
    ]


def params_rows(params: dict) -> list[tuple[str, str, str]]:
    """Name, value and default of every parameter; those that differ from the default first."""
    defaults = json.loads(json.dumps(dataclasses.asdict(Params())))  # tuples become lists, as in the file
    rows = [(name, json.dumps(value), json.dumps(defaults.get(name))) for name, value in params.items()]
    return sorted(rows, key=lambda row: row[1] == row[2])


def report_path(evaluated: Evaluated) -> pathlib.Path:
    """The path of the page, beside the metrics that it shows."""
    metrics = experiment.metrics_path(evaluated.folder, evaluated.result["split"], "best")
    return metrics.parent / f"report_{evaluated.result['split']}.html"
