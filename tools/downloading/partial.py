"""A file during its download."""

from pathlib import Path

from cxr import storage


class Partial:
    """The downloaded part of a file, NAME.partial, and NAME.partial.tag, which identifies the version on the server."""

    def __init__(self, target: Path):
        self.target = target
        self.path = target.with_name(target.name + storage.PARTIAL)
        self.tag_path = self.path.with_name(self.path.name + ".tag")

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def tag(self) -> str:
        return self.tag_path.read_text() if self.tag_path.exists() else ""

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.tag_path.unlink(missing_ok=True)

    def finish(self) -> None:
        self.path.replace(self.target)
        self.tag_path.unlink(missing_ok=True)
