"""A localization.json as aligned lines."""

from cxr.evaluation import literature, provenance
from cxr.evaluation.localization import ALL, CONTROL_NAMES
from cxr.evaluation.tables import aligned

SHOWN = {"iobb": ("0.1", "0.25", "0.5", "0.75"), "iou": ("0.1", "0.5")}  # T; localization.json has more
UNREADABLE_SHOWN = 3  # images at most


def localization_table(result: dict) -> str:
    """A localization.json: controls and published values under each finding, then the notes."""
    names = {"heat_map": result["method"], **CONTROL_NAMES, "published": "Wang et al."}
    heads = [f"IoBB > {limit}" for limit in SHOWN["iobb"]] + [f"IoU > {limit}" for limit in SHOWN["iou"]]
    rows = [("finding", "boxes", "source", *heads, "pointing")]
    for finding, values in result["findings"].items():
        for source, name in names.items():
            if values[source] is not None:
                first = (finding, f"{values['boxes']:,}") if source == "heat_map" else ("", "")
                rows.append((*first, name, *localization_cells(values[source], intervals=source == "heat_map")))
    return "\n".join([*aligned(rows), "", *localization_notes(result)])


def localization_cells(values: dict, *, intervals: bool) -> list[str]:
    """Accuracy / false positives at each T shown, and the pointing game; intervals at T(IoBB) 0.5 and of pointing."""
    cells = []
    for overlap, limits in SHOWN.items():
        for limit in limits:
            at = values.get(overlap, {}).get(limit)
            cells.append(f"{at['accuracy']:.2f} / {at['false_positives']:.2f}" if at else "")
            if intervals and (overlap, limit) == ("iobb", "0.5"):
                false_positives = share_with_interval(at, "false_positives", "false_positives_")
                cells[-1] = f"{share_with_interval(at, 'accuracy')} / {false_positives}"
    if "pointing" not in values:
        return [*cells, ""]
    pointing = values["pointing"]
    return [*cells, share_with_interval(pointing, "value") if intervals else f"{pointing['value']:.2f}"]


def share_with_interval(values: dict, key: str, prefix: str = "") -> str:
    """A value and its interval, under prefix + "low" and "high": 0.46 [0.41, 0.51]; without it where it is None."""
    low = values[f"{prefix}low"]
    high = values[f"{prefix}high"]
    return f"{values[key]:.2f}" if low is None else f"{values[key]:.2f} [{low:.2f}, {high:.2f}]"


def localization_notes(result: dict) -> list[str]:
    """Units, numbers of images, leaks, and whether the published values are comparable."""
    whole = result["findings"][ALL]
    lines = [
        "accuracy / false positives per image that has the finding annotated; 95 % intervals over patients",
        f"{whole['boxes']:,} boxes in {whole['images']:,} images of {whole['patients']:,} patients; "
        f"{result['absent']:,} of the {result['boxed_images']:,} images with boxes are not in {result['data_dir']}",
    ]
    if result["broken"]:
        first = [f"{image_id} ({reason})" for image_id, reason in list(result["broken"].items())[:UNREADABLE_SHOWN]]
        lines.append(f"{len(result['broken']):,} images are unreadable, such as {', '.join(first)}")
    lines += provenance.leak_notes(result["leak"], "results")
    if whole["boxes"] != literature.LOCALIZATION_BOXES:
        lines.append(f"NOT COMPARABLE: {result['published_source']}")
    return lines
