"""The tables of an NIH release: the rows of its CSV, and the lists that split them."""

from typing import NamedTuple

from etils import epath

from cxr import storage
from cxr.release import entries
from cxr.release.entries import ImageRow, Table
from cxr.release.groups import read_groups

ENTRY_PATTERN = "Data_Entry_2017*.csv"
LISTS = {  # the second name is that of re-uploads
    "train_val": ("train_val_list.txt", "train_val_list_NIH.txt"),
    "test": ("test_list.txt", "test_list_NIH.txt"),
}
LABEL_CSVS = {split: f"{split}_labels.csv" for split in ("train", "val", "test")}


class Release(NamedTuple):
    """The rows of a release and how they are to be split."""

    split: str  # "official", "random" or "csv"
    csv: str  # name of the CSV with the labels; several are joined by "+"
    csv_sha256: str
    rows: list[ImageRow]
    assigned: dict[str, str]  # image id -> "train_val", "train", "val" or "test"; empty for a random split
    groups_sha256: str | None = None  # of the groups file that gave the rows their group; None without one


def read_release(data_dir: epath.Path, split: str) -> Release:
    """Read the tables of a release.

    Args:
        split: "official" (NIH's lists), "csv" (train_labels.csv, val_labels.csv, test_labels.csv), "random", or "auto":
            official if the release has both lists, csv if it has label CSVs and no Data_Entry CSV, random otherwise.

    Raises:
        FileNotFoundError: the folder, the CSV, or a list that the split needs is absent.
        ValueError: two Data_Entry CSVs, an invalid CSV, or lists that do not match it.
    """
    if not data_dir.exists():
        raise FileNotFoundError(f"no folder {data_dir}; expected an NIH release: Data_Entry CSV, lists and images")
    entry_csv = find_entry_csv(data_dir)
    lists = find_lists(data_dir)
    label_csvs = find_label_csvs(data_dir)
    if split == "auto" and len(lists) == 1 and entry_csv:
        raise ValueError(
            f"{data_dir} has {next(iter(lists.values())).name} but not the other official list, so patients of the "
            "official test split could end up in train; add the other list, or use --split random"
        )
    if split == "auto":
        split = "official" if len(lists) == 2 else "csv" if label_csvs and not entry_csv else "random"
    if split == "csv":
        return _read_label_csvs(data_dir, entry_csv, label_csvs)
    if not entry_csv:
        raise FileNotFoundError(
            f"no {ENTRY_PATTERN} in {data_dir}; download it from the same place as the images, or correct --data_dir"
        )
    table = entries.read_entries(entry_csv)
    assigned = _read_lists(data_dir, lists, table) if split == "official" else {}
    return Release(split, table.name, table.sha256, table.rows, assigned)


def with_groups(release: Release, path: epath.Path) -> Release:
    """The release with the group of every image that a groups file lists; see `read_groups` for its errors."""
    groups = read_groups(path, {row.image_id for row in release.rows})
    rows = [row._replace(group=groups.get(row.image_id, "")) for row in release.rows]
    return release._replace(rows=rows, groups_sha256=storage.sha256_of(path))


def find_entry_csv(data_dir: epath.Path) -> epath.Path | None:
    """The Data_Entry CSV of a release, None if it has none. ValueError for two, because their labels differ."""
    found = sorted(data_dir.glob(ENTRY_PATTERN))
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ValueError(f"{data_dir} has {names}, whose labels differ. Keep one and move the other away.")
    return found[0] if found else None


def find_lists(data_dir: epath.Path) -> dict[str, epath.Path]:
    """The official image lists of a release: {"train_val": path, "test": path}, without absent ones."""
    found = {}
    for name, candidates in LISTS.items():
        present = [data_dir / candidate for candidate in candidates if (data_dir / candidate).exists()]
        if present:
            found[name] = present[0]
    return found


def find_label_csvs(data_dir: epath.Path) -> dict[str, epath.Path]:
    """The label CSVs of a release, by split."""
    return {split: data_dir / name for split, name in LABEL_CSVS.items() if (data_dir / name).exists()}


def _read_lists(data_dir: epath.Path, lists: dict[str, epath.Path], table: Table) -> dict[str, str]:
    """NIH's list of every image, by image id. ValueError unless each image is on exactly one list."""
    for name, candidates in LISTS.items():
        if name not in lists:
            raise FileNotFoundError(f"no {candidates[0]} in {data_dir}; download it, or use --split random")
    known = {row.image_id for row in table.rows}
    assigned = {}
    for name, path in lists.items():
        try:
            listed = [line.strip() for line in path.read_bytes().decode("utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text file; expected one image id a line") from error
        unknown = sorted(set(listed) - known)
        if unknown:
            raise ValueError(
                f"{path} has {len(unknown):,} images that are not in {table.name}, such as {unknown[0]}; "
                "expected a list of the same release"
            )
        for image_id in listed:
            if assigned.setdefault(image_id, name) != name:
                raise ValueError(f"image {image_id} is on both official lists; correct them, or use --split random")
    unassigned = sorted(known - assigned.keys())
    if unassigned:
        raise ValueError(
            f"{len(unassigned):,} images of {table.name} are on neither official list, such as {unassigned[0]}; "
            "complete the lists, or use --split random"
        )
    return assigned


def _read_label_csvs(data_dir: epath.Path, entry_csv: epath.Path | None, label_csvs: dict[str, epath.Path]) -> Release:
    """A release whose label CSVs give rows and splits; a Data_Entry CSV adds patient, age, sex and view position."""
    if not label_csvs:
        raise FileNotFoundError(f"no {' or '.join(LABEL_CSVS.values())} in {data_dir}; --split csv needs them")
    known = {row.image_id: row for row in entries.read_entries(entry_csv).rows} if entry_csv else {}
    tables, assigned = {}, {}
    for split, path in label_csvs.items():
        tables[split] = entries.read_label_csv(path, known)
        for row in tables[split].rows:
            if assigned.setdefault(row.image_id, split) != split:
                first = LABEL_CSVS[assigned[row.image_id]]
                raise ValueError(f"image {row.image_id} is in {first} and in {path.name}")
    return Release(
        split="csv",
        csv="+".join(table.name for table in tables.values()),
        csv_sha256="+".join(table.sha256 for table in tables.values()),
        rows=[row for table in tables.values() for row in table.rows],
        assigned=assigned,
    )
