"""Export a trained experiment: a SavedModel that needs TensorFlow alone, on request TFLite and ONNX, and a model card.

    python -m tools.export --model_dir experiments/simple_cnn --output_dir exported/simple_cnn

The SavedModel takes the bytes of PNG and JPEG files; decoding, resizing, normalisation, calibration and operating
points are inside. Every file is compared with predict.py before the folder appears. For TensorFlow Serving see
docs/prediction_and_serving.md.
"""

import argparse
import pathlib
import shutil
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cxr import experiment, identity, storage
from cxr.errors import one_line_errors
from cxr.evaluation import operating, provenance
from cxr.findings import FINDINGS
from cxr.records.dataset import open_dataset
from inference.predictor import Predictor
from tools.exporting import card, converters, parity, rescoring, saved_model

if TYPE_CHECKING:
    import keras

VERSION = "1"  # TensorFlow Serving wants a number below the model's folder
CALIBRATION = 200  # val images that show int8 its ranges
TAKES = {"bytes": "bytes of PNG or JPEG files, or pixels of any size", "squares": "`image`, uint8 [1, {0}, {0}, 1]"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("--output_dir", type=pathlib.Path, required=True, help="a folder that is not there yet")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    add("--tflite", action="store_true", help="also TFLite: float16, and with --data_dir int8")
    add("--onnx", action="store_true", help="also ONNX; needs requirements/export.txt")
    add("--data_dir", type=epath.Path, help="a built dataset, whose val split calibrates int8 and checks every file")
    add("--images", type=int, default=500, metavar="N", help="val images to check with; default: %(default)s")
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error(f"--images {args.images}: expected at least 1")
    return args


def read_val(args: argparse.Namespace, predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    """Val images and labels to check with; none without --data_dir. See `parity.read_val`."""
    if args.data_dir is None:
        size = predictor.image_size
        return np.zeros((0, size, size, 1), np.uint8), np.zeros((0, len(FINDINGS)), np.int64)
    images = open_dataset(args.data_dir)
    provenance.require_image_size(images.info, experiment.dataset_of(args.model_dir), args.data_dir)
    return parity.read_val(images, predictor.params, args.images)


def convert(
    folder: pathlib.Path,
    predictor: Predictor,
    model: "keras.Model",
    *,
    val: tuple,
    limit: float,
    args: argparse.Namespace,
) -> dict[str, dict]:
    """Write the other formats that were asked for; returns what the check of each found, by file name."""
    if not (args.tflite or args.onnx):
        return {}
    model = converters.with_probabilities(model)
    squares, labels = val
    drawn = [predictor.read(file).square[..., None] for file in parity.drawn_images(predictor.image_size)]
    squares = squares if len(squares) else np.stack(drawn)
    labels = labels if len(labels) else np.zeros((len(squares), len(FINDINGS)), np.int64)
    expected = np.asarray(model.predict({"image": squares}, verbose=0)["probabilities"])
    runs = {}
    if args.tflite:
        for name, samples in (("float16", None), ("int8", val[0][:CALIBRATION])):
            if samples is None or len(samples):
                data = converters.to_tflite(model, samples)
                (folder / f"model.{name}.tflite").write_bytes(data)
                runs[f"model.{name}.tflite"] = converters.tflite_runner(data)
    if args.onnx:
        converters.to_onnx(model, folder / "model.onnx")
        runs["model.onnx"] = converters.onnx_runner(folder / "model.onnx")
    found = {name: parity.compare(run, squares, labels, expected) for name, run in runs.items()}
    if args.onnx:
        parity.require_close(found["model.onnx"]["difference"], "model.onnx", limit)
    return {name: {"takes": TAKES["squares"].format(predictor.image_size), **of} for name, of in found.items()}


def describe(args: argparse.Namespace, predictor: Predictor, files: dict[str, dict]) -> dict:
    """What export.json says: all that a client needs beside the numbers of a TFLite or ONNX file."""
    points = predictor.points
    columns = zip(*(np.where(np.isnan(column), None, column).tolist() for column in points), strict=True)
    return {
        "model_dir": str(args.model_dir),
        "checkpoint": args.checkpoint,
        "image_size": predictor.image_size,
        "findings": {
            name: dict(zip(points._fields, row, strict=True)) for name, row in zip(FINDINGS, columns, strict=True)
        },
        "trained_on": provenance.described(experiment.dataset_of(args.model_dir)),
        "run": identity.read(args.model_dir),
        "files": files,
        "git_sha": experiment.git_sha(),
        "library_versions": experiment.library_versions(),
    }


def export(args: argparse.Namespace) -> dict:
    """Write everything beside its final place, check it, and put it there; returns what export.json says.

    Raises:
        FileNotFoundError: the experiment is not trained.
        ValueError: output_dir is taken, the weights do not fit, or an exported file does not agree with predict.py.
        ImportError: requirements/export.txt is needed.
    """
    if args.output_dir.exists():
        raise ValueError(f"{args.output_dir} is there already; delete it or give another --output_dir")
    if args.onnx:
        converters.require_onnx()
    predictor, rescored = Predictor(args.model_dir, args.checkpoint), None
    saved_model.require_tensorflow()
    val = read_val(args, predictor)
    model = predictor.network.keras_model()
    if not predictor.network.is_exact_in_keras:
        images = args.data_dir and open_dataset(args.data_dir)
        predictor, rescored = rescoring.in_float32(predictor, model, images)
    is_float32 = rescored or predictor.params.precision == "float32"
    limit = parity.TOLERANCE if is_float32 else parity.HALF_TOLERANCE
    partial = args.output_dir.with_name(args.output_dir.name + storage.PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    target = partial / "saved_model" / VERSION
    target.mkdir(parents=True)
    saved_model.save(model, predictor.points, target)
    checked = [*parity.drawn_images(predictor.image_size), *parity.as_png(val[0])]
    difference = parity.require_same(target, predictor, checked, limit)
    files = {f"saved_model/{VERSION}": {"takes": TAKES["bytes"], "images": len(checked), "difference": difference}}
    files |= convert(partial, predictor, model, val=val, limit=limit, args=args)
    result = describe(args, predictor, files) | {"rescored": rescored}
    storage.write_json(partial / "export.json", result)
    card.write_card(partial, args.model_dir, predictor.params, result)
    partial.rename(args.output_dir)
    return result


def main(argv: list[str] | None = None) -> None:
    """Export one experiment."""
    args = parse_args(argv)
    with one_line_errors():
        result = export(args)
        for name, found in result["files"].items():
            lost = (found.get("mean_auroc") or {"lost": None})["lost"]
            auroc = "" if lost is None else f", mean AUROC lost {lost:+.4f}"
            other = "itself in float32" if result["rescored"] else "predict.py"
            print(f"{name:22} within {found['difference']:.1g} of {other}{auroc} ({found['images']} images)")
        if result["rescored"]:
            print(card.rescored(result["rescored"]))
        if all(of["thresholds"] is None for of in result["findings"].values()):
            print(f"no operating points. Run: {operating.advice(args.model_dir, args.checkpoint)} and export again")
        print(f"written: {args.output_dir}, with export.json and MODEL_CARD.md")


if __name__ == "__main__":
    main()
