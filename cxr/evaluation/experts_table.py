"""A model against radiologists' labels, as aligned lines."""

from cxr.evaluation import experts, pretraining, provenance
from cxr.evaluation.tables import aligned


def experts_table(report: dict[str, dict], result: dict) -> str:
    """Every study of an experts file: AUROC against both labels, NIH's labels against the experts', and kappas.

    Args:
        report: the experts file. result: the metrics file beside it; it knows of leaks, and what networks have seen.
    """
    lines = []
    for study, values in report.items():
        head = f"{study}: {values['images']:,} images of {values['patients']:,} patients"
        lines += [head, *aligned(_rows(values)), ""]
    lines += experts_notes(result["split"])
    lines += provenance.leak_notes(result["leak"], "scores") + pretraining.seen_notes(result.get("seen"), "scores")
    return "\n".join(lines)


def experts_notes(split: str) -> list[str]:
    """What the columns mean, and what the numbers may not be used for."""
    lines = [
        "sens., PPV, kappa: of NIH's labels against the experts'; readers: mean kappa between two readers; "
        f"no values below {experts.FEWEST} expert positives; 95 % intervals over patients"
    ]
    if split == "test":
        lines.append("these are test images: do not choose a model by them")
    return lines


def _rows(values: dict) -> list[tuple[str, ...]]:
    heads = ("NIH pos.", "expert pos.", "AUROC, NIH's labels", "AUROC, experts' labels")
    rows = [("finding", *heads, "sens.", "PPV", "kappa", "readers")]
    for finding, row in values["findings"].items():
        aurocs = auroc_cell(row["auroc_nih"]), auroc_cell(row["auroc_expert"])
        shares = (row[key] for key in ("nih_sensitivity", "nih_ppv", "kappa_nih", "kappa_readers"))
        cells = ("" if share is None else f"{share:.2f}" for share in shares)
        rows.append((finding, f"{row['positives_nih']:,}", f"{row['positives_expert']:,}", *aurocs, *cells))
    nih, expert = values["mean_auroc_nih"], values["mean_auroc_expert"]
    return [*rows, (f"mean of {nih['findings']}", "", "", auroc_cell(nih), auroc_cell(expert), *[""] * 4)]


def auroc_cell(value: dict) -> str:
    """A value and its interval: 0.721 [0.650, 0.790]; empty where undefined."""
    if value["value"] is None:
        return ""
    return f"{value['value']:.3f}" + ("" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]")
