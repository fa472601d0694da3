"""A metrics file as aligned lines for the terminal."""

import numpy as np

from cxr.evaluation import literature, provenance

FLOORS = {"metadata": "age, sex, view position only", "shuffled_labels": "labels shuffled"}


def results_table(result: dict, *, all_splits: bool = False) -> str:
    """The metrics beside Wang et al. on the same split, floors under them, other published means, and what it is of.

    Args:
        result: as in the metrics file.
        all_splits: also stand beside published rows of other splits, each marked as such.
    """
    if result["images"] == 0:
        return f"the {result['split']} split is empty: nothing to score"
    rows = literature.rows_of_split(result["split_name"])
    rows += tuple(row for row in literature.ROWS if all_splits and row not in rows)
    lines = aligned(_main_rows(result, rows[0] if rows else None)) + [""]
    if rows[1:]:
        lines += aligned(_published_rows(result, rows[1:])) + [""]
    return "\n".join(lines + _origin(result) + _warnings(result, rows))


def comparison_table(comparison: dict) -> str:
    """The paired test of two experiments, finding by finding."""
    rows = [("finding", "difference", "95 % interval", "p")]
    mean = comparison["mean_auroc"]
    for name, tested in [*comparison["findings"].items(), (f"mean of {mean['findings']}", mean)]:
        if tested["difference"] is None:
            rows.append((name, "undefined", "", ""))
        else:
            interval = f"[{tested['low']:+.3f}, {tested['high']:+.3f}]"
            rows.append((name, f"{tested['difference']:+.3f}", interval, f"{tested['p']:.3f}"))
    head = f"AUROC minus that of {comparison['model_dir']}, on the same images (paired bootstrap over patients)"
    notes = provenance.leak_notes(comparison["leak"], f"scores of {comparison['model_dir']}")
    return "\n".join([head, *aligned(rows), *notes])


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines: the first column flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _main_rows(result: dict, wang: literature.Published | None) -> list[tuple[str, ...]]:
    """Head, findings, mean and floors; the columns of Wang et al. only where they have a row."""
    rows = [("finding", "positives", "AUROC", "95 % interval", "AP", "Wang et al.", "diff.")]
    for name, values in result["findings"].items():
        published = wang and wang.aurocs[name]
        cells = _auroc_cells(values["auroc"], values["low"], values["high"])
        average = _number(values["average_precision"] if values["auroc"] is not None else None)
        rows.append((name, f"{values['positives']:,}", *cells, average, *_beside(values["auroc"], published)))
    mean = result["mean_auroc"]
    cells = _auroc_cells(mean["value"], mean["low"], mean["high"])
    theirs = wang and mean_over_defined(wang, result)
    rows.append(("mean", f"of {mean['findings']}", *cells, "", *_beside(mean["value"], theirs)))
    for key, words in FLOORS.items():
        if result["floors"][key] is not None:
            floor = result["floors"][key]["mean_auroc"]
            cells = _auroc_cells(floor["value"], floor["low"], floor["high"])
            rows.append((words, f"of {floor['findings']}", *cells, "", "", ""))
    return rows if wang else [row[:5] for row in rows]


def _published_rows(result: dict, rows: tuple[literature.Published, ...]) -> list[tuple[str, ...]]:
    """Other published means, over the findings that are defined here."""
    lines = [("also published", "split", "pixels", "mean", "diff.")]
    for row in rows:
        other = row.split != result["split_name"]
        split = f"{row.split}, NOT COMPARABLE" if other else row.split
        size = f"{row.image_size}" if row.image_size else ""
        lines.append((row.source, split, size, *_beside(result["mean_auroc"]["value"], mean_over_defined(row, result))))
    return lines


def mean_over_defined(row: literature.Published, result: dict) -> float:
    """A published mean over just those findings that have an AUROC in the result; over all where none has."""
    published = [row.aurocs[name] for name, values in result["findings"].items() if values["auroc"] is not None]
    return float(np.mean(published)) if published else row.mean


def _origin(result: dict) -> list[str]:
    """Which images these are, and which dataset the weights come from."""
    of, on = result["evaluated_on"], result["trained_on"]
    lines = [
        f"{result['split']} of a dataset split {result['split_name']}: {result['images']:,} images of "
        f"{result['patients']:,} patients, loss {result['loss']:.4f}",
        f"evaluated on {of['csv']}, fingerprint {of['fingerprint'][:12]}",
    ]
    if of["fingerprint"] != on["fingerprint"]:
        lines.append(
            f"EXTERNAL: trained on {on['csv']}, split {on['split_name']}, fingerprint {on['fingerprint'][:12]}"
        )
    return lines


def _warnings(result: dict, rows: tuple[literature.Published, ...]) -> list[str]:
    """What a reader must know before believing the table."""
    lines = provenance.leak_notes(result["leak"], "scores")
    if result["mean_auroc"]["findings"] == 0:
        lines.append("no finding has both classes among these images, so no AUROC is defined")
    if result["patients"] == 1:
        lines.append("one patient only, so there are no intervals: they are over patients")
    if rows:
        where = {key: result[key] for key in ("split", "split_name", "images")}
        reason = literature.why_not_comparable(rows[0], **where)
        if reason:
            lines.append(f"NOT COMPARABLE: {rows[0].source}: {reason}; the same model scores otherwise on other images")
    else:
        lines.append(
            f"nobody has published on a split {result['split_name']!r}; --literature all shows those of other splits"
        )
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
