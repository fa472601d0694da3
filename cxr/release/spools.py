"""Archives without random access (.tar.gz): each is read once, from start to end, into a spool of resized images.

The records of a dataset are in one permutation over all images, and of a compressed tar only the next member is at
hand. So every image is decoded and resized as it comes and kept without loss until the shards are written; what cannot
be decoded is kept as it is. A shard made from a spool has the bytes of one made from the images themselves.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable
from typing import NamedTuple

from etils import epath
from tqdm import tqdm

from cxr import storage
from cxr.engines import mapping
from cxr.engines.engine import Engine
from cxr.images.decode import decode_grey
from cxr.images.encode import encode
from cxr.images.errors import ImageError
from cxr.images.resize import resize_square
from cxr.release import archives, sources
from cxr.release.locations import MAX_BYTES, Location, too_large

VERSION = 1  # of what a spool holds


class Kept(NamedTuple):
    """One image of an archive."""

    offset: int  # in the spool
    size: int  # bytes in the spool; of an image that is too large to be kept, those it declares
    digest: str  # SHA-256 of the bytes it came in


class Spool(NamedTuple):
    """What an archive held, by its index."""

    bytes: int
    sha256: str
    unlisted: int  # images that no row of the CSV names
    images: dict[str, Kept]  # by id


@dataclasses.dataclass(frozen=True)
class SpoolJob:
    """What a worker needs to read one archive; picklable."""

    archive: str
    container: str  # the archive's path below the release
    path: str  # of the spool
    image_ids: list[str]  # that are wanted
    wanted: str  # SHA-256 of these
    image_size: int  # pixels, square

    @property
    def index(self) -> epath.Path:
        """The file that says what the spool holds; written last, and kept when the spool is deleted."""
        return epath.Path(self.path + ".json")

    def asked(self) -> dict:
        """Everything that decides what the spool holds, as far as it can be told without reading the archive."""
        stat = epath.Path(self.archive).stat()
        archive = {"bytes": stat.length, "mtime": stat.mtime}
        return {"version": VERSION, "archive": archive, "image_size": self.image_size, "image_ids": self.wanted}


def write_spool(job: SpoolJob) -> str:
    """Read one archive from start to end and keep its wanted images, resized; returns the path of the spool.

    Raises:
        ValueError: the archive is damaged, or has one image twice with different bytes.
        OSError: the disk is full, or the archive cannot be read.
    """
    asked, by_stem = job.asked(), sources.stems(job.image_ids)
    kept, names, unlisted, size, whole = {}, {}, 0, 0, hashlib.sha256()
    with storage.whole_file(job.path) as file:
        for name, declared, read in archives.stream_members(epath.Path(job.archive)):
            image_id = sources.identify(name, by_stem)
            unlisted += image_id == ""
            if not image_id:
                continue
            fits = declared <= MAX_BYTES
            data = read() if fits else too_large(declared).encode()
            digest = hashlib.sha256(data).hexdigest()
            if image_id in kept:
                if kept[image_id].digest != digest:
                    raise sources.twice(image_id, f"{job.archive} ({names[image_id]!r})", f"{job.archive} ({name!r})")
                continue
            small = _small(data, job.image_size) if fits else b""
            file.write(small)
            whole.update(small)
            kept[image_id], names[image_id] = Kept(size, len(small) if fits else declared, digest), name
            size += len(small)
    spool = Spool(size, whole.hexdigest(), unlisted, kept)
    storage.write_json(job.index, {"asked": asked, **spool._asdict()})
    return job.path


def _small(data: bytes, image_size: int) -> bytes:
    """An image as it will be in a record, as PNG; or as it came, so that the shard rejects it for the same reason."""
    try:
        pixels = resize_square(decode_grey(data), image_size)
    except ImageError:
        return data
    return encode(pixels, "png")


def read_index(job: SpoolJob) -> Spool | None:
    """What the archive held when it was last read; None if it or what is wanted of it has changed since."""
    try:
        value = storage.read_json(job.index) if job.index.exists() else {}
    except ValueError:  # damaged: as if it were not there
        return None
    if value.pop("asked", None) != job.asked():
        return None
    return Spool(**{**value, "images": {image_id: Kept(*kept) for image_id, kept in value["images"].items()}})


class Spools:
    """The archives of a release that can only be read from start to end: opened, read, used, and closed."""

    def __init__(
        self,
        found: sources.Images,
        data_dir: epath.Path,
        folder: epath.Path,
        *,
        image_ids: Collection[str],
        image_size: int,
    ) -> None:
        """Plan a spool in `folder` for each archive in `found.streams`; leftovers of a killed build are removed.

        Args:
            found: the images of the release; `read` adds those of the archives.
            image_ids: wanted images. image_size: pixels a side that they are resized to.
        """
        self.found, self.folder = found, folder
        for leftover in folder.glob("*" + storage.PARTIAL) if folder.exists() else ():
            leftover.unlink()
        wanted = sorted(image_ids)
        digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
        self.jobs: list[SpoolJob] = []
        for container in found.streams:
            archive = data_dir / container
            name = f"{hashlib.sha256(container.encode()).hexdigest()[:12]}-{archive.name}.spool"
            self.jobs.append(SpoolJob(str(archive), container, str(folder / name), wanted, digest, image_size))

    def unread(self) -> list[SpoolJob]:
        """The archives that were never read, or changed since."""
        return [job for job in self.jobs if read_index(job) is None]

    def read(self, engine: Engine) -> None:
        """Read the unread archives, and add the images of all archives to those of the release.

        Raises:
            ValueError: an image is elsewhere too, with other bytes.
        """
        _read_archives(self.unread(), engine)
        for job in self.jobs:
            spool = _index(job)
            self.found.unlisted += spool.unlisted
            for image_id, kept in spool.images.items():
                self.found.add(image_id, _location(job, kept), job.container, job.archive, kept.digest)

    def renew(self, locations: Iterable[Location], engine: Engine) -> dict[str, Location]:
        """Read again the archives whose spools these locations need and which are gone: new locations by image id."""
        used = {location.path for location in locations}
        gone = [job for job in self.jobs if job.path in used and not _is_whole(job)]
        _read_archives(gone, engine)
        return {image_id: _location(job, kept) for job in gone for image_id, kept in _index(job).images.items()}

    def close(self) -> None:
        """Delete the spools, and the indexes of archives that are no longer in the release."""
        indexes = {job.index.name for job in self.jobs}
        for path in list(self.folder.iterdir()) if self.folder.exists() else ():
            if path.name not in indexes:
                path.unlink()


def _read_archives(jobs: list[SpoolJob], engine: Engine) -> None:
    """Read archives on an engine, one job each, under a progress bar."""
    if not jobs:
        return
    epath.Path(jobs[0].path).parent.mkdir(parents=True, exist_ok=True)
    sizes = {job.path: job.asked()["archive"]["bytes"] for job in jobs}
    with tqdm(total=sum(sizes.values()), desc="reading archives", unit="B", unit_scale=True) as bar:
        for path in mapping.run(write_spool, jobs, engine):
            bar.update(sizes[path])


def _index(job: SpoolJob) -> Spool:
    spool = read_index(job)
    if spool is None:
        raise ValueError(f"{job.archive} changed while it was read. Run the same command again.")
    return spool


def _location(job: SpoolJob, kept: Kept) -> Location:
    return Location(job.path, kept.offset, kept.size)


def _is_whole(job: SpoolJob) -> bool:
    path, spool = epath.Path(job.path), _index(job)
    return path.exists() and path.stat().length == spool.bytes and storage.sha256_of(path) == spool.sha256
