"""Where images came from (hospital, scanner, collection): a CSV of image_id and group that a user gives."""

import csv
import io
from collections.abc import Collection

from etils import epath

COLUMNS = ("image_id", "group")


def read_groups(path: epath.Path, image_ids: Collection[str]) -> dict[str, str]:
    """Group by image id; images that the file does not list have none.

    Args:
        image_ids: every image of the release's tables.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a CSV, no rows, other columns, an empty group, an image twice in different groups, or an image
            that no table has.
    """
    if not path.exists():
        raise FileNotFoundError(f"no groups file {path}; expected a CSV with the columns {','.join(COLUMNS)}")
    try:
        table = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        rows = [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a readable CSV: {error}") from error
    if not set(COLUMNS) <= set(table.fieldnames or ()):
        raise ValueError(
            f"{path} has the columns {', '.join(table.fieldnames or ('none',))}; expected {', '.join(COLUMNS)}"
        )
    if not rows:
        raise ValueError(f"{path} has a header and no rows")
    groups: dict[str, str] = {}
    for number, row in rows:
        image_id, group = (row["image_id"] or "").strip(), (row["group"] or "").strip()
        if not group:
            raise ValueError(f"{path} row {number}: image {image_id} has an empty group; leave the row out instead")
        if groups.setdefault(image_id, group) != group:
            raise ValueError(
                f"{path} row {number}: image {image_id} is in group {groups[image_id]} and in group {group}"
            )
    unknown = sorted(groups.keys() - set(image_ids))
    if unknown:
        raise ValueError(
            f"{path} names {len(unknown):,} image{'s' * (len(unknown) > 1)} that no table of the release has, "
            f"such as {unknown[0]}; expected image ids like 00000001_000.png"
        )
    return groups
