"""One spool, as a worker writes it: the resized images of one archive in one file, and its index beside it."""

import dataclasses
import hashlib
from typing import NamedTuple

from etils import epath

from cxr import storage
from cxr.images.decode import decode_grey
from cxr.images.encode import encode
from cxr.images.errors import ImageError
from cxr.images.resize import resize_square
from cxr.release import archives, sources
from cxr.release.locations import MAX_BYTES, Location, too_large

VERSION = 1  # format of spools and their indexes


class SpooledImage(NamedTuple):
    """One image of an archive."""

    offset: int  # in the spool
    size: int  # bytes in the spool; for an image over the size limit, which is not kept, its declared size
    digest: str  # SHA-256 of the original bytes


class SpoolIndex(NamedTuple):
    """The contents of a spool."""

    bytes: int
    sha256: str
    unlisted: int  # number of images without a row in the CSV
    images: dict[str, SpooledImage]  # by id


@dataclasses.dataclass(frozen=True)
class SpoolJob:
    """The picklable input of a worker that reads one archive."""

    archive: str
    container: str  # path of the archive, relative to the release
    path: str  # of the spool
    image_ids: list[str]  # images to keep
    image_ids_sha256: str
    image_size: int  # pixels, square

    @property
    def index_path(self) -> epath.Path:
        """The index of the spool: written last, and kept when the spool is deleted."""
        return epath.Path(self.path + ".json")

    def location(self, image: SpooledImage) -> Location:
        """The location of one image in the spool."""
        return Location(self.path, image.offset, image.size)

    def inputs(self) -> dict:
        """Everything that determines the spool, as far as it is known without reading the archive."""
        stat = epath.Path(self.archive).stat()
        archive = {"bytes": stat.length, "mtime": stat.mtime}
        sizes = {"version": VERSION, "image_size": self.image_size}
        return sizes | {"archive": archive, "image_ids": self.image_ids_sha256}


def write_spool(job: SpoolJob) -> str:
    """Read one archive from start to end and keep its listed images, resized; returns the path of the spool.

    Raises:
        ValueError: the archive is damaged, or has one image twice with different bytes.
        OSError: the disk is full, or the archive cannot be read.
    """
    inputs = job.inputs()
    by_stem = sources.stems(job.image_ids)
    images, names = {}, {}
    unlisted = size = 0
    spool_digest = hashlib.sha256()
    with storage.whole_file(job.path) as file:
        for name, declared, read in archives.stream_members(epath.Path(job.archive)):
            image_id = sources.identify(name, by_stem)
            unlisted += image_id == ""
            if not image_id:
                continue
            fits = declared <= MAX_BYTES
            data = read() if fits else too_large(declared).encode()
            digest = hashlib.sha256(data).hexdigest()
            if image_id in images:
                if images[image_id].digest != digest:
                    first, second = (f"{job.archive} ({member!r})" for member in (names[image_id], name))
                    raise sources.conflict_error(image_id, first, second)
                continue
            stored = _resized_png(data, job.image_size) if fits else b""
            file.write(stored)
            spool_digest.update(stored)
            images[image_id] = SpooledImage(size, len(stored) if fits else declared, digest)
            names[image_id] = name
            size += len(stored)
    index = SpoolIndex(size, spool_digest.hexdigest(), unlisted, images)
    storage.write_json(job.index_path, {"inputs": inputs, **index._asdict()})
    return job.path


def _resized_png(data: bytes, image_size: int) -> bytes:
    """The pixels of a record as PNG; bytes that cannot be decoded unchanged, so that the shard rejects them too."""
    try:
        pixels = resize_square(decode_grey(data), image_size)
    except ImageError:
        return data
    return encode(pixels, "png")


def read_spool_index(job: SpoolJob) -> SpoolIndex | None:
    """The index of an archive that was read before; None if the archive or the job has changed since."""
    try:
        value = storage.read_json(job.index_path) if job.index_path.exists() else {}
    except ValueError:  # a damaged index counts as absent
        return None
    if value.pop("inputs", None) != job.inputs():
        return None
    images = {image_id: SpooledImage(*fields) for image_id, fields in value.pop("images").items()}
    return SpoolIndex(images=images, **value)
