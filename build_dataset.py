"""Turn an NIH ChestX-ray14 release into labelled TFRecord shards and a dataset.json that describes them.

    python build_dataset.py --data_dir data/nih --output_dir data/records

Reads Data_Entry_2017*.csv, the official lists and the images below --data_dir: PNG, JPEG or DICOM, in any mix of
folders, .tar, .tar.gz, .zip and WebDataset files. Nothing is unpacked: a .tar.gz is read once, from start to end, and
its resized images are kept in --output_dir until the shards are written (about the size of the records). Writes
train-*, val-* and test-*.tfrecord, rejected.csv and, last, dataset.json. After an interruption the same command resumes
the build. With --verify it reads every byte of a finished dataset: checksums, counts, every row against the CSV.
"""

import argparse
import dataclasses
from collections.abc import Callable

from etils import epath
from tqdm import tqdm

from cxr import storage
from cxr.engines import mapping
from cxr.engines.engine import NAMES, Engine, default_workers
from cxr.errors import one_line_errors
from cxr.images.encode import ENCODINGS
from cxr.images.errors import MIN_SIDE
from cxr.records import building, shards, splits, verify
from cxr.release import sources
from cxr.release.release import Release, read_release, with_groups
from cxr.release.spools import Spools


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; an impossible value ends with exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_dir", type=epath.Path, required=True, help="the release: CSV, lists, images in folders or archives")
    add("--output_dir", type=epath.Path, default="data/records", help="default: %(default)s")
    add("--image_size", type=int, default=224, help="pixels, square; default: %(default)s")
    add("--split", choices=("auto", "official", "random", "csv"), default="auto", help="auto: official lists if found")
    add("--ratios", type=float, nargs=3, default=(0.7, 0.1, 0.2), metavar=("TRAIN", "VAL", "TEST"), help="shares")
    add("--patients", type=int, metavar="N", help="only N patients, drawn at random")
    add("--seed", type=int, default=230, help="random seed for the split, the sampling and the record order")
    add("--encoding", choices=ENCODINGS, default="png", help="encoding of the images; default: %(default)s")
    add("--shard_size", type=int, default=1024, help="images in a shard, at most; default: %(default)s")
    add("--workers", type=int, default=default_workers(), help="number of processes; default: all cores")
    add("--engine", choices=NAMES, default="local", help="where shards are written; default: %(default)s")
    add("--ray_address", metavar="A", help="running Ray cluster: auto or HOST:PORT; default: start one")
    add("--groups", type=epath.Path, metavar="FILE", help="CSV image_id,group: where images came from")
    add("--allow_missing", action="store_true", help="build without the images that are listed but not found")
    add("--verify", action="store_true", help="build nothing: check the finished dataset against --data_dir")
    add("--max_rejected", type=float, default=0.01, help="tolerated share of unreadable images; default: %(default)s")
    args = parser.parse_args(argv)
    for name in ("shard_size", "workers", "patients"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: expected at least 1")
    if not MIN_SIDE <= args.image_size <= 4096:
        parser.error(f"--image_size {args.image_size}: expected {MIN_SIDE} to 4096 pixels")
    if min(args.ratios) < 0 or args.ratios[0] == 0 or not abs(sum(args.ratios) - 1) <= 1e-6:
        parser.error(f"--ratios {' '.join(map(str, args.ratios))}: expected shares that sum to 1, the first above 0")
    if args.ray_address and args.engine != "ray":
        parser.error("--ray_address goes with --engine ray")
    if not 0 <= args.max_rejected <= 1:
        parser.error(f"--max_rejected {args.max_rejected}: expected a share from 0 to 1")
    return args


def plan(args: argparse.Namespace, release: Release, found: sources.Images) -> tuple[dict, list[shards.ShardJob]]:
    """Assign every image to a shard; returns (the inputs as dataset.json records them, the jobs)."""
    rows = release.rows
    if args.patients:
        rows = splits.sample_patients(rows, found.locations, args.patients, args.seed)
    present = [row for row in rows if row.image_id in found.locations]
    missing = len(rows) - len(present)
    if not present:
        raise FileNotFoundError(f"none of the {len(rows):,} images in {release.csv} is below {args.data_dir}")
    if missing and not args.allow_missing:
        example = next(row.image_id for row in rows if row.image_id not in found.locations)
        raise FileNotFoundError(
            f"{missing:,} of the {len(rows):,} images in {release.csv} are not below {args.data_dir}, "
            f"such as {example}. Complete the download, or add --allow_missing to build without them."
        )
    chosen = splits.split_rows(present, release.assigned, ratios=tuple(args.ratios), seed=args.seed)
    jobs = shards.plan_shards(
        chosen,
        found.locations,
        args.output_dir,
        seed=args.seed,
        shard_size=args.shard_size,
        image_size=args.image_size,
        encoding=args.encoding,
    )
    options = describe_options(args, release)
    source = options["source"] | {"containers": sorted(found.containers)}
    return options | {"source": source, "missing": missing, "unlisted": found.unlisted}, jobs


def describe_options(args: argparse.Namespace, release: Release) -> dict:
    """The part of dataset.json that is known before the images are searched."""
    return {
        "kind": "images",
        "image_size": args.image_size,
        "encoding": args.encoding,
        "split": {"name": release.split, "seed": args.seed, "ratios": list(args.ratios)},
        "patients_sampled": args.patients,
        "shard_size": args.shard_size,
        "source": {"csv": release.csv, "csv_sha256": release.csv_sha256, "groups_sha256": release.groups_sha256},
    }


def write_shards(
    done: list[shards.ShardReport],
    waiting: list[shards.ShardJob],
    state: building.Building,
    engine: Engine,
    digest: Callable[[str], str],
) -> list[shards.ShardReport]:
    """Write the waiting shards, with one progress bar; returns the reports of all shards."""
    first_images = {epath.Path(job.path).name: job.rows[0].image_id for job in waiting}
    finished = sum(report.images + len(report.rejected) for report in done)
    total = finished + sum(len(job.rows) for job in waiting)
    reports = list(done)
    try:
        with tqdm(total=total, initial=finished, desc="writing shards", unit=" images") as bar:
            for report in mapping.run(shards.write_shard, waiting, engine):
                report = dataclasses.replace(report, first_image_sha256=digest(first_images[report.file]))
                state.keep(report)
                reports.append(report)
                bar.update(report.images + len(report.rejected))
    finally:
        state.remove_partials()  # of the other workers after an error: a full disk needs the space
    return reports


def summary(info: dict, rejected: list[shards.Rejected], output_dir: epath.Path) -> str:
    """The images, patients and positives of every split, and what was left out, as lines for the terminal."""
    members = [info["splits"][split] for split in splits.SPLITS]

    def row(title: str, cells: list) -> str:
        return f"{title:20}" + "".join(f"{cell:>10,}" if isinstance(cell, int) else f"{cell:>10}" for cell in cells)

    lines = [row("", list(splits.SPLITS))]
    lines += [row(key, [member[key] for member in members]) for key in ("images", "patients")]
    lines += [row(f"  {finding}", [member["positives"][finding] for member in members]) for finding in info["findings"]]
    lines += [
        f"split {info['split']['name']}, labels of {info['source']['csv']}, {info['image_size']} px",
        f"missing {info['missing']:,} (in the CSV, not found)   unlisted {info['unlisted']:,} (found, not in the CSV)",
        f"rejected {len(rejected):,}" + (", all in rejected.csv:" if rejected else ""),
        *(f"  {image_id}: {reason}" for image_id, reason, _ in rejected[:10]),
        *group_lines(info),
        f"dataset {output_dir}   fingerprint {info['fingerprint'][:12]}",
    ]
    return "\n".join(lines)


def group_lines(info: dict) -> list[str]:
    """The number of images of every group, as lines for the terminal; none if the dataset was built without groups."""
    if info["source"]["groups_sha256"] is None:
        return []
    without = sum(info["splits"][split]["images"] for split in splits.SPLITS) - sum(info["groups"].values())
    counts = [f"{name} {count:,}" for name, count in info["groups"].items()]
    lines = ["   ".join(["images by group:", *counts, f"no group {without:,}"])]
    if len(info["groups"]) == 1:
        (name,) = info["groups"]
        lines.append(f"one group only, {name}: AUROC within groups equals the pooled AUROC of its images")
    return lines


def build(args: argparse.Namespace, engine: Engine) -> None:
    """Build a dataset, or resume its build."""
    release = read_release(args.data_dir, args.split)
    if args.groups:
        release = with_groups(release, args.groups)
    image_ids = [row.image_id for row in release.rows]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with storage.exclusive(args.output_dir, "building"), mapping.session(engine):
        found = sources.find_images(args.data_dir, image_ids)
        folder = args.output_dir / building.MANIFEST / "archives"
        spools = Spools(found, args.data_dir, folder, image_ids=image_ids, image_size=args.image_size)
        if spools.unread():
            building.require_same_options(args.output_dir, describe_options(args, release))  # reading takes long
        spools.read(engine)
        found.require_any(args.data_dir)
        inputs, jobs = plan(args, release, found)
        state = building.Building(args.output_dir, inputs, shards.plan_digest(jobs))
        done, waiting = state.finished(jobs, found.digest)
        renewed = spools.renew((location for job in waiting for location in job.locations), engine)
        reports = write_shards(done, [job.relocated(renewed) for job in waiting], state, engine, found.digest)
        info = state.finish(reports, max_rejected=args.max_rejected)
        spools.close()
    rejected = sorted(image for report in reports for image in report.rejected)
    print(summary(info, rejected, args.output_dir))
    print(f"next: python train.py --model_dir experiments/simple_cnn --data_dir {args.output_dir}")


def verify_dataset(args: argparse.Namespace, engine: Engine) -> None:
    """Read a finished dataset again and print its faults; ValueError if there are any."""
    with tqdm(unit="B", unit_scale=True, desc="reading shards") as bar:
        verified = verify.verify(args.output_dir, args.data_dir, groups=args.groups, engine=engine, on_shard=bar.update)
    for fault in verified.faults[:20]:
        print(fault)
    verified.require_no_faults(args.output_dir)
    print(f"{args.output_dir}: {verified.num_images:,} images in {verified.bytes:,} bytes, no faults")


def main(argv: list[str] | None = None) -> None:
    """Build a dataset, or verify one."""
    args = parse_args(argv)
    with one_line_errors():
        engine = Engine(args.engine, args.workers, args.ray_address)
        if args.verify:
            verify_dataset(args, engine)
        else:
            build(args, engine)


if __name__ == "__main__":
    main()
