"""BBox_List_2017.csv: the boxes that a radiologist drew around 8 of the findings, and the images with boxes."""

import csv
import io
import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from cxr.findings import ALIASES, FINDINGS, NIH_SIZE
from cxr.images.decode import decode_grey
from cxr.images.errors import ImageError
from cxr.release import archives, entries, locations, release, sources

FILE = "BBox_List_2017.csv"
HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"  # the commas inside the brackets are not quoted
ROUNDING = 1.0  # pixels that a box may reach outside the image, where it is clipped; more is an error


class BoxRow(NamedTuple):
    """One annotated box."""

    image_id: str
    finding: str  # one of FINDINGS
    box_nih: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the 1024 x 1024 image


class Boxed(NamedTuple):
    """The boxes of one image."""

    patient_id: int
    boxes_nih: dict[str, np.ndarray]  # float64 [n, 4] by finding


def read_boxes(data_dir: epath.Path) -> list[BoxRow]:
    """Read the boxes of a release, in the order of the file.

    Raises:
        FileNotFoundError: the release has no list of boxes.
        ValueError: an unexpected header, no rows, or a row (named) that is not a box of a finding inside the image.
    """
    path = data_dir / FILE
    if not path.exists():
        raise FileNotFoundError(f"no {path}; download it from the same place as the images, or correct --data_dir")
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
        raise ValueError(f"{where}: {numbers} is not a box; expected w and h above 0")
    if min(x, y) < -ROUNDING or max(x + width, y + height) > NIH_SIZE + ROUNDING:
        raise ValueError(f"{where}: {numbers} is outside the image; expected pixels of {NIH_SIZE} x {NIH_SIZE}")
    corners = max(x, 0.0), max(y, 0.0), min(x + width, NIH_SIZE), min(y + height, NIH_SIZE)
    return BoxRow(image_id, finding, corners)


def read_boxed(data_dir: epath.Path) -> dict[str, Boxed]:
    """Read the boxes of a release by image id, sorted, and check them against its Data_Entry CSV if it has one.

    Raises:
        FileNotFoundError, ValueError: as `read_boxes`, and for images that are not in the CSV.
    """
    rows = read_boxes(data_dir)
    entry_csv = release.find_entry_csv(data_dir)
    if entry_csv:
        patients = {row.image_id: row.patient_id for row in entries.read_entries(entry_csv).rows}
        unknown = sorted({row.image_id for row in rows} - patients.keys())
        if unknown:
            raise ValueError(
                f"{data_dir / FILE} has {len(unknown):,} images that are not in {entry_csv.name}, such as "
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
        raise ValueError(f"{path} has image {image_id!r}; expected a name such as 00000001_000.png")
    return int(patient)


def read_images(
    data_dir: epath.Path, found: sources.Images, image_ids: Collection[str], broken: dict[str, str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (image id, uint8 [height, width]) of every readable image of a release, each once.

    Args:
        found: the result of `sources.find_images`.
        broken: receives the reason for each unreadable image, by id.
    """
    for image_id, read in _files(data_dir, found, image_ids):
        try:
            yield image_id, decode_grey(read())
        except ImageError as error:
            broken[image_id] = str(error)


def _files(
    data_dir: epath.Path, found: sources.Images, image_ids: Collection[str]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield (image id, read). `read()` returns the bytes of the image, until the next image is yielded."""
    for image_id, location in sorted(found.locations.items()):
        yield image_id, lambda location=location: locations.read_bytes(location)
    by_stem = sources.stems(image_ids)
    seen = set(found.locations)
    for container in found.streams:  # archives that can only be read from start to end
        for name, size, read in archives.stream_members(data_dir / container):
            image_id = sources.identify(name, by_stem)
            if image_id and image_id not in seen:
                seen.add(image_id)
                yield image_id, read if size <= locations.MAX_BYTES else lambda size=size: _reject(size)


def _reject(size: int) -> bytes:
    raise ImageError(locations.too_large(size))
