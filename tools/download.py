"""Download the NIH ChestX-ray14 release: resumed, checked, and only if it fits on the disk.

    python -m tools.download --output_dir data/nih

Fetches NIH's CSV, boxes, lists and twelve parts (45 GB) into one folder, which build_dataset.py reads as it is: nothing
is unpacked. `--parts 1` takes one part (2 GB, 4,999 images) to begin with. Stop it at any moment: the same command goes
on where it stopped. SHA256SUMS in the folder names every file that was checked.

`--source kaggle` takes the images as one zip from Kaggle (45 GB), `--source kaggle224` at 224 px (2.5 GB), both through
Kaggle's own client (pip install -r requirements/download.txt). `--links FILE` reads another list in place of
tools/downloading/nih_links.csv, for a mirror: the columns are name,bytes,checksum,url, of which bytes and checksum may
be empty.
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
from tools.downloading.links import NIH, SUMS, Link, Spoiled, check, read_links, read_sums, write_sums
from tools.downloading.transfer import AGAIN, Partial, Patience, fetch

HOME = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
PART = re.compile(r"images_(\d+)\.")
KAGGLE = {  # source: dataset and its bytes, about
    "kaggle": ("nih-chest-xrays/data", 45_100_000_000),
    "kaggle224": ("khanfashee/nih-chest-x-ray-14-224x224-resized", 2_500_000_000),
}


def part_of(link: Link) -> int | None:
    """Number of a part, 1 for images_001.tar.gz; None for other files."""
    match = PART.match(link.name)
    return int(match[1]) if match else None


def choose(links: list[Link], parts: list[int] | None, source: str) -> list[Link]:
    """The files to have: all, those parts beside the files that are no part, or these alone where Kaggle has the rest.

    Raises:
        ValueError: a part that the list does not have.
    """
    if source != "nih":
        parts = []
    elif parts is None:
        return links
    known = {part_of(link) for link in links} - {None}
    if unknown := sorted(set(parts) - known):
        raise ValueError(f"--parts {unknown[0]}: no such part; the list has {', '.join(map(str, sorted(known)))}")
    return [link for link in links if part_of(link) in {None, *parts}]


def sort_out(links: list[Link], folder: Path) -> list[Link]:
    """The files still to fetch. Those here are checked once, then SHA256SUMS vouches for them.

    Raises:
        FileExistsError: a file of that name is not the one listed; it is left alone.
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
        except Spoiled as error:
            raise FileExistsError(
                f"{path} is not the file listed: {error}. Move it away, or give --links a list without it"
            ) from error
        Partial(path).discard()
        write_sums(folder, sums)
    return missing


def check_space(missing: list[Link], folder: Path, more: int = 0) -> str:
    """A line that says what is to come and what is free; OSError where it does not fit."""
    needed = more + sum((link.bytes or 0) - min(Partial(folder / link.name).bytes, link.bytes or 0) for link in missing)
    free = shutil.disk_usage(folder).free
    unknown = sum(link.bytes is None for link in missing)
    also = f" and {unknown} files of unknown size" if unknown else ""
    line = f"to fetch: {gigabytes(needed)}{also}; free in {folder}: {gigabytes(free)}"
    if needed > free:
        raise OSError(f"{line}. Make room, take fewer --parts, or give another --output_dir")
    return line


def gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size:,} bytes"


def download(links: list[Link], folder: Path, *, patience: Patience) -> None:
    """Fetch files one after the other under one progress bar, writing down each checksum."""
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
                patience=patience,
                progress=lambda present, base=base: bar.update(base + present - bar.n),
                tell=tqdm.write,
            )
            write_sums(folder, sums)


class Kaggle:
    """A dataset of Kaggle as one zip, fetched by Kaggle's own client, which resumes by itself."""

    def __init__(self, source: str, folder: Path):
        self.dataset, self.size = KAGGLE[source]
        self.zip = folder / (self.dataset.split("/")[1] + ".zip")
        self.partial = folder / f"{source}{storage.PARTIAL}"  # a folder: the client writes under the final name

    @property
    def missing_bytes(self) -> int:
        present = sum(path.stat().st_size for path in self.partial.glob("*.zip"))
        return 0 if self.zip.exists() else max(0, self.size - present)

    def download(self) -> None:
        """Raises ImportError without the client, OSError when it gives up or leaves no zip."""
        if self.zip.exists():
            return
        program = shutil.which("kaggle", path=Path(sys.executable).parent) or shutil.which("kaggle")
        if program is None:
            raise ImportError("--source kaggle needs Kaggle's client. Run: pip install -r requirements/download.txt")
        command = [program, "datasets", "download", self.dataset, "--path", str(self.partial)]
        if subprocess.run(command, check=False).returncode:
            raise OSError(
                "Kaggle's client gave up, see above. Run the same command again to go on where it stopped; if it asks "
                "for an account, run: kaggle auth login"
            )
        try:
            zipfile.ZipFile(self.partial / self.zip.name).close()
        except (zipfile.BadZipFile, FileNotFoundError) as error:
            raise OSError(f"Kaggle's client left no whole zip ({error}). Delete {self.partial}, run again") from error
        (self.partial / self.zip.name).replace(self.zip)
        shutil.rmtree(self.partial)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the release, e.g. data/nih")
    parser.add_argument("--parts", type=int, nargs="+", metavar="N", help="of NIH's twelve, e.g. 1 2 (default: all)")
    parser.add_argument("--source", choices=("nih", *KAGGLE), default="nih", help="default: %(default)s")
    parser.add_argument("--links", type=Path, default=NIH, metavar="FILE", help="default: NIH's")
    args = parser.parse_args(argv)
    if args.parts and args.source != "nih":
        parser.error("--parts are NIH's; Kaggle has one zip")
    return args


def bring(args: argparse.Namespace, links: list[Link], patience: Patience) -> None:
    """Leave every listed file, and Kaggle's zip if asked for, whole in the folder."""
    folder = args.output_dir
    kaggle = Kaggle(args.source, folder) if args.source in KAGGLE else None
    missing = sort_out(links, folder)
    print(check_space(missing, folder, kaggle.missing_bytes if kaggle else 0), flush=True)
    if kaggle:
        kaggle.download()
    download(missing, folder, patience=patience)


def main(argv: list[str] | None = None, *, patience: Patience = Patience()) -> None:  # noqa: B008 -- cannot be changed
    """Download, or go on downloading, one release."""
    args = parse_args(argv)
    with one_line_errors():
        links = choose(read_links(args.links), args.parts, args.source)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        try:
            with storage.exclusive(args.output_dir, "downloading into"):
                bring(args, links, patience)
        except KeyboardInterrupt:
            raise SystemExit(f"error: interrupted; {AGAIN}") from None
        some = " --allow_missing" if args.parts else ""
        print(f"{args.output_dir}: all {len(links)} listed files are whole, see {SUMS}. NIH's page: {HOME}")
        print(f"next: python build_dataset.py --data_dir {args.output_dir} --output_dir data/records{some}")


if __name__ == "__main__":
    main()
