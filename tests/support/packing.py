"""Archives made for tests."""

import io
import tarfile


def targz_of(members: list[tuple[str, bytes | int]]) -> bytes:
    """The bytes of a compressed tar of (name, content) pairs; a number as content means so many zero bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in members:
            data = bytes(content) if isinstance(content, int) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
