"""Compare heat maps with the boxes of BBox_List_2017.csv, by Wang et al.'s rule.

    python -m tools.localize --model_dir experiments/simple_cnn --data_dir data/nih

Writes localization.json and pictures of heat maps and boxes into the experiment's localization/. Prints, for every
annotated finding, accuracy and false positives per image beside random maps, shifted maps and the published table.
Needs the original images that have boxes (880 in the whole release), not resized, in folders or archives.
"""

import argparse
import pathlib
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from etils import epath
from tqdm import tqdm

from cxr import experiment, identity, storage
from cxr.errors import one_line_errors
from cxr.evaluation import literature, localization, pretraining, provenance, tables
from cxr.networks import cam
from cxr.networks.mean_heat_map import HeatMaps
from cxr.networks.trained import Trained, trained_network
from cxr.release import bbox_list, sources
from cxr.release.bbox_list import Boxed
from tools.localizing.heat_maps import score_images

FILE = "localization.json"


class BoxedRelease(NamedTuple):
    """A release with boxes."""

    data_dir: epath.Path
    boxed: dict[str, Boxed]  # annotated images by id, absent ones too
    found: sources.Images

    @property
    def present(self) -> Collection[str]:
        """Ids of the annotated images that are there; all of them where an archive must be read first to know."""
        return self.boxed if self.found.streams else self.found.locations


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("--data_dir", type=epath.Path, required=True, help="a release with BBox_List_2017.csv and original images")
    add("--output_dir", type=pathlib.Path, help="default: localization/ in the experiment")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    add("--method", choices=cam.METHODS, default="auto", help="default: %(default)s, which fits the model")
    add("--overlays", type=int, default=3, metavar="N", help="pictures per finding; default: %(default)s")
    add("--allow_leak", action="store_true", help="score patients that the weights have seen, and mark the result")
    args = parser.parse_args(argv)
    if args.overlays < 0:
        parser.error(f"--overlays {args.overlays}: expected 0 or more")
    args.output_dir = args.output_dir or args.model_dir / "localization"
    return args


def read_boxed_release(data_dir: epath.Path) -> BoxedRelease:
    """Read the boxes of a release and find its images."""
    boxed = bbox_list.read_boxed(data_dir)
    return BoxedRelease(data_dir, boxed, sources.find_images(data_dir, boxed))


def leak_of_patients(model_dir: pathlib.Path, patient_ids: list[int], *, allow_leak: bool) -> dict:
    """Which of these patients the weights have seen; ValueError if any and `allow_leak` is not set."""
    # A release has no fingerprint, so its images are treated as those of another dataset.
    leak = provenance.find_leak(model_dir, {"fingerprint": None}, "test", np.array(patient_ids))
    if not allow_leak:
        provenance.require_no_leak(leak, "the images with boxes", len(set(patient_ids)))
    return leak


def remove_pictures(output_dir: pathlib.Path) -> None:
    """Delete the pictures of an earlier run, which its localization.json lists."""
    path = output_dir / FILE
    for name in storage.read_json(path)["overlays"] if path.is_file() else ():
        (output_dir / pathlib.PurePath(name).name).unlink(missing_ok=True)


def localize(
    network: Trained,
    mapper: HeatMaps,
    release: BoxedRelease,
    *,
    leak: dict,
    output_dir: pathlib.Path,
    num_overlays: int,
) -> dict:
    """Score an experiment; writes the pictures and localization.json, and returns the contents of that.

    Raises:
        ValueError: none of the images with boxes is present and readable.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    remove_pictures(output_dir)
    boxed = release.boxed
    broken = {}
    images = bbox_list.read_images(release.data_dir, release.found, boxed, broken)
    images = tqdm(images, total=len(release.present), unit="image", desc="localizing", mininterval=0.5)
    scored = score_images(network, mapper, images, boxed, output_dir=output_dir, num_overlays=num_overlays)
    if not scored:
        raise ValueError(
            f"none of the {len(boxed):,} images with boxes is below {release.data_dir} and readable; download them: "
            "they are all on the test list"
        )
    params = identity.trained_params(network.model_dir)
    result = {
        **{"model_dir": str(network.model_dir), "checkpoint": network.checkpoint, "method": mapper.method},
        "heat_map_precision": network.keras_precision,
        **{"data_dir": str(release.data_dir), "boxed_images": len(boxed)},
        "absent": len(boxed) - len({item.image_id for item in scored}) - len(broken),
        **{"broken": broken, "leak": leak, "seen": pretraining.of_result(params, "test", "official")},
        "findings": localization.summarize(scored),
        "published_source": literature.LOCALIZATION_SOURCE,
        "overlays": [item.overlay for item in scored if item.overlay],
        **{"git_sha": experiment.git_sha(), "library_versions": experiment.library_versions()},
    }
    storage.write_json(output_dir / FILE, result)
    return result


def main(argv: list[str] | None = None) -> None:
    """Localize the findings of one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        identity.trained_params(args.model_dir)
        release = read_boxed_release(args.data_dir)
        patient_ids = [release.boxed[image_id].patient_id for image_id in release.present]
        leak = leak_of_patients(args.model_dir, patient_ids, allow_leak=args.allow_leak)
        network = trained_network(args.model_dir, args.checkpoint)
        mapper = network.heat_mapper(args.method)
        where = {"output_dir": args.output_dir, "num_overlays": args.overlays}
        result = localize(network, mapper, release, leak=leak, **where)
        print(tables.localization_table(result))
        print(f"written: {args.output_dir / FILE} and {len(result['overlays'])} pictures")


if __name__ == "__main__":
    main()
