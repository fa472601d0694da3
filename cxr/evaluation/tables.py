"""Results as aligned lines: a metrics file, a comparison, a localization.json."""

from cxr.evaluation import literature, pretraining, provenance, shortcuts
from cxr.evaluation.localization import ALL, CONTROL_NAMES

SHOWN = {"iobb": ("0.1", "0.25", "0.5", "0.75"), "iou": ("0.1", "0.5")}  # T; localization.json has more
UNREADABLE_SHOWN = 3  # images at most
BESIDE = ("Wang et al.", "diff.")  # heads of the columns of a published row
FLOORS = {"metadata": "age, sex, view position only", "shuffled_labels": "labels shuffled"}


def results_table(result: dict, *, all_splits: bool = False) -> str:
    """The metrics beside Wang et al. on the same split, the floors, other published means, provenance and warnings.

    Args:
        result: as in the metrics file.
        all_splits: with the published rows of other splits, each marked.
    """
    if result["images"] == 0:
        return "\n".join(results_notes(result, ()))
    rows = literature.rows_of_split(result["split_name"])
    if all_splits:
        rows += tuple(row for row in literature.ROWS if row not in rows)
    lines = aligned(_main_rows(result, rows[0] if rows else None)) + [""]
    if rows[1:]:
        lines += aligned(_published_rows(result, rows[1:])) + [""]
    return "\n".join([*lines, *results_notes(result, rows)])


def results_notes(result: dict, rows: tuple[literature.Published, ...]) -> list[str]:
    """Provenance of the result, and warnings; `rows` are the published rows beside it."""
    if result["images"] == 0:
        return [f"the {result['split']} split is empty: nothing to score"]
    return _provenance(result) + shortcuts.group_notes(result) + _warnings(result, rows)


def comparison_table(comparison: dict) -> str:
    """The paired test of two experiments by finding."""
    grouping = shortcuts.grouping_shown(comparison)
    inside = comparison["within"][grouping]
    test = ("95 % interval", "p")
    rows = [("finding", "difference", *test, f"within {shortcuts.words(grouping)}", *test)]
    for name, values in comparison["findings"].items():
        rows.append((name, *_difference_cells(values), *_difference_cells(inside["findings"][name])))
    means = comparison["mean_auroc"], inside["mean_auroc"]
    rows.append((f"mean of {means[0]['findings']}", *_difference_cells(means[0]), *_difference_cells(means[1])))
    head = f"AUROC minus that of {comparison['model_dir']} on the same images (paired bootstrap over patients)"
    notes = comparison_notes(comparison)
    return "\n".join([head, *aligned(rows), *notes])


def comparison_notes(comparison: dict) -> list[str]:
    """What the other experiment of a comparison, and its networks, have seen."""
    what = f"scores of {comparison['model_dir']}"
    return provenance.leak_notes(comparison["leak"], what) + pretraining.seen_notes(comparison.get("seen"), what)


def _difference_cells(values: dict) -> tuple[str, str, str]:
    """Difference, interval and p of a comparison."""
    if values["difference"] is None:
        return "undefined", "", ""
    interval = f"[{values['low']:+.3f}, {values['high']:+.3f}]"
    return f"{values['difference']:+.3f}", interval, f"{values['p']:.3f}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines: the first column aligned left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def aligned_markdown(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table, also aligned as plain text; the first row is the header. It ends in a newline."""
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*safe, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in safe]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _main_rows(result: dict, wang: literature.Published | None) -> list[tuple[str, ...]]:
    """Header, findings, mean and floors; without `wang` or an AUROC within groups also without their columns."""
    grouping = shortcuts.grouping_shown(result)
    inside = result["within"][grouping]
    within = f"within {shortcuts.words(grouping)}"
    rows = [("finding", "positives", "pooled AUROC", "95 % interval", within, "AP", *BESIDE)]
    for name, values in result["findings"].items():
        published = wang and wang.aurocs[name]
        cells = _auroc_cells(values["auroc"], values["low"], values["high"])
        average = _number(values["average_precision"] if values["auroc"] is not None else None)
        cells += (_number(inside["findings"][name]["auroc"]), average)
        rows.append((name, f"{values['positives']:,}", *cells, *_beside(values["auroc"], published)))
    mean = result["mean_auroc"]
    cells = _auroc_cells(mean["value"], mean["low"], mean["high"])
    theirs = wang and literature.mean_over_defined(wang, result)
    cells += (_number(inside["mean_auroc"]["value"]), "")
    rows.append(("mean", f"of {mean['findings']}", *cells, *_beside(mean["value"], theirs)))
    for key, words in FLOORS.items():
        if result["floors"][key] is not None:
            floor = result["floors"][key]["mean_auroc"]
            cells = _auroc_cells(floor["value"], floor["low"], floor["high"])
            rows.append((words, f"of {floor['findings']}", *cells, *[""] * len(rows[0][4:])))
    left_out = () if wang else BESIDE
    left_out += () if inside["mean_auroc"]["value"] is not None else (within,)
    shown = [column for column, head in enumerate(rows[0]) if head not in left_out]
    return [tuple(row[column] for column in shown) for row in rows]


def _published_rows(result: dict, rows: tuple[literature.Published, ...]) -> list[tuple[str, ...]]:
    """Other published means, each over the findings that are defined in the result."""
    lines = [("also published", "split", "pixels", "mean", "diff.")]
    for row in rows:
        split = row.split if row.split == result["split_name"] else f"{row.split}, NOT COMPARABLE"
        size = str(row.image_size or "")
        cells = _beside(result["mean_auroc"]["value"], literature.mean_over_defined(row, result))
        lines.append((row.source, split, size, *cells))
    return lines


def _provenance(result: dict) -> list[str]:
    """The images scored and the dataset trained on."""
    evaluated_on = result["evaluated_on"]
    trained_on = result["trained_on"]
    lines = [
        f"{result['split']}, {result['split_name']} split: {result['images']:,} images of "
        f"{result['patients']:,} patients, loss {result['loss']:.4f}",
        f"evaluated on {evaluated_on['csv']}, fingerprint {evaluated_on['fingerprint'][:12]}",
    ]
    if evaluated_on["fingerprint"] != trained_on["fingerprint"]:
        lines.append(
            f"EXTERNAL: trained on {trained_on['csv']}, split {trained_on['split_name']}, "
            f"fingerprint {trained_on['fingerprint'][:12]}"
        )
    return lines


def _warnings(result: dict, rows: tuple[literature.Published, ...]) -> list[str]:
    """Leaks, what the networks have seen, undefined values, and published rows that are not comparable."""
    lines = provenance.leak_notes(result["leak"], "scores") + pretraining.seen_notes(result.get("seen"), "scores")
    if result["mean_auroc"]["findings"] == 0:
        lines.append("no finding has both classes among these images, so no AUROC is defined")
    if result["patients"] == 1:
        lines.append("only one patient, so no intervals: they are over patients")
    if rows:
        where = {key: result[key] for key in ("split", "split_name", "images")}
        reason = literature.why_not_comparable(rows[0], **where)
        if reason:
            lines.append(f"NOT COMPARABLE: {rows[0].source}: {reason}; the same model scores differently there")
    else:
        split_name = result["split_name"]
        lines.append(f"no published row has a split {split_name!r}; --literature all prints those of other splits")
    return lines


def _auroc_cells(value: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    if value is None:
        return "undefined", ""
    return f"{value:.3f}", "" if low is None else f"[{low:.3f}, {high:.3f}]"


def _beside(value: float | None, published: float | None) -> tuple[str, str]:
    difference = "" if value is None or published is None else f"{value - published:+.3f}"
    return _number(published), difference


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


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
    lines += provenance.leak_notes(result["leak"], "results") + pretraining.seen_notes(result.get("seen"), "results")
    if whole["boxes"] != literature.LOCALIZATION_BOXES:
        lines.append(f"NOT COMPARABLE: {result['published_source']}")
    return lines
