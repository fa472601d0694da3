"""Score one split with the weights of an experiment, beside Wang et al. 2017.

    python evaluate.py --model_dir experiments/simple_cnn --data_dir data/records --split test

Writes predictions_test_best.csv and metrics_test_best.json into the experiment and prints the table. If the dataset is
not the one the experiment was trained on, the results go to external/; with --tta N they go to tta_N/. --compare tests
the difference from another experiment, --expert_labels scores against radiologists' labels.
"""

import argparse
import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cxr import experiment, identity, storage
from cxr.engines.engine import NAMES, Engine
from cxr.errors import one_line_errors
from cxr.evaluation import comparison, experts, operating_points, predictions, provenance, scoring, tables
from cxr.evaluation.experts_table import experts_table
from cxr.evaluation.out_of_distribution import fit_experiment
from cxr.evaluation.predictions import Metadata, Predictions
from cxr.findings import FINDINGS
from cxr.networks import assembly, devices, features
from cxr.networks.trained import TrainedExperiment, TrainedNetwork
from cxr.params import Params
from cxr.records import example
from cxr.records.appearances import read_appearances
from cxr.records.dataset import Dataset, open_dataset
from cxr.release.expert_labels import read_expert_labels
from input_fn import input_fn

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("--data_dir", type=epath.Path, default="data/records", help="a built dataset; default: %(default)s")
    add("--split", choices=("train", "val", "test"), default="test", help="default: %(default)s")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    add("--tta", type=int, default=1, metavar="N", help="average over N crops or moved copies of each image")
    add("--compare", type=pathlib.Path, metavar="MODEL_DIR", help="test the difference from this evaluated experiment")
    add("--expert_labels", type=epath.Path, metavar="DIR", help="radiologists' labels of NIH images to compare with")
    rows = {"choices": ("same_split", "all"), "default": "same_split"}
    add("--literature", **rows, help="published rows to print, those of other splits marked; default: %(default)s")
    add("--allow_leak", action="store_true", help="score patients that the weights have seen, and mark the result")
    add("--at_least", type=float, metavar="AUROC", help="exit with 1 when the mean AUROC is not above this")
    add("--engine", choices=NAMES, default="local", help="where features are extracted; default: %(default)s")
    add("--ray_address", metavar="A", help="of a running Ray cluster: auto, HOST:PORT; default: start one here")
    args = parser.parse_args(argv)
    if args.ray_address and args.engine != "ray":
        parser.error("--ray_address goes with --engine ray")
    if args.tta < 1:
        parser.error(f"--tta {args.tta}: expected at least 1")
    return args


def predict_logits(
    model: "keras.Model | TrainedNetwork", split: str, datasets: dict[str, Dataset], params: Params, *, tta: int = 1
) -> np.ndarray:
    """Logits float32 [n, 14] of every image of a split, in dataset order; the mean over `tta` copies of each image."""
    copies = (input_fn(split, datasets, params, inputs=list(model.input), tta_copy=copy) for copy in range(tta))
    return np.mean([predict_batches(model, batches) for batches in copies], axis=0)


def predict_batches(model: "keras.Model | TrainedNetwork", batches: "tf.data.Dataset") -> np.ndarray:
    """Logits float32 [n, 14] of all images of batches of `input_fn`, of which there may be none."""
    if len(batches) == 0:
        return np.zeros((0, len(FINDINGS)), np.float32)
    return model.predict(batches, verbose=0)


def split_index(images: Dataset, split: str) -> example.Index:
    """Everything but the pixels of a split; repeated calls read the records once."""
    return _read_once(tuple(images.paths(split)), images.info["fingerprint"])


@functools.lru_cache(maxsize=3)  # the splits of one dataset; a rebuilt one has another fingerprint
def _read_once(paths: tuple[str, ...], fingerprint: str) -> example.Index:
    return example.read_split_index(list(paths))


def metadata_of(index: example.Index) -> Metadata:
    """Labels and patient metadata of an index."""
    return Metadata.from_codes(index.labels, index.ages, sexes=index.sexes, view_positions=index.view_positions)


def predictions_of(index: example.Index, logits: np.ndarray) -> Predictions:
    """Logits [n, 14] as probabilities, beside ids, labels and metadata of their images."""
    metadata = metadata_of(index)
    ids = {"image_ids": index.image_ids, "patient_ids": index.patient_ids}
    return predictions.from_logits(logits, metadata, **ids, groups=index.groups)


def score_split(
    logits: np.ndarray,
    split: str,
    images: Dataset,
    *,
    params: Params,
    model_dir: pathlib.Path,
    checkpoint: str,
    tta: int = 1,
) -> dict:
    """Write the predictions CSV of a split, score that, write the metrics JSON and return it.

    Args:
        logits: [n, 14] of its images, in dataset order.
    """
    folder = provenance.results_dir(model_dir, images.info, tta)
    path = experiment.predictions_path(folder, split, checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_text(path, predictions.to_csv(predictions_of(split_index(images, split), logits)))
    found = predictions.read_predictions(path)  # as rounded in the CSV, so that the CSV gives the same metrics
    weights_sha256 = identity.weights_sha256(model_dir, checkpoint)
    own_folder = provenance.results_dir(model_dir, experiment.dataset_of(model_dir), tta)
    if (split, folder) == ("val", own_folder):
        fitted = operating_points.fit(found)
        if tta == 1:
            vectors = [read_appearances(images, part) for part in ("train", "val")]
            fit_experiment(model_dir, *vectors, fingerprint=images.info["fingerprint"])
    else:
        fitted = operating_points.read_fitted(own_folder, checkpoint, weights_sha256)
    result = {
        **{"split": split, "checkpoint": checkpoint, "tta": tta},
        **scoring.score_predictions(found, fitted, metadata_of(split_index(images, "train"))),
        **provenance.of_result(model_dir, images.info, split, found.patient_ids),
        **{"params": dataclasses.asdict(params), "weights_sha256": weights_sha256},
        **{"git_sha": experiment.git_sha(), "library_versions": experiment.library_versions()},
    }
    storage.write_json(experiment.metrics_path(folder, split, checkpoint), result)
    return result


def trained_logits(
    model_dir: pathlib.Path, split: str, images: Dataset, *, checkpoint: str = "best", tta: int = 1, engine: Engine
) -> np.ndarray:
    """Logits float32 [n, 14] of a split, of an average the mean of what this function returns for its members."""
    if members := identity.members_of(model_dir, checkpoint):
        return np.mean([trained_logits(m, split, images, tta=tta, engine=engine) for m in members], axis=0)
    model, datasets = model_and_datasets(images, model_dir, checkpoint, tta=tta, engine=engine)
    return predict_logits(model, split, datasets, identity.trained_params(model_dir).last_phase(), tta=tta)


def model_and_datasets(
    images: Dataset, model_dir: pathlib.Path, checkpoint: str, *, tta: int, engine: Engine
) -> tuple["keras.Model | TrainedNetwork", dict[str, Dataset]]:
    """The trained model, not of an average, and its inputs: images or, which is faster, the head and cached features.

    Test-time augmentation needs the images.
    """
    params = identity.trained_params(model_dir)
    if not params.extractors or params.fine_tune or tta > 1:
        return TrainedExperiment(model_dir, checkpoint), {"image": images}
    datasets = features.feature_datasets(params, images, trained=model_dir, engine=engine)
    widths = {name: dataset.info["dimension"] for name, dataset in datasets.items()}
    hashes = {name: dataset.info["extractor"]["sha256"] for name, dataset in datasets.items()}
    return assembly.trained_head(model_dir, widths, hashes, checkpoint), datasets


def read_studies(folder: epath.Path, images: Dataset, split: str) -> list[experts.ExpertLabels]:
    """Radiologists' labels of the images of a split."""
    studies = [experts.ExpertLabels(*study) for study in read_expert_labels(folder)]
    where = {"whose": f"{split} of {images.folder}", "folder": str(folder)}
    return experts.of_images(studies, split_index(images, split).image_ids, **where)


def main(argv: list[str] | None = None) -> None:
    """Evaluate one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        params = identity.trained_params(args.model_dir)
        images = open_dataset(args.data_dir)
        devices.prepare_devices()
        provenance.require_image_size(images.info, experiment.dataset_of(args.model_dir), args.data_dir)
        index = split_index(images, args.split)
        if not args.allow_leak:
            leak = provenance.find_leak(args.model_dir, images.info, args.split, index.patient_ids)
            provenance.require_no_leak(leak, args.split, len(np.unique(index.patient_ids)))
        weights = {"checkpoint": args.checkpoint, "tta": args.tta}
        where = {"data_dir": args.data_dir, "split": args.split, **weights}
        other = args.compare and comparison.read_other(args.compare, images.info, index.image_ids, **where)
        studies = args.expert_labels and read_studies(args.expert_labels, images, args.split)
        engine = Engine(args.engine, ray_address=args.ray_address)
        logits = trained_logits(args.model_dir, args.split, images, **weights, engine=engine)
        where = {"params": params, "model_dir": args.model_dir}
        result = score_split(logits, args.split, images, **where, **weights)
        folder = provenance.results_dir(args.model_dir, images.info, args.tta)
        print(tables.results_table(result, all_splits=args.literature == "all"))
        if other:
            comparison.add_comparison(result, other, folder)
            print("\n" + tables.comparison_table(result["comparison"]))
        if studies:
            report = experts.add_experts(result, studies, folder)
            print("\n" + experts_table(report, result))
            print(f"written: {experiment.experts_path(folder, args.split, args.checkpoint)}")
        print(f"written: {experiment.metrics_path(folder, args.split, args.checkpoint)}")
        mean = result["mean_auroc"]["value"]
        if args.at_least is not None and not (mean is not None and mean > args.at_least):
            raise ValueError(f"mean AUROC {mean} is not above --at_least {args.at_least}")


if __name__ == "__main__":
    main()
