"""Download the NIH ChestX-ray14 release: resumable, checked, and only if it fits on the disk.

    python -m tools.download --output_dir data/nih

Fetches NIH's CSV, boxes, lists and twelve parts (45 GB) into one folder, which build_dataset.py reads as it is: nothing
is unpacked. `--parts 1` takes one part (2 GB, 4,999 images) to begin with. Stop it at any moment: the same command
resumes the download. SHA256SUMS in the folder lists every checked file.

`--source kaggle` takes the images as one zip from Kaggle (45 GB), `--source kaggle224` at 224 px (2.5 GB), both with
Kaggle's own client (pip install -r requirements/download.txt). `--links FILE` replaces the list in
tools/downloading/nih_links.csv, for a mirror. Its columns are name,bytes,checksum,url; bytes and checksum may be empty.
"""

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from cxr import storage
from cxr.errors import one_line_errors
from tools.downloading.links import NIH, SUMS, Link, MismatchError, check, read_links, read_sums, write_sums
from tools.downloading.partial import Partial
from tools.downloading.transfer import RESUME_HINT, RetryPolicy, fetch

HOME = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
PART = re.compile(r"images_(\d+)\.")
KAGGLE = {  # source: (dataset, approximate bytes)
    "kaggle": ("nih-chest-xrays/data", 45_100_000_000),
    "kaggle224": ("khanfashee/nih-chest-x-ray-14-224x224-resized", 2_500_000_000),
}


def part_of(link: Link) -> int | None:
    """The number of a part, 1 for images_001.tar.gz; None for other files."""
    match = PART.match(link.name)
    return int(match[1]) if match else None


def choose(links: list[Link], parts: list[int] | None, source: str) -> list[Link]:
    """The files to download: with `parts` only these parts and the small files; from Kaggle only the small files.

    Raises:
        ValueError: a part is not in the list.
    """
    if source != "nih":
        parts = []
    elif parts is None:
        return links
    known = {part_of(link) for link in links} - {None}
    if unknown := sorted(set(parts) - known):
        raise ValueError(f"--parts {unknown[0]}: no such part; the list has {', '.join(map(str, sorted(known)))}")
    return [link for link in links if part_of(link) in {None, *parts}]


def check_present(links: list[Link], folder: Path) -> list[Link]:
    """Check the files in the folder, once each, and record them in SHA256SUMS; returns the files still to download.

    Raises:
        FileExistsError: a file of that name is not the listed one; it is not changed.
    """
    missing, sums = [], read_sums(folder)
    for link in links:
        path = folder / link.name
        if not path.exists():
            missing.append(link)
            continue
        try:
            if link.name not in sums or path.stat().st_size != (link.bytes or path.stat().st_size):
                sums[link.name] = check(path, link)
        except MismatchError as error:
            raise FileExistsError(
                f"{path} is not the listed file: {error}. Move it away, or give --links a list without it"
            ) from error
        Partial(path).discard()
        write_sums(folder, sums)
    return missing


def check_space(missing: list[Link], folder: Path, more: int = 0) -> str:
    """A line with the space that is needed and the free space; OSError if the download does not fit."""
    needed = more + sum((link.bytes or 0) - min(Partial(folder / link.name).bytes, link.bytes or 0) for link in missing)
    free = shutil.disk_usage(folder).free
    unknown = sum(link.bytes is None for link in missing)
    also = f" and {unknown} files of unknown size" if unknown else ""
    line = f"to download: {gigabytes(needed)}{also}; free in {folder}: {gigabytes(free)}"
    if needed > free:
        raise OSError(f"{line}. Make room, take fewer --parts, or give another --output_dir")
    return line


def gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size:,} bytes"


def download(links: list[Link], folder: Path, *, retry: RetryPolicy) -> None:
    """Download files one after the other, with one progress bar, and record their checksums."""
    from tqdm import tqdm

    sizes = [link.bytes for link in links]
    before = [Partial(folder / link.name).bytes for link in links]
    total = None if None in sizes else sum(sizes)
    with tqdm(total=total, initial=sum(before), unit="B", unit_scale=True, mininterval=0.5) as bar:
        for link, present in zip(links, before, strict=True):
            base = bar.n - present
            bar.set_description(link.name)
            sums = read_sums(folder)
            sums[link.name] = fetch(
                link,
                folder,
                sha256=sums.get(link.name, ""),
                retry=retry,
                progress=lambda present, base=base: bar.update(base + present - bar.n),
                log=tqdm.write,
            )
            write_sums(folder, sums)


class Kaggle:
    """A dataset of Kaggle as one zip, downloaded by Kaggle's own client, which can resume."""

    def __init__(self, source: str, folder: Path):
        self.dataset, self.size = KAGGLE[source]
        self.zip = folder / (self.dataset.split("/")[1] + ".zip")
        self.partial = folder / f"{source}{storage.PARTIAL}"  # a folder, because the client writes to the final name

    @property
    def missing_bytes(self) -> int:
        present = sum(path.stat().st_size for path in self.partial.glob("*.zip"))
        return 0 if self.zip.exists() else max(0, self.size - present)

    def download(self) -> None:
        """Raises ImportError without the client, OSError if the client fails or its zip is incomplete."""
        if self.zip.exists():
            return
        program = shutil.which("kaggle", path=Path(sys.executable).parent) or shutil.which("kaggle")
        if program is None:
            raise ImportError("--source kaggle needs Kaggle's client. Run: pip install -r requirements/download.txt")
        command = [program, "datasets", "download", self.dataset, "--path", str(self.partial)]
        if subprocess.run(command, check=False).returncode:
            raise OSError(
                "Kaggle's client failed, see above. Run the same command again to resume; if it asks for an account, "
                "run: kaggle auth login"
            )
        try:
            zipfile.ZipFile(self.partial / self.zip.name).close()
        except (zipfile.BadZipFile, FileNotFoundError) as error:
            raise OSError(
                f"Kaggle's client left an incomplete zip ({error}). Delete {self.partial}, run again"
            ) from error
        (self.partial / self.zip.name).replace(self.zip)
        shutil.rmtree(self.partial)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the release, e.g. data/nih")
    parser.add_argument(
        "--parts", type=int, nargs="+", metavar="N", help="parts of NIH's twelve, e.g. 1 2 (default: all)"
    )
    parser.add_argument("--source", choices=("nih", *KAGGLE), default="nih", help="default: %(default)s")
    parser.add_argument("--links", type=Path, default=NIH, metavar="FILE", help="list of links (default: NIH's)")
    args = parser.parse_args(argv)
    if args.parts and args.source != "nih":
        parser.error("--parts are NIH's; Kaggle has one zip")
    return args


def complete(folder: Path, links: list[Link], *, source: str, retry: RetryPolicy) -> None:
    """Download every listed file that is not in the folder, and Kaggle's zip if that is the source."""
    kaggle = Kaggle(source, folder) if source in KAGGLE else None
    missing = check_present(links, folder)
    print(check_space(missing, folder, kaggle.missing_bytes if kaggle else 0), flush=True)
    if kaggle:
        kaggle.download()
    download(missing, folder, retry=retry)


def main(argv: list[str] | None = None, *, retry: RetryPolicy = RetryPolicy()) -> None:  # noqa: B008 -- immutable
    """Download a release, or resume its download."""
    args = parse_args(argv)
    with one_line_errors():
        links = choose(read_links(args.links), args.parts, args.source)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        try:
            with storage.exclusive(args.output_dir, "downloading into"):
                complete(args.output_dir, links, source=args.source, retry=retry)
        except KeyboardInterrupt:
            raise SystemExit(f"error: interrupted; {RESUME_HINT}") from None
        allow_missing = " --allow_missing" if args.parts else ""
        print(f"{args.output_dir}: all {len(links)} listed files are complete, see {SUMS}. NIH's page: {HOME}")
        print(f"next: python build_dataset.py --data_dir {args.output_dir} --output_dir data/records{allow_missing}")


if __name__ == "__main__":
    main()
