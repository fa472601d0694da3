"""Score one split with the weights of an experiment, beside Wang et al. 2017.

    python evaluate.py --model_dir experiments/simple_cnn --data_dir data/records --split test

Writes predictions_test_best.csv and metrics_test_best.json into the experiment and prints the table. On another dataset
than the experiment was trained on, both go to external/ in there, with --tta to tta_N/. --compare tests it against
another experiment.
"""

import argparse
import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from scipy.special import expit

from cxr import experiment, identity, storage
from cxr.engines.engine import NAMES, Engine
from cxr.errors import one_line_errors
from cxr.evaluation import comparison, metrics, predictions, provenance, scoring, tables
from cxr.evaluation.predictions import Predictions
from cxr.findings import FINDINGS
from cxr.networks import devices
from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import Dataset, open_dataset

if TYPE_CHECKING:
    import keras

    from cxr.networks.trained import TrainedNetwork


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("--data_dir", type=epath.Path, default="data/records", help="a built dataset; default: %(default)s")
    add("--split", choices=("train", "val", "test"), default="test", help="default: %(default)s")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    add(
        "--tta",
        type=int,
        default=1,
        metavar="N",
        help="average over N crops or moved copies of each image; goes to tta_N/",
    )
    add("--compare", type=pathlib.Path, metavar="MODEL_DIR", help="test the difference from this evaluated experiment")
    rows = {"choices": ("same_split", "all"), "default": "same_split"}
    add("--literature", **rows, help="published rows to stand beside, others marked; default: %(default)s")
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
    model: "keras.Model | TrainedNetwork",
    split: str,
    datasets: dict[str, Dataset],
    params: Params,
    *,
    tta: int = 1,
) -> np.ndarray:
    """Logits float32 [n, 14] of every image of a split, in dataset order; the mean over `tta` copies of each image."""
    from input_fn import input_fn

    if next(iter(datasets.values())).images(split) == 0:
        return np.zeros((0, len(FINDINGS)), np.float32)
    copies = (input_fn(split, datasets, params, inputs=list(model.input), tta_copy=copy) for copy in range(tta))
    return np.mean([model.predict(batches, verbose=0) for batches in copies], axis=0)


def read_index(images: Dataset, split: str) -> example.Index:
    """Everything but the pixels of a split; read once however often it is asked for."""
    return _read_index(tuple(images.paths(split)), images.info["fingerprint"])


@functools.lru_cache(maxsize=3)  # the splits of one dataset; a rebuilt one has another fingerprint
def _read_index(paths: tuple[str, ...], fingerprint: str) -> example.Index:
    return example.read_split_index(list(paths))


def predictions_of(index: example.Index, logits: np.ndarray) -> Predictions:
    """Logits [n, 14] as probabilities, beside what the records say of their images."""
    if len(index.image_ids) != len(logits):
        raise ValueError(
            f"{len(logits):,} predictions for {len(index.image_ids):,} images; the dataset changed meanwhile"
        )
    if not np.isfinite(logits).all():
        raise ValueError("the model's outputs are NaN or infinite: its weights are damaged; train it again: --restart")
    return Predictions(
        image_ids=index.image_ids,
        patient_ids=index.patient_ids,
        labels=index.labels,
        probabilities=expit(logits.astype(np.float64)),
        ages=index.ages.astype(np.float64),
        sexes=np.array(["F", "M", ""])[index.sexes],  # -1, unknown, is the last
        view_positions=np.array(["PA", "AP", ""])[index.view_positions],
    )


def evaluate_split(
    model: "keras.Model | TrainedNetwork",
    split: str,
    images: Dataset,
    datasets: dict[str, Dataset],
    *,
    params: Params,
    model_dir: pathlib.Path,
    checkpoint: str,
    tta: int = 1,
) -> dict:
    """Predict a split, write its predictions CSV, score that, write the metrics JSON and return it.

    Args:
        images: whose split it is.
        datasets: what the model is fed with: {"image": images} or the features of these images by extractor.
        tta: copies of each image over which the logits are averaged: see `augment.tta_images`.
    """
    index, folder = read_index(images, split), provenance.results_dir(model_dir, images.info, tta)
    found = predictions_of(index, predict_logits(model, split, datasets, params.last_phase(), tta=tta))
    folder.mkdir(parents=True, exist_ok=True)
    path = experiment.predictions_path(folder, split, checkpoint)
    storage.write_text(path, predictions.to_csv(found))
    written = predictions.read_predictions(path)  # what is scored is what anybody can score again
    index_train = read_index(images, "train")
    train = predictions_of(index_train, np.zeros(index_train.labels.shape))  # its labels and patients; nobody predicted
    own = provenance.results_dir(model_dir, experiment.dataset_of(model_dir), tta)
    is_own_val = (split, folder) == ("val", own)
    weights_sha256 = storage.sha256_of(experiment.weights_path(model_dir, checkpoint))
    chosen = scoring.choose(written) if is_own_val else scoring.chosen_on_val(own, checkpoint, weights_sha256)
    result = {
        "split": split,
        "checkpoint": checkpoint,
        "tta": tta,
        **scoring.score(written, chosen, train),
        "trained_on": provenance.described(experiment.dataset_of(model_dir)),
        "evaluated_on": provenance.described(images.info),
        "leak": provenance.find_leak(model_dir, images.info, split, written.patient_ids),
        "dataset_fingerprint": images.info["fingerprint"],
        "split_name": images.info["split"]["name"],
        "params": dataclasses.asdict(params),
        "weights_sha256": weights_sha256,
        "git_sha": experiment.git_sha(),
        "library_versions": experiment.library_versions(),
    }
    storage.write_json(experiment.metrics_path(folder, split, checkpoint), result)
    return result


def read_other(args: argparse.Namespace, images: Dataset) -> tuple[Predictions, dict]:
    """The predictions of the experiment to compare with, for the same images in the same order, and its leak mark."""
    folder = provenance.results_dir(args.compare, images.info, args.tta)
    path = experiment.predictions_path(folder, args.split, args.checkpoint)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path} to compare with. Run: python evaluate.py --model_dir {args.compare} --data_dir {args.data_dir} "
            f"--split {args.split} --checkpoint {args.checkpoint}" + f" --tta {args.tta}" * (args.tta > 1)
        )
    wanted, whose = read_index(images, args.split).image_ids, f"{args.split} of {args.data_dir}"
    found = predictions.in_order_of(predictions.read_predictions(path), wanted, path=path, whose=whose)
    leak = provenance.find_leak(args.compare, images.info, args.split, found.patient_ids)
    return found, leak


def add_comparison(
    result: dict, other: tuple[Predictions, dict], other_dir: pathlib.Path, folder: pathlib.Path
) -> None:
    """Test a result against another experiment's and put that into its metrics file."""
    split, checkpoint = result["split"], result["checkpoint"]
    ours = predictions.read_predictions(experiment.predictions_path(folder, split, checkpoint))
    theirs, leak = other
    tested = metrics.none_for_nan(comparison.compare(ours, theirs))
    result["comparison"] = {"model_dir": str(other_dir), "leak": leak, **tested}
    storage.write_json(experiment.metrics_path(folder, split, checkpoint), result)


def main(argv: list[str] | None = None) -> None:
    """Evaluate one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        params, trained_on = identity.trained_params(args.model_dir), experiment.dataset_of(args.model_dir)
        images = open_dataset(args.data_dir)
        devices.prepare_devices()
        provenance.require_image_size(images.info, trained_on, args.data_dir)
        patient_ids = read_index(images, args.split).patient_ids
        leak = provenance.find_leak(args.model_dir, images.info, args.split, patient_ids)
        if not args.allow_leak:
            provenance.require_no_leak(leak, args.split, len(np.unique(patient_ids)))
        other = read_other(args, images) if args.compare else None
        engine = Engine(args.engine, ray_address=args.ray_address)
        where = {"model_dir": args.model_dir, "checkpoint": args.checkpoint, "tta": args.tta}
        model, datasets = model_and_datasets(images, **where, engine=engine)
        result = evaluate_split(model, args.split, images, datasets, params=params, **where)
        folder = provenance.results_dir(args.model_dir, images.info, args.tta)
        print(tables.results_table(result, all_splits=args.literature == "all"))
        if other is not None:
            add_comparison(result, other, args.compare, folder)
            print("\n" + tables.comparison_table(result["comparison"]))
        print(f"written: {experiment.metrics_path(folder, args.split, args.checkpoint)}")
        reached = result["mean_auroc"]["value"]
        if args.at_least is not None and not (reached is not None and reached > args.at_least):
            raise ValueError(f"mean AUROC {reached} is not above --at_least {args.at_least}")


def model_and_datasets(
    images: Dataset, model_dir: pathlib.Path, checkpoint: str, *, tta: int, engine: Engine
) -> tuple["keras.Model | TrainedNetwork", dict[str, Dataset]]:
    """The trained model and its inputs: images, or, the same but faster, the head and cached features.

    Test-time augmentation needs the images.
    """
    from cxr.networks import assembly, features
    from cxr.networks.trained import TrainedExperiment

    params = identity.trained_params(model_dir)
    if not params.extractors or params.fine_tune or tta > 1:
        return TrainedExperiment(model_dir, checkpoint), {"image": images}
    runtime_name = identity.read(model_dir)["runtime"]
    datasets = features.feature_datasets(params, images, runtime_name=runtime_name, engine=engine)
    widths = {name: dataset.info["dimension"] for name, dataset in datasets.items()}
    hashes = {name: dataset.info["extractor"]["sha256"] for name, dataset in datasets.items()}
    return assembly.trained_head(model_dir, widths, hashes, checkpoint), datasets


if __name__ == "__main__":
    main()
