"""From images to a test table through a frozen ResNet50V2, ten epochs: minutes, and what the whole release would take.

    python -m bench.release --data_dir ../shared/nih-128 --images 20000

Copies a release's images under new ids until there are enough, and runs build_dataset.py, train.py and evaluate.py on
them at 224 px. The network has random weights, which cost the same time as any.
"""

import argparse
import dataclasses
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time

from etils import epath

from cxr import storage
from cxr.findings import FINDINGS
from cxr.release import entries, locations, release, sources

WHOLE = 112_120  # images of ChestX-ray14
COLUMNS = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position\n"
SETTINGS = {
    "model": "feature_extractor",
    "extractors": [{"source": "keras", "name": "ResNet50V2", "weights": None}],
    "batch_size": 1024,
    "early_stopping_patience": 10,
}


@dataclasses.dataclass
class Step:
    """One command and the seconds it took."""

    script: str
    flags: list[str]
    seconds: float = 0.0

    def run(self) -> None:
        """Run it; a failure ends the benchmark with what it said."""
        start = time.perf_counter()
        ended = subprocess.run([sys.executable, self.script, *self.flags], capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"{self.script} {' '.join(self.flags)}:\n{ended.stderr[-2000:]}")
        self.seconds = time.perf_counter() - start


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=epath.Path, default="../shared/nih-128", help="a release")
    parser.add_argument("--images", type=int, default=20_000, help="default: %(default)s")
    choices = ("float32", "bfloat16", "int8")
    parser.add_argument("--precision", choices=choices, default="bfloat16", help="default: %(default)s")
    return parser.parse_args(argv)


def write_release(source: epath.Path, target: pathlib.Path, count: int) -> None:
    """A release of `count` images: those of `source`, copied under the ids of new patients as often as it takes."""
    rows = entries.read_entries(release.find_entry_csv(source)).rows
    found = sources.find_images(source, {row.image_id for row in rows}).locations
    rows = [row for row in rows if row.image_id in found]
    lines = [COLUMNS]
    target.mkdir()
    with tarfile.open(target / "images.tar", "w") as archive:
        for number in range(count):
            row = rows[number % len(rows)]
            patient = row.patient_id + 100_000 * (number // len(rows))
            name = f"{patient:08d}_{row.image_id.split('_')[1]}"
            data = locations.read_bytes(found[row.image_id])
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            names = [finding for finding, label in zip(FINDINGS, row.labels, strict=True) if label]
            lines.append(f"{name},{'|'.join(names) or 'No Finding'},{patient},{row.age:.0f},F,PA\n")
    (target / "Data_Entry_2017.csv").write_text("".join(lines))


def main() -> None:
    """Print the seconds of every step and the minutes of the whole."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_release(args.data_dir, folder / "release", args.images)
        records, model_dir = str(folder / "records"), folder / "experiment"
        model_dir.mkdir()
        storage.write_json(model_dir / "params.json", {**SETTINGS, "precision": args.precision})
        common = ["--model_dir", str(model_dir), "--data_dir", records]
        steps = [
            Step("build_dataset.py", ["--data_dir", str(folder / "release"), "--output_dir", records]),
            Step("train.py", common),
            Step("evaluate.py", [*common, "--split", "test"]),
        ]
        for step in steps:
            step.run()
            print(f"  {step.script:18} {step.seconds:7.1f} s", flush=True)
    through = steps[1].seconds + steps[2].seconds
    print(f"{args.images:,} images, {args.precision}: training and evaluation {through / 60:.1f} minutes")
    print(f"{WHOLE:,} images at that rate, without the records: {through * WHOLE / args.images / 60:.1f} minutes")


if __name__ == "__main__":
    main()
