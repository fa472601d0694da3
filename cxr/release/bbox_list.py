"""BBox_List_2017.csv: boxes that a radiologist drew round 8 of the findings, and the images they are in."""

import csv
import io
import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from cxr.findings import ALIASES, FINDINGS
from cxr.images.decode import decode_grey
from cxr.images.errors import ImageError
from cxr.release import archives, entries, locations, release, sources

FILE = "BBox_List_2017.csv"
HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"  # the commas inside the brackets are not quoted
FRAME = 1024  # pixels a side of the image that the boxes are drawn on
ROUNDING = 1.0  # pixel: so far outside a box may end and is clipped; further out it is a mistake


class BoxRow(NamedTuple):
    """One annotated box."""

    image_id: str
    finding: str  # one of FINDINGS
    box_nih: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the 1024 x 1024 image


class Boxed(NamedTuple):
    """What was drawn in one image."""

    patient_id: int
    boxes_nih: dict[str, np.ndarray]  # float64 [n, 4] by finding


def read_boxes(data_dir: epath.Path) -> list[BoxRow]:
    """Read the boxes of a release, in the order of the file.

    Raises:
        FileNotFoundError: the release has none.
        ValueError: another header, no row, or a row (named) that is no box of a finding inside the image.
    """
    path = data_dir / FILE
    if not path.exists():
        raise FileNotFoundError(f"no {path}; download it from the same place as the images, or mend --data_dir")
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        _require_header(path, next(reader, []))
        seen = {}
        for cells in reader:
            if any(cells):
                where = f"{path} row {reader.line_num}"
                row = _parse(cells, where)
                if row in seen:
                    raise ValueError(f"{where}: the same box as in row {seen[row]}")
                seen[row] = reader.line_num
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a readable CSV: {error}") from error
    if not seen:
        raise ValueError(f"{path} has a header and no rows")
    return list(seen)


def _require_header(path: epath.Path, cells: list[str]) -> None:
    found = [cell.strip() for cell in cells if cell.strip()]
    if found != [cell for cell in HEADER.split(",") if cell]:
        raise ValueError(f"{path} begins with {','.join(cells)[:80]!r}, expected {HEADER!r}")


def _parse(cells: list[str], where: str) -> BoxRow:
    if len(cells) < 6:
        raise ValueError(f"{where}: {len(cells)} cells, expected an image, a finding and x, y, w, h")
    image_id, label = cells[0].strip(), cells[1].strip()
    finding = ALIASES.get(label, label)
    if finding not in FINDINGS:
        raise ValueError(f"{where}: unknown finding {label!r}; expected one of {', '.join(FINDINGS)}")
    try:
        x, y, width, height = map(float, cells[2:6])
    except ValueError as error:
        raise ValueError(f"{where}: x, y, w, h are {', '.join(cells[2:6])}; expected four numbers") from error
    numbers = f"x {x:g}, y {y:g}, w {width:g}, h {height:g}"
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise ValueError(f"{where}: {numbers} is no box; expected w and h above 0")
    if min(x, y) < -ROUNDING or max(x + width, y + height) > FRAME + ROUNDING:
        raise ValueError(f"{where}: {numbers} reaches out of the image; expected pixels of {FRAME} x {FRAME}")
    return BoxRow(image_id, finding, (max(x, 0.0), max(y, 0.0), min(x + width, FRAME), min(y + height, FRAME)))


def read_boxed(data_dir: epath.Path) -> dict[str, Boxed]:
    """Read the boxes of a release by image id, sorted, checked against its Data_Entry CSV where it has one.

    Raises:
        FileNotFoundError, ValueError: as `read_boxes`, and for images that the CSV does not have.
    """
    rows, entry_csv = read_boxes(data_dir), release.find_entry_csv(data_dir)
    if entry_csv:
        patients = {row.image_id: row.patient_id for row in entries.read_entries(entry_csv).rows}
        unknown = sorted({row.image_id for row in rows} - patients.keys())
        if unknown:
            raise ValueError(
                f"{data_dir / FILE} names {len(unknown):,} images that {entry_csv.name} does not have, such as "
                f"{unknown[0]}; expected a list of the same release"
            )
    else:
        patients = {row.image_id: _patient_in(row.image_id, data_dir / FILE) for row in rows}
    boxes = {image_id: {} for image_id in sorted({row.image_id for row in rows})}
    for row in rows:
        boxes[row.image_id].setdefault(row.finding, []).append(row.box_nih)
    return {
        image_id: Boxed(patients[image_id], {finding: np.array(drawn, float) for finding, drawn in by_finding.items()})
        for image_id, by_finding in boxes.items()
    }


def _patient_in(image_id: str, path: epath.Path) -> int:
    patient = image_id.split("_")[0]
    if not patient.isdecimal():
        raise ValueError(f"{path} names image {image_id!r}; expected a name such as 00000001_000.png")
    return int(patient)


def read_images(
    data_dir: epath.Path, found: sources.Images, image_ids: Collection[str], broken: dict[str, str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (image id, uint8 [height, width]) of every image of a release that is there and readable, each once.

    Args:
        found: as `sources.find_images` finds them.
        broken: takes the reason of each image that cannot be read, by id.
    """
    for image_id, read in _files(data_dir, found, image_ids):
        try:
            yield image_id, decode_grey(read())
        except ImageError as error:
            broken[image_id] = str(error)


def _files(
    data_dir: epath.Path, found: sources.Images, image_ids: Collection[str]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield (image id, what reads its bytes before the next one is asked for)."""
    for image_id, location in sorted(found.locations.items()):
        yield image_id, lambda location=location: locations.read_bytes(location)
    by_stem, seen = sources.stems(image_ids), set(found.locations)
    for container in found.streams:  # archives that can only be read from their start to their end
        for name, size, read in archives.stream_members(data_dir / container):
            image_id = sources.identify(name, by_stem)
            if image_id and image_id not in seen:
                seen.add(image_id)
                yield image_id, read if size <= locations.MAX_BYTES else lambda size=size: _refuse(size)


def _refuse(size: int) -> bytes:
    raise ImageError(locations.too_large(size))
