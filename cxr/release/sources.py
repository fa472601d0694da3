"""Which image lies where below a release: in folders, tars, compressed tars and zips, in any mix."""

import dataclasses
import pathlib
from collections.abc import Collection, Iterator

from etils import epath

from cxr import storage
from cxr.release import archives
from cxr.release.locations import Location, digest_of

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".dcm", ".dicom")
MEMBERS = {"tar": archives.tar_members, "zip": archives.zip_members}


@dataclasses.dataclass
class Images:
    """Every image found below a release."""

    locations: dict[str, Location] = dataclasses.field(default_factory=dict)  # image id -> its bytes
    containers: set[str] = dataclasses.field(default_factory=set)  # folders and archives of images, below the release
    unlisted: int = 0  # image files that no row of the CSV names
    streams: list[str] = dataclasses.field(default_factory=list)  # archives without random access, below the release
    digests: dict[str, str] = dataclasses.field(default_factory=dict)  # of images that lie at their location resized
    _places: dict[str, str] = dataclasses.field(default_factory=dict)  # image id -> where, for people

    def digest(self, image_id: str) -> str:
        """SHA-256 of the bytes an image came in."""
        return self.digests.get(image_id) or digest_of(self.locations[image_id])

    def add(self, image_id: str, location: Location, container: str, place: str, digest: str | None = None) -> None:
        """Note where an image is; of equal ones the first counts.

        Args:
            container: folder or archive, relative to the release.
            place: what an error calls it.
            digest: of the bytes it came in, where those at its location are others.

        Raises:
            ValueError: it is there already, with other bytes.
        """
        if image_id not in self.locations:
            self.locations[image_id], self._places[image_id] = location, place
            if digest:
                self.digests[image_id] = digest
        elif self.digest(image_id) != (digest or digest_of(location)):
            raise twice(image_id, self._places[image_id], place)
        self.containers.add(container)

    def require_any(self, data_dir: epath.Path) -> None:
        """Raise ValueError when there is no image at all, listed or not."""
        if not (self.locations or self.unlisted):
            raise ValueError(
                f"no image below {data_dir}; expected {', '.join(IMAGE_ENDINGS)} files in folders, or in archives "
                f"({', '.join(archives.ENDINGS)})"
            )


def twice(image_id: str, here: str, there: str) -> ValueError:
    """The error of an image that is in two places and differs."""
    return ValueError(
        f"image {image_id} is there twice with different bytes: in {here} and in {there}. Move one of them away."
    )


def find_images(data_dir: epath.Path, image_ids: Collection[str]) -> Images:
    """Look through every folder, tar and zip below `data_dir` for the named images.

    Archives without random access are noted in `streams` and not read; see `streams.Spools`.

    Raises:
        ValueError: no image file at all, a broken archive, or two files for one image whose bytes differ.
    """
    by_stem, found = stems(image_ids), Images()
    for container, name, location in _walk(data_dir):
        if location is None:
            found.streams.append(container)
            continue
        image_id = identify(name, by_stem)
        if image_id:
            whole = location.size is None
            found.add(image_id, location, container, location.path if whole else f"{location.path} ({name!r})")
        elif image_id is not None:
            found.unlisted += 1
    if not found.streams:
        found.require_any(data_dir)
    return found


def stems(image_ids: Collection[str]) -> dict[str, str]:
    """Image ids by their name without the ending of an image."""
    return {_split(image_id)[0]: image_id for image_id in image_ids}


def identify(name: str, by_stem: dict[str, str]) -> str | None:
    """The id of the image that a file of this name holds; "" if no row names it, None if it is no image.

    Names agree without the ending, so a release as JPEG or DICOM is found too. DICOM files often have no ending: then
    the name is the stem itself.
    """
    base = name.replace("\\", "/").rsplit("/", 1)[-1]  # some Windows programs write zips with backslashes
    if base.startswith("."):  # macOS leaves ._NAME.png beside NAME.png
        return None
    if base in by_stem:
        return by_stem[base]
    stem, ending = _split(base)
    return by_stem.get(stem, "") if ending else None


def _split(base: str) -> tuple[str, str]:
    """(stem, ending) of a name; the ending is "" when it is not one of an image: the UIDs of DICOM are full of dots."""
    stem, dot, ending = base.rpartition(".")
    return (stem, dot + ending) if (dot + ending).lower() in IMAGE_ENDINGS else (base, "")


def _walk(folder: epath.Path, below: str = ".") -> Iterator[tuple[str, str, Location | None]]:
    """Yield (container, file name, location) of every file, in sorted order; of a stream only the container."""
    remote = "://" in str(folder)
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        name = path.name if below == "." else f"{below}/{path.name}"
        if path.name.endswith(storage.PARTIAL):
            continue  # a download under way
        # An object store answers is_dir with a request: not one for each of 112,120 images.
        if not (remote and _split(path.name)[1]) and path.is_dir():
            if not remote and pathlib.Path(folder).resolve().is_relative_to(pathlib.Path(path).resolve()):
                continue  # a link to a folder above: it would be walked again and again
            yield from _walk(path, name)
        elif path.name.lower().endswith(archives.ENDINGS) and not path.name.startswith("."):
            kind = archives.kind_of(path)
            if kind not in MEMBERS:
                yield name, "", None
                continue
            for member, location in MEMBERS[kind](path):
                yield name, member, location
        else:
            yield below, path.name, Location(str(path))
