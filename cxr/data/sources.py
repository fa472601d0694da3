"""Where the bytes of each image lie: in folders or in tar files, anywhere below the release."""

import tarfile
from collections.abc import Collection, Iterator
from typing import NamedTuple

from etils import epath

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")


class Location(NamedTuple):
    """The bytes of one file: all of `path`, or `size` bytes from `offset` of a container."""

    path: str
    offset: int = 0
    size: int | None = None


class Images(NamedTuple):
    """Every image found below a release."""

    locations: dict[str, Location]  # image id -> its bytes
    containers: list[str]  # folders and archives they lie in, relative to the release, sorted
    unlisted: int  # image files that no row of the CSV names


def read_bytes(location: Location) -> bytes:
    """The bytes of one image. OSError if the file is gone, ValueError if a container is shorter than it was."""
    with epath.Path(location.path).open("rb") as file:
        if location.size is None:
            return file.read()
        file.seek(location.offset)
        data = file.read(location.size)
    if len(data) != location.size:
        raise ValueError(f"{location.path} ends inside an image: it was cut or replaced while reading")
    return data


def find_images(data_dir: epath.Path, image_ids: Collection[str]) -> Images:
    """Look through every folder and tar below `data_dir` for the named images.

    A file belongs to an image when their names agree without the ending, so a re-upload as JPEG is found too.

    Raises:
        ValueError: no image file at all, a broken tar, or two files for one image whose bytes differ.
    """
    by_stem = {_stem(image_id): image_id for image_id in image_ids}
    locations, containers, unlisted, found = {}, set(), 0, 0
    for container, name, location in _walk(data_dir):
        found += 1
        image_id = by_stem.get(_stem(name))
        if image_id is None:
            unlisted += 1
            continue
        if image_id in locations and read_bytes(locations[image_id]) != read_bytes(location):
            raise ValueError(
                f"image {image_id} is there twice with different bytes: in {locations[image_id].path} and in "
                f"{location.path}. Move one of them away."
            )
        locations.setdefault(image_id, location)
        containers.add(container)
    if not found:
        raise ValueError(
            f"no image below {data_dir}; expected {', '.join(IMAGE_ENDINGS)} files in folders, or .tar files of them"
        )
    return Images(locations, sorted(containers), unlisted)


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _is_image(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(IMAGE_ENDINGS) and not base.startswith(".")  # macOS leaves ._NAME.png beside NAME.png


def _walk(folder: epath.Path, below: str = ".") -> Iterator[tuple[str, str, Location]]:
    """Yield (container, file name, location) of every image, in sorted order."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        name = path.name if below == "." else f"{below}/{path.name}"
        if path.is_dir():
            yield from _walk(path, name)
        elif path.name.endswith(".tar"):
            for member, location in _tar_members(path):
                yield name, member, location
        elif _is_image(path.name):
            yield below, path.name, Location(str(path))


def _tar_members(path: epath.Path) -> Iterator[tuple[str, Location]]:
    """Read the headers of a tar once; images are later read in place. Links, devices and folders are passed over."""
    size = path.stat().length
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not (member.isreg() and _is_image(member.name)) or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise ValueError(f"{path} is cut off inside {member.name}; download it again")
                yield member.name, Location(str(path), member.offset_data, member.size)
            file.seek(archive.offset)  # tarfile takes a damaged header for the end; the end is a block of zeros
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"damaged or cut off at byte {archive.offset:,}")
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not a readable tar file: {error}. Download it again.") from error
