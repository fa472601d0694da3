"""Find the images of a release, in any mix of folders, tars, compressed tars and zips."""

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

    locations: dict[str, Location] = dataclasses.field(default_factory=dict)  # by image id
    containers: set[str] = dataclasses.field(default_factory=set)  # folders and archives, relative to the release
    unlisted: int = 0  # number of image files without a row in the CSV
    streams: list[str] = dataclasses.field(default_factory=list)  # archives without random access, relative too
    digests: dict[str, str] = dataclasses.field(default_factory=dict)  # SHA-256 of originals stored resized
    _places: dict[str, str] = dataclasses.field(default_factory=dict)  # by image id, for error texts

    def digest(self, image_id: str) -> str:
        """SHA-256 of the original bytes of an image."""
        return self.digests.get(image_id) or digest_of(self.locations[image_id])

    def add(self, image_id: str, location: Location, container: str, place: str, digest: str | None = None) -> None:
        """Add the location of an image; of several equal files the first is used.

        Args:
            container: folder or archive, relative to the release.
            place: name of the location in error texts.
            digest: SHA-256 of the original bytes, if the location has the resized image.

        Raises:
            ValueError: the image was added before with different bytes.
        """
        if image_id not in self.locations:
            self.locations[image_id], self._places[image_id] = location, place
            if digest:
                self.digests[image_id] = digest
        elif self.digest(image_id) != (digest or digest_of(location)):
            raise conflict_error(image_id, self._places[image_id], place)
        self.containers.add(container)

    def require_any(self, data_dir: epath.Path) -> None:
        """Raise ValueError if there is no image at all, listed or not."""
        if not (self.locations or self.unlisted):
            raise ValueError(
                f"no image below {data_dir}; expected {', '.join(IMAGE_ENDINGS)} files in folders, or in archives "
                f"({', '.join(archives.ENDINGS)})"
            )


def conflict_error(image_id: str, first: str, second: str) -> ValueError:
    """The error for an image that is in two places with different bytes."""
    return ValueError(
        f"image {image_id} appears twice with different bytes: in {first} and in {second}. Move one of them away."
    )


def find_images(data_dir: epath.Path, image_ids: Collection[str]) -> Images:
    """Search every folder, tar and zip below `data_dir` for the given images.

    Archives without random access are added to `streams` and not read here; see `spools.Spools`.

    Raises:
        ValueError: no image file at all, a damaged archive, or two files with different bytes for one image.
    """
    by_stem = stems(image_ids)
    found = Images()
    for container, name, location in _walk(data_dir):
        if location is None:
            found.streams.append(container)
            continue
        image_id = identify(name, by_stem)
        if image_id:
            is_member = location.size is not None
            place = f"{location.path} ({name!r})" if is_member else location.path
            found.add(image_id, location, container, place)
        elif image_id is not None:
            found.unlisted += 1
    if not found.streams:
        found.require_any(data_dir)
    return found


def stems(image_ids: Collection[str]) -> dict[str, str]:
    """Image ids by their name without the file ending."""
    return {_stem_and_ending(image_id)[0]: image_id for image_id in image_ids}


def identify(name: str, by_stem: dict[str, str]) -> str | None:
    """The image id for a file name; "" for an image file without a row, None for a file that is not an image.

    Names are compared without their endings, so a copy of the release as JPEG or DICOM is found too. DICOM files often
    have no ending: then the whole name is the stem.
    """
    base = name.replace("\\", "/").rsplit("/", 1)[-1]  # some Windows programs write backslashes into zips
    if base.startswith("."):  # macOS writes ._NAME.png beside NAME.png
        return None
    if base in by_stem:
        return by_stem[base]
    stem, ending = _stem_and_ending(base)
    return by_stem.get(stem, "") if ending else None


def _stem_and_ending(base: str) -> tuple[str, str]:
    """(stem, ending) of a name; the ending is "" if it is not an image ending, as in DICOM UIDs, which have dots."""
    stem, dot, ending = base.rpartition(".")
    return (stem, dot + ending) if (dot + ending).lower() in IMAGE_ENDINGS else (base, "")


def _walk(folder: epath.Path, below: str = ".") -> Iterator[tuple[str, str, Location | None]]:
    """Yield (container, file name, location) of every file, sorted; (container, "", None) for a stream."""
    remote = "://" in str(folder)
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        name = path.name if below == "." else f"{below}/{path.name}"
        if path.name.endswith(storage.PARTIAL):
            continue  # an unfinished download
        # On an object store is_dir costs a request, too slow for 112,120 images.
        if not (remote and _stem_and_ending(path.name)[1]) and path.is_dir():
            if not remote and pathlib.Path(folder).resolve().is_relative_to(pathlib.Path(path).resolve()):
                continue  # a link to a parent folder would be walked forever
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
