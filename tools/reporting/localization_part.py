"""The localization section of a report: localization.json and the pictures beside it."""

import pathlib

from cxr.evaluation import tables
from cxr.evaluation.localization import CONTROL_NAMES
from tools.reporting import page, pictures
from tools.reporting.evaluated import Evaluated
from tools.reporting.figures import Drawing, readable

LIMIT = "0.5"  # T(IoBB) of the table; localization.json has more


def localization_part(evaluated: Evaluated) -> dict | None:
    """Accuracy by finding beside the controls, one picture of each finding, and notes; None without localization."""
    result = evaluated.localization
    if result is None:
        return None
    sources = {"heat_map": result["method"], **CONTROL_NAMES, "published": "Wang et al."}
    rows = []
    for finding, values in result["findings"].items():
        cells = {source: values[source]["iobb"][LIMIT] if values[source] else None for source in sources}
        row = {"finding": finding, "boxes": values["boxes"], "cells": cells}
        pointing = tables.share_with_interval(values["heat_map"]["pointing"], "value")
        rows.append(row | {"pointing": pointing})
    return {
        "limit": LIMIT,
        "sources": sources,
        "rows": rows,
        "better": better_than_controls(rows),
        "drawings": drawings(evaluated),
        "notes": page.noted(tables.localization_notes(result)),
    }


def better_than_controls(rows: list[dict]) -> list[str]:
    """Findings of which the heat maps hit most boxes and no control does; the last row, over all, does not count."""
    controls = tuple(CONTROL_NAMES)
    return [
        row["finding"]
        for row in rows[:-1]
        if row["cells"]["heat_map"]["accuracy"] > 0.5 >= max(row["cells"][name]["accuracy"] for name in controls)
    ]


def drawings(evaluated: Evaluated) -> list[Drawing]:
    """The first existing picture of each finding."""
    folder = evaluated.model_dir / "localization"
    found = []
    names = [pathlib.PurePath(name).name for name in evaluated.localization["overlays"]]  # stay in this folder
    for finding in evaluated.localization["findings"]:
        paths = [folder / name for name in names if name.startswith(f"{finding}_") and (folder / name).is_file()]
        if paths:
            alt = f"Radiograph with {readable(finding)}, and its heat map with annotated and detected boxes."
            found.append(Drawing(readable(finding), alt, pictures.overlay_uri(paths[0].read_bytes())))
    return found
