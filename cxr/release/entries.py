"""The CSVs of a release: Data_Entry of 2017 or 2020, or one label CSV per split as in the public subsets."""

import csv
import functools
import hashlib
import io
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from etils import epath

from cxr.findings import FINDINGS, parse_findings
from cxr.patient import SEXES, UNKNOWN, VIEW_POSITIONS, parse_age

ENTRY_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
RENAMED = {"Patient Sex": "Patient Gender"}  # name in later copies of the 2020 CSV -> name here
ID_ENDINGS = (".png", ".jpg", ".jpeg")


class ImageRow(NamedTuple):
    """One image in the tables of a release."""

    image_id: str  # "00000001_000.png"
    patient_id: int
    labels: tuple[int, ...]  # 14 times 0 or 1, in FINDINGS order
    age: float = math.nan  # years
    sex: int = UNKNOWN  # 0 F, 1 M
    view_position: int = UNKNOWN  # 0 PA, 1 AP
    group: str = ""  # where it came from, by a groups file; "" unknown


class Table(NamedTuple):
    """The rows of one CSV of a release."""

    name: str  # file name, or several joined by "+"
    sha256: str
    rows: list[ImageRow]


def read_entries(path: epath.Path) -> Table:
    """Read a Data_Entry CSV, of 2017 or 2020.

    Raises:
        ValueError: a required column is absent, a cell is invalid (with its row), or an image id appears twice.
    """
    parsed_findings = functools.cache(parse_findings)  # 112,120 rows have a few hundred distinct cells

    def parse(cell: dict[str, str]) -> ImageRow:
        return ImageRow(
            image_id=cell["Image Index"].strip(),
            patient_id=int(cell["Patient ID"]),
            labels=parsed_findings(cell["Finding Labels"]),
            age=parse_age(cell["Patient Age"]),
            sex=SEXES.get(cell["Patient Gender"].strip(), UNKNOWN),
            view_position=VIEW_POSITIONS.get(cell["View Position"].strip(), UNKNOWN),
        )

    return _read_table(path, ENTRY_COLUMNS, parse)


def read_label_csv(path: epath.Path, entries: dict[str, ImageRow]) -> Table:
    """Read the label CSV of one split: `Image Index` and 14 columns of 0 and 1.

    Args:
        entries: rows of the Data_Entry CSV by image id, which give patient, age, sex and view position. The patient of
            an image without an entry is the number before "_" in its id.
    """

    def parse(cell: dict[str, str]) -> ImageRow:
        numbers = [float(cell[finding]) for finding in FINDINGS]
        if set(numbers) - {0, 1}:
            raise ValueError(f"labels must be 0 or 1, not {numbers}")
        labels = tuple(map(int, numbers))
        image_id = cell["Image Index"].strip()
        if image_id in entries:
            return entries[image_id]._replace(labels=labels)
        return ImageRow(image_id=image_id, patient_id=int(image_id.split("_")[0]), labels=labels)

    return _read_table(path, ("Image Index", *FINDINGS), parse)


def _read_table(path: epath.Path, columns: tuple[str, ...], parse: Callable[[dict[str, str]], ImageRow]) -> Table:
    """Parse every row of a CSV; errors name the file and the line number."""
    data = path.read_bytes()
    rows, seen = [], {}
    for number, cells in _cells(path, data, columns):
        try:
            row = parse(cells)
        except ValueError as error:
            raise ValueError(f"{path} row {number}: {error}") from error
        if row.image_id in seen:
            raise ValueError(f"{path} row {number}: image {row.image_id} is already in row {seen[row.image_id]}")
        seen[row.image_id] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has a header and no rows")
    return Table(path.name, hashlib.sha256(data).hexdigest(), rows)


def _cells(path: epath.Path, data: bytes, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: cell}) for the named columns.

    The last names in the 2017 header contain unquoted commas, and rows have one cell less or more than the header. So
    columns are found by their position in the header, and cells after the last required column are ignored.
    """
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        header = [RENAMED.get(name.strip(), name.strip()) for name in next(reader, [])]
        absent = [name for name in columns if name not in header]
        if absent:
            raise ValueError(f"{path} has no column {absent[0]!r}; expected {', '.join(columns)}")
        places = {name: header.index(name) for name in columns}
        before = 0  # line number where the previous row ended
        for row in itertools.chain([header], reader):
            if reader.line_num > before + 1:
                raise ValueError(f"{path} row {before + 1}: a quote is not closed, so the row contains several lines")
            before = reader.line_num
            named = sum(cell.rstrip().endswith(ID_ENDINGS) for cell in row)
            if named > (row is not header):  # one of them would be lost
                raise ValueError(f"{path} row {reader.line_num}: two rows on one line")
            if not row or row is header:
                continue
            if len(row) <= max(places.values()):
                raise ValueError(f"{path} row {reader.line_num}: {len(row)} cells, expected {len(header)}")
            yield reader.line_num, {name: row[place] for name, place in places.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a readable CSV: {error}") from error
