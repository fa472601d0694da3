"""Find image files: the ones that a user names, and those in folders."""

import pathlib
import re

from cxr.release.sources import IMAGE_ENDINGS

ENDINGS = (*IMAGE_ENDINGS, "")  # DICOM files often have no ending
UID = re.compile(r"[0-9]+(\.[0-9]+)+")  # PACS and viewers name DICOM files by their UID


def find_files(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """List named files and, from folders, the files that are named like images; each once, folders sorted.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no file that is named like an image.
    """
    files = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        if not path.is_dir():
            files.append(path)
            continue
        below = sorted(file for file in path.rglob("*") if looks_like_image(file.name) and file.is_file())
        if not below:
            raise FileNotFoundError(f"no PNG, JPEG, WebP or DICOM file below {path}")
        files += below
    return list(dict.fromkeys(files))


def looks_like_image(name: str) -> bool:
    """Whether a file name has the ending of an image, no ending, or is a DICOM UID, whose dots start no ending."""
    ending = "" if UID.fullmatch(name) else pathlib.PurePath(name).suffix.lower()
    return ending in ENDINGS and not name.startswith(".")
