"""The 14 findings of ChestX-ray14, in the order of every label vector of this project, and the size of its images."""

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

NO_FINDING = "No Finding"  # the CSV's word for all zeros; not a fifteenth class
ALIASES = {"Infiltrate": "Infiltration"}  # the first is the name in BBox_List_2017.csv
NIH_SIZE = 1024  # pixels per side of the images that NIH released; BBox_List_2017.csv counts in these pixels


def parse_findings(text: str) -> tuple[int, ...]:
    """Turn a `Finding Labels` cell into a multi-hot vector.

    Args:
        text: names joined by "|", such as "Cardiomegaly|Effusion", or "No Finding".

    Returns:
        14 integers, 0 or 1, in FINDINGS order.

    Raises:
        ValueError: an unknown name, or "No Finding" together with a finding.
    """
    names = {ALIASES.get(name.strip(), name.strip()) for name in text.split("|")}
    if names == {NO_FINDING}:
        return (0,) * len(FINDINGS)
    unknown = sorted(names - set(FINDINGS))
    if unknown:
        raise ValueError(f"unknown finding {unknown[0]!r} in {text!r}; expected {NO_FINDING!r} or names of the 14")
    return tuple(int(finding in names) for finding in FINDINGS)


def require_same_findings(found: list[str], where: str) -> None:
    """Raise ValueError unless `found` equals FINDINGS, name by name and in order: label vectors carry no names."""
    if list(found) != list(FINDINGS):
        raise ValueError(
            f"{where} has the findings {', '.join(found)}; this code works with {', '.join(FINDINGS)}, in that order. "
            "Rebuild the dataset and train again."
        )
