"""What the report of an experiment counts and picks out, by hand."""

import numpy as np

from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS
from tools.reporting.evaluated import hardest
from tools.reporting.experiment_page import confusion
from tools.reporting.localization_part import better_than_controls

MASS = FINDINGS.index("Mass")


def predictions(labels: list[int], scores: list[float]) -> Predictions:
    """Predictions of Mass; labels and probabilities of the other findings are 0."""
    number = len(labels)
    truth, probabilities = np.zeros((number, 14), int), np.zeros((number, 14))
    truth[:, MASS], probabilities[:, MASS] = labels, scores
    rows, unknown = np.arange(number), np.full(number, "")
    return Predictions(rows.astype(str), rows, truth, probabilities, np.full(number, np.nan), *[unknown] * 3)


def test_the_hardest_images_are_furthest_on_the_wrong_side():
    some = predictions([0, 1, 0, 1, 0, 1, 0, 0, 0], [0.9, 0.1, 0.5, 0.3, 0.2, 0.8, 0.7, 0.6, 0.55])
    wrong = {kind: rows.tolist() for kind, rows in hardest(some, "Mass", 0.5).items()}
    assert wrong == {"false positives": [0, 6, 7, 8], "false negatives": [1, 3]}  # of five, the four worst
    assert [len(rows) for rows in hardest(some, "Mass", None).values()] == [0, 0]


def test_calls_are_counted_at_each_defined_threshold():
    points = {"youden": {"threshold": 0.5}, "sensitivity_90": {"threshold": 0.1}, "best_f1": {"threshold": None}}
    labels, scores = np.array([1, 1, 0, 0, 0]), np.array([0.5, 0.2, 0.6, 0.1, 0.05])
    rows = confusion({"operating_points": points}, labels, scores)
    kinds = ("true_positives", "false_positives", "false_negatives", "true_negatives")
    assert [(row["name"], *(row[kind] for kind in kinds)) for row in rows] == [
        ("Youden", 1, 1, 1, 2),
        ("sensitivity 0.9 on val", 2, 2, 0, 1),
    ]


def test_a_finding_counts_as_localized_only_where_the_controls_fail():
    def row(finding, *accuracies):
        sources = ("heat_map", "random", "shifted")
        return {"finding": finding, "cells": {s: {"accuracy": a} for s, a in zip(sources, accuracies, strict=True)}}

    rows = [
        row("Mass", 0.6, 0.1, 0.5),
        row("Nodule", 0.9, 0.2, 0.51),
        row("Effusion", 0.5, 0, 0),
        row("all", 0.9, 0, 0),
    ]
    assert better_than_controls(rows) == ["Mass"]
