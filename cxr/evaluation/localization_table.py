"""A localization.json as aligned lines for the terminal."""

from cxr.evaluation import provenance
from cxr.evaluation.localization import ALL, CONTROL_NAMES, PUBLISHED_BOXES
from cxr.evaluation.tables import aligned

SHOWN = {"iobb": ("0.1", "0.25", "0.5", "0.75"), "iou": ("0.1", "0.5")}  # T; the file has more
HEADS = [f"IoBB > {limit}" for limit in SHOWN["iobb"]] + [f"IoU > {limit}" for limit in SHOWN["iou"]]
NAMED = 3  # unreadable images that a note names


def results_table(result: dict) -> str:
    """The results as aligned lines, controls and published values under each finding, and what they are of."""
    of = {"heat_map": result["method"], **CONTROL_NAMES, "published": "Wang et al."}
    rows = [("finding", "boxes", "of", *HEADS, "pointing")]
    for finding, values in result["findings"].items():
        for source, name in of.items():
            if values[source] is not None:
                first = (finding, f"{values['boxes']:,}") if source == "heat_map" else ("", "")
                rows.append((*first, name, *cells(values[source], with_interval=source == "heat_map")))
    return "\n".join([*aligned(rows), "", *notes(result)])


def cells(values: dict, *, with_interval: bool) -> list[str]:
    """Accuracy / false positives at each T shown, and the pointing game; intervals at T(IoBB) 0.5 and of pointing."""
    found = []
    for overlap, limits in SHOWN.items():
        for limit in limits:
            at = values.get(overlap, {}).get(limit)
            found.append(f"{at['accuracy']:.2f} / {at['false_positives']:.2f}" if at else "")
            if with_interval and (overlap, limit) == ("iobb", "0.5"):
                found[-1] = f"{words(at, 'accuracy')} / {words(at, 'false_positives', 'false_positives_')}"
    pointing = values.get("pointing")
    if pointing is None:
        return [*found, ""]
    return [*found, words(pointing, "value") if with_interval else f"{pointing['value']:.2f}"]


def words(values: dict, key: str, prefix: str = "") -> str:
    """A value and its interval under prefix + "low" and "high": 0.46 [0.41, 0.51]; without it where it is None."""
    low, high = values[f"{prefix}low"], values[f"{prefix}high"]
    return f"{values[key]:.2f}" if low is None else f"{values[key]:.2f} [{low:.2f}, {high:.2f}]"


def notes(result: dict) -> list[str]:
    """What a reader must know before believing the table."""
    whole = result["findings"][ALL]
    lines = [
        "accuracy / false positives per image that has the finding annotated; 95 % intervals over resampled patients",
        f"{whole['boxes']:,} boxes in {whole['images']:,} images of {whole['patients']:,} patients; "
        f"{result['absent']:,} of the {result['boxed_images']:,} images with boxes are not in {result['data_dir']}",
    ]
    if result["broken"]:
        first = [f"{image_id} ({reason})" for image_id, reason in list(result["broken"].items())[:NAMED]]
        lines.append(f"{len(result['broken']):,} images are unreadable, such as {', '.join(first)}")
    lines += provenance.leak_notes(result["leak"], "results")
    if whole["boxes"] != PUBLISHED_BOXES:
        lines.append(f"NOT COMPARABLE: {result['published_source']}")
    return lines
