"""A finished dataset: its folder and its dataset.json, which exists only when the dataset is complete."""

from typing import NamedTuple

from etils import epath

from cxr import storage
from cxr.findings import require_same_findings
from cxr.records.shards import FORMAT_VERSION
from cxr.records.splits import SPLITS

FILE = "dataset.json"
REQUIRED_KEYS = ("kind", "split", "source", "missing", "rejected", "groups", "splits", "fingerprint")


class Dataset(NamedTuple):
    """The shards in a folder and their description in dataset.json."""

    folder: epath.Path
    info: dict  # dataset.json

    def paths(self, split: str) -> list[str]:
        """The shards of one split, in dataset order."""
        return [str(self.folder / shard["file"]) for shard in self.info["splits"][split]["shards"]]

    def num_images(self, split: str) -> int:
        """The number of images in a split."""
        return self.info["splits"][split]["images"]


def open_dataset(data_dir: epath.PathLike) -> Dataset:
    """Read dataset.json and check that every shard exists and has its recorded size.

    Raises:
        FileNotFoundError: not a built dataset.
        ValueError: another format or other findings, or a shard that is absent or has another size.
    """
    dataset = Dataset(epath.Path(data_dir), read_info(epath.Path(data_dir)))
    for split in SPLITS:
        for shard in dataset.info["splits"][split]["shards"]:
            _require_size(dataset.folder / shard["file"], shard["bytes"])
    return dataset


def read_info(data_dir: epath.Path) -> dict:
    """Read dataset.json and check its format and findings, without looking at the shards.

    Raises:
        FileNotFoundError: not a built dataset.
        ValueError: another format or other findings, or a missing key.
    """
    path = data_dir / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{data_dir} is not a built dataset (no {FILE}). "
            f"Run: python build_dataset.py --data_dir RELEASE --output_dir {data_dir}"
        )
    info = storage.read_json(path)
    remedy = f"Delete {data_dir} and run build_dataset.py again."
    if info.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path} has format {info.get('format_version')}, this code reads {FORMAT_VERSION}. {remedy}")
    require_same_findings(info.get("findings", []), str(path))
    absent = [key for key in REQUIRED_KEYS if key not in info]
    if absent:
        raise ValueError(f"{path} has no {', '.join(absent)}. {remedy}")
    return info


def _require_size(path: epath.Path, size: int) -> None:
    found = path.stat().length if path.exists() else None
    if found != size:
        state = "is absent" if found is None else f"has {found:,} bytes"
        raise ValueError(
            f"shard {path} {state}, expected {size:,}. "
            "Run the same build_dataset.py command again: it rewrites only this shard."
        )
