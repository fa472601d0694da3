"""Archives without random access (.tar.gz): each is read once, from start to end, into a spool of resized images.

A dataset stores its images in a random order, but a compressed tar can only be read in its own order. So every image is
decoded, resized and kept without loss until the shards are written; an image that cannot be decoded is kept as it is.
A shard made from a spool has the same bytes as one made from the original images.
"""

import hashlib
from collections.abc import Collection, Iterable

from etils import epath
from tqdm import tqdm

from cxr import storage
from cxr.engines import mapping
from cxr.engines.engine import Engine
from cxr.release import sources
from cxr.release.locations import Location
from cxr.release.spool_file import SpoolIndex, SpoolJob, read_spool_index, write_spool


class Spools:
    """The spools of all archives of a release that can only be read from start to end."""

    def __init__(
        self,
        found: sources.Images,
        data_dir: epath.Path,
        folder: epath.Path,
        *,
        image_ids: Collection[str],
        image_size: int,
    ) -> None:
        """Plan a spool in `folder` for each archive in `found.streams`, and remove leftovers of a killed build.

        Args:
            found: the images of the release; `read` adds those of the archives.
            image_ids: the images to keep.
            image_size: pixels per side to which they are resized.
        """
        self.found, self.folder = found, folder
        storage.remove_partials(folder)
        image_ids = sorted(image_ids)
        digest = hashlib.sha256("\n".join(image_ids).encode()).hexdigest()
        self.jobs: list[SpoolJob] = []
        for container in found.streams:
            archive = data_dir / container
            name = f"{hashlib.sha256(container.encode()).hexdigest()[:12]}-{archive.name}.spool"
            self.jobs.append(SpoolJob(str(archive), container, str(folder / name), image_ids, digest, image_size))

    def unread(self) -> list[SpoolJob]:
        """The archives that were never read or have changed since."""
        return [job for job in self.jobs if read_spool_index(job) is None]

    def read(self, engine: Engine) -> None:
        """Read the unread archives, and add the images of all archives to those of the release.

        Raises:
            ValueError: an image is in two places with different bytes.
        """
        self._read_archives(self.unread(), engine)
        for job in self.jobs:
            index = _require_index(job)
            self.found.unlisted += index.unlisted
            for image_id, image in index.images.items():
                self.found.add(image_id, job.location(image), job.container, job.archive, image.digest)

    def renew(self, locations: Iterable[Location], engine: Engine) -> dict[str, Location]:
        """Write missing or damaged spools that these locations need again; returns new locations by image id."""
        needed = {location.path for location in locations}
        jobs = [job for job in self.jobs if job.path in needed and not _is_whole(job)]
        self._read_archives(jobs, engine)
        return {image_id: job.location(image) for job in jobs for image_id, image in _require_index(job).images.items()}

    def close(self) -> None:
        """Delete the spools, and the indexes of archives that are no longer in the release."""
        indexes = {job.index_path.name for job in self.jobs}
        for path in list(self.folder.iterdir()) if self.folder.exists() else ():
            if path.name not in indexes:
                path.unlink()

    def _read_archives(self, jobs: list[SpoolJob], engine: Engine) -> None:
        """Read archives on an engine, one job each, with a progress bar."""
        if not jobs:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        sizes = {job.path: job.inputs()["archive"]["bytes"] for job in jobs}
        try:
            with tqdm(total=sum(sizes.values()), desc="reading archives", unit="B", unit_scale=True) as bar:
                for path in mapping.run(write_spool, jobs, engine):
                    bar.update(sizes[path])
        finally:
            storage.remove_partials(self.folder)  # of the other workers after an error: a full disk needs the space


def _require_index(job: SpoolJob) -> SpoolIndex:
    index = read_spool_index(job)
    if index is None:
        raise ValueError(f"{job.archive} changed while it was read. Run the same command again.")
    return index


def _is_whole(job: SpoolJob) -> bool:
    path, index = epath.Path(job.path), _require_index(job)
    return path.exists() and path.stat().length == index.bytes and storage.sha256_of(path) == index.sha256
