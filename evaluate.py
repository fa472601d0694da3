"""Score one split with the weights of an experiment, beside Wang et al. 2017.

    python evaluate.py --model_dir experiments/simple_cnn --data_dir data/records --split test

Writes predictions_test_best.csv and metrics_test_best.json into the experiment and prints the table.
"""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cxr import experiment, storage
from cxr.data import engines, records
from cxr.data.dataset import Dataset, open_dataset
from cxr.errors import one_line_errors
from cxr.evaluation import literature, metrics
from cxr.findings import FINDINGS
from cxr.params import Params, load_params

if TYPE_CHECKING:
    import keras
    import pandas as pd


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("--data_dir", type=epath.Path, default="data/records", help="a built dataset; default: %(default)s")
    add("--split", choices=("train", "val", "test"), default="test", help="default: %(default)s")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    add("--at_least", type=float, metavar="AUROC", help="exit with 1 when the mean AUROC is not above this")
    add("--engine", choices=engines.NAMES, default="local", help="where features are extracted; default: %(default)s")
    add("--ray_address", metavar="A", help="of a running Ray cluster: auto, HOST:PORT; default: start one here")
    args = parser.parse_args(argv)
    if args.ray_address and args.engine != "ray":
        parser.error("--ray_address goes with --engine ray")
    return args


def predict_logits(model: "keras.Model", split: str, datasets: dict[str, Dataset], params: Params) -> np.ndarray:
    """Logits float32 [n, 14] of every image of a split, in dataset order."""
    from input_fn import input_fn

    if next(iter(datasets.values())).images(split) == 0:
        return np.zeros((0, len(FINDINGS)), np.float32)
    return model.predict(input_fn(split, datasets, params, inputs=list(model.input)), verbose=0)


def prediction_table(index: records.Index, logits: np.ndarray) -> "pd.DataFrame":
    """The predictions CSV as a table: image_id, patient_id, label_<Finding> x14, prob_<Finding> x14."""
    import pandas as pd

    if len(index.image_ids) != len(logits):
        raise ValueError(
            f"{len(logits):,} predictions for {len(index.image_ids):,} images; the dataset changed meanwhile"
        )
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return pd.DataFrame(
        {
            "image_id": index.image_ids,
            "patient_id": index.patient_ids,
            **{f"label_{finding}": index.labels[:, column] for column, finding in enumerate(FINDINGS)},
            **{f"prob_{finding}": probabilities[:, column] for column, finding in enumerate(FINDINGS)},
        }
    )


def evaluate_split(
    model: "keras.Model",
    split: str,
    images: Dataset,
    datasets: dict[str, Dataset],
    *,
    params: Params,
    model_dir: pathlib.Path,
    checkpoint: str,
) -> dict:
    """Predict a split, write its predictions CSV, score that, write the metrics JSON and return it.

    Args:
        images: whose split it is.
        datasets: what the model is fed with: {"image": images} or the features of these images by extractor.
    """
    import pandas as pd

    index = records.read_index(images.paths(split))
    table = prediction_table(index, predict_logits(model, split, datasets, params.last_phase()))
    path = experiment.predictions_path(model_dir, split, checkpoint)
    storage.write_text(path, table.to_csv(index=False, float_format="%.9g"))
    scores = score(pd.read_csv(path), thresholds=operating_points(model_dir, split, checkpoint))
    result = {
        "split": split,
        "checkpoint": checkpoint,
        **scores,
        "dataset_fingerprint": images.info["fingerprint"],
        "split_name": images.info["split"]["name"],
        "params": dataclasses.asdict(params),
        "git_sha": experiment.git_sha(),
        "library_versions": experiment.library_versions(),
    }
    storage.write_json(experiment.metrics_path(model_dir, split, checkpoint), result)
    return result


def score(table: "pd.DataFrame", thresholds: dict | None) -> dict:
    """Metrics of a predictions table; see cxr.evaluation.metrics.evaluate."""
    labels = table[[f"label_{finding}" for finding in FINDINGS]].to_numpy(np.int64)
    probabilities = table[[f"prob_{finding}" for finding in FINDINGS]].to_numpy(np.float64)
    return metrics.evaluate(labels, probabilities, table["patient_id"].to_numpy(), thresholds)


def operating_points(model_dir: pathlib.Path, split: str, checkpoint: str) -> dict | None:
    """Thresholds chosen on val: from its metrics file for any other split, None (choose now) for val itself.

    Without a val file there are no thresholds, rather than ones fitted to the images they are judged on.
    """
    if split == "val":
        return None
    path = experiment.metrics_path(model_dir, "val", checkpoint)
    chosen = storage.read_json(path)["findings"] if path.is_file() else {}
    return {finding: values["threshold"] for finding, values in chosen.items()}


def results_table(result: dict) -> str:
    """The metrics beside Wang et al. as aligned lines, with what they are of."""
    wang = literature.WANG_2017
    rows = [("finding", "positives", "AUROC", "95 % interval", "AP", "Wang et al.", "diff.")]
    for name, values in result["findings"].items():
        auroc = values["auroc"], values["low"], values["high"]
        rows.append((name, f"{values['positives']:,}", *cells(*auroc, values["average_precision"], wang.aurocs[name])))
    mean = result["mean_auroc"]
    published = [wang.aurocs[name] for name, values in result["findings"].items() if values["auroc"] is not None]
    theirs = float(np.mean(published)) if published else wang.mean  # over the findings that are defined here
    rows.append(("mean", f"of {mean['findings']}", *cells(mean["value"], mean["low"], mean["high"], None, theirs)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    if result["images"] == 0:
        return f"the {result['split']} split is empty: nothing to score"
    lines += ["", f"{result['split']} of a dataset split {result['split_name']}: {result['images']:,} images of "
              f"{result['patients']:,} patients, loss {result['loss']:.4f}"]  # fmt: skip
    if (result["split"], result["split_name"], result["images"]) != ("test", wang.split, wang.images):
        lines.append(
            f"NOT COMPARABLE: {wang.source} is the {wang.split} test split, all {wang.images:,} images; "
            "the same model scores otherwise on other images"
        )
    return "\n".join(lines)


def cells(value: float | None, low: float, high: float, precision: float | None, published: float) -> tuple[str, ...]:
    """AUROC, its interval, average precision, the published AUROC and the difference, as text; "" where undefined."""
    if value is None:
        return "undefined", "", "", f"{published:.3f}", ""
    average = "" if precision is None else f"{precision:.3f}"
    return f"{value:.3f}", f"[{low:.3f}, {high:.3f}]", average, f"{published:.3f}", f"{value - published:+.3f}"


def require_image_size(info: dict, trained_on: dict, data_dir: epath.Path) -> None:
    """Raise ValueError when the images are of another size than those the model was trained on."""
    size, expected = info["image_size"], trained_on["image_size"]
    if size != expected:
        raise ValueError(
            f"{data_dir} has images of {size} pixels, the model was trained on {expected}. "
            f"Run: python build_dataset.py --image_size {expected} with another --output_dir"
        )


def main(argv: list[str] | None = None) -> None:
    """Evaluate one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        params, trained_on = load_params(args.model_dir), experiment.dataset_of(args.model_dir)
        images = open_dataset(args.data_dir)
        require_image_size(images.info, trained_on, args.data_dir)
        engine = engines.Engine(args.engine, ray_address=args.ray_address)
        model, datasets = model_and_datasets(params, images, args.model_dir, args.checkpoint, engine)
        result = evaluate_split(
            model,
            args.split,
            images,
            datasets,
            params=params,
            model_dir=args.model_dir,
            checkpoint=args.checkpoint,
        )
        print(results_table(result))
        print(f"written: {experiment.metrics_path(args.model_dir, args.split, args.checkpoint)}")
        reached = result["mean_auroc"]["value"]
        if args.at_least is not None and not (reached is not None and reached > args.at_least):
            raise ValueError(f"mean AUROC {reached} is not above --at_least {args.at_least}")


def model_and_datasets(
    params: Params, images: Dataset, model_dir: pathlib.Path, checkpoint: str, engine: engines.Engine
) -> tuple["keras.Model", dict[str, Dataset]]:
    """The trained model and what to feed it: images, or, the same but faster, the head and cached features."""
    from model_fn import model_fn, trained_model, training_datasets

    if not params.extractors or params.fine_tune:
        return trained_model(model_dir, checkpoint), {"image": images}
    datasets = training_datasets(params, images, engine=engine)
    widths = {name: dataset.info["dimension"] for name, dataset in datasets.items()}
    head = model_fn(params, experiment.dataset_of(model_dir), widths)
    experiment.load_weights(head, model_dir, checkpoint)
    return head, datasets


if __name__ == "__main__":
    main()
