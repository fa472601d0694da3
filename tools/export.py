"""Export a trained experiment as a SavedModel that needs only TensorFlow, on request as TFLite and ONNX too.

    python -m tools.export --model_dir experiments/simple_cnn --output_dir exported/simple_cnn

The SavedModel takes the bytes of PNG and JPEG files. Decoding, resizing, normalisation, calibration and operating
points are inside. Every file is compared with predict.py before the folder appears. The folder also holds export.json
and MODEL_CARD.md. For TensorFlow Serving see docs/prediction_and_serving.md.
"""

import argparse
import pathlib
import shutil
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cxr import experiment, identity, storage
from cxr.errors import one_line_errors
from cxr.evaluation import operating_points, provenance
from cxr.findings import FINDINGS
from cxr.records.dataset import Dataset, open_dataset
from inference.predictor import Predictor
from tools.exporting import card, converters, parity, rescoring, saved_model
from tools.exporting.parity import Samples

if TYPE_CHECKING:
    import keras

SAVED_MODEL = "saved_model/1"  # TensorFlow Serving expects a version number below the model's folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_dir", type=pathlib.Path, required=True, help="a trained experiment")
    add("--output_dir", type=pathlib.Path, required=True, help="a folder that does not exist yet")
    add("--checkpoint", choices=experiment.CHECKPOINTS, default="best", help="default: %(default)s")
    add("--tflite", action="store_true", help="also TFLite: float16, and int8 with --data_dir")
    add("--onnx", action="store_true", help="also ONNX; needs requirements/export.txt")
    add("--data_dir", type=epath.Path, help="a built dataset; its val split calibrates int8 and checks every file")
    add("--images", type=int, default=500, metavar="N", help="val images to check with; default: %(default)s")
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error(f"--images {args.images}: expected at least 1")
    return args


def export(
    model_dir: pathlib.Path,
    output_dir: pathlib.Path,
    *,
    checkpoint: str = "best",
    formats: Collection[str] = (),
    data_dir: epath.Path | None = None,
    num_images: int = 500,
) -> dict:
    """Write everything next to output_dir, check it, and rename it to output_dir; returns the content of export.json.

    Args:
        formats: "tflite" and "onnx", beside the SavedModel.
        data_dir: a built dataset to check with; None checks with drawn images only.

    Raises:
        FileNotFoundError: the experiment is not trained.
        ValueError: output_dir exists, the weights do not fit, or a file's predictions differ from predict.py's.
        ImportError: requirements/export.txt is needed.
    """
    require_exportable(output_dir, formats)
    predictor, rescored = Predictor(model_dir, checkpoint), None
    saved_model.require_tensorflow()
    images = open_images(data_dir, model_dir) if data_dir else None
    samples = parity.read_val(images, predictor.params, num_images) if images else None
    model = predictor.network.keras_model()
    limit = parity.tolerance(predictor.network.keras_precision)
    if not predictor.network.is_exact_in_keras:
        predictor, rescored = rescoring.in_float32(predictor, model, images)
    partial = output_dir.with_name(output_dir.name + storage.PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    files = {SAVED_MODEL: write_saved_model(partial, predictor, model, samples=samples, limit=limit)}
    files |= write_formats(partial, predictor, model, formats=formats, samples=samples, limit=limit)
    result = describe(model_dir, checkpoint, predictor, files) | {"rescored": rescored}
    storage.write_json(partial / "export.json", result)
    card.write_card(partial, model_dir, predictor.params, result)
    partial.rename(output_dir)
    return result


def require_exportable(output_dir: pathlib.Path, formats: Collection[str]) -> None:
    """Check what needs no model; raises as `export` does."""
    if output_dir.exists():
        raise ValueError(f"{output_dir} already exists; delete it or give another --output_dir")
    if "onnx" in formats:
        converters.require_onnx()


def open_images(data_dir: epath.Path, model_dir: pathlib.Path) -> Dataset:
    """Open a dataset whose images have the size that the experiment was trained on."""
    images = open_dataset(data_dir)
    provenance.require_image_size(images.info, experiment.dataset_of(model_dir), data_dir)
    return images


def write_saved_model(
    folder: pathlib.Path, predictor: Predictor, model: "keras.Model", *, samples: Samples | None, limit: float
) -> dict:
    """Write the SavedModel and compare it with predict.py; returns what the check found."""
    target = folder / SAVED_MODEL
    target.mkdir(parents=True)
    saved_model.save(model, predictor.points, target)
    checked = parity.drawn_images(predictor.image_size)
    if samples:
        checked += parity.as_png(samples.squares)
    difference = parity.require_same(target, predictor, checked, limit)
    takes = "bytes of PNG or JPEG files, or pixels of any size"
    return {"takes": takes, "images": len(checked), "difference": difference}


def write_formats(
    folder: pathlib.Path,
    predictor: Predictor,
    model: "keras.Model",
    *,
    formats: Collection[str],
    samples: Samples | None,
    limit: float,
) -> dict[str, dict]:
    """Write TFLite and ONNX files and compare them with the model; returns {file name: what the check found}."""
    if not formats:
        return {}
    model, size = converters.with_probabilities(model), predictor.image_size
    runs = {}
    if "tflite" in formats:
        runs |= converters.write_tflite(model, folder, samples.squares if samples else None)
    if "onnx" in formats:
        runs |= converters.write_onnx(model, folder)
    samples = samples or parity.drawn_samples(predictor)
    expected = np.asarray(model.predict({"image": samples.squares}, verbose=0)["probabilities"])
    found = {name: parity.compare(run, samples, expected) for name, run in runs.items()}
    if "model.onnx" in found:
        parity.require_close(found["model.onnx"]["difference"], "model.onnx", limit)
    takes = f"`image`, uint8 [1, {size}, {size}, 1]"
    return {name: {"takes": takes, **check} for name, check in found.items()}


def describe(model_dir: pathlib.Path, checkpoint: str, predictor: Predictor, files: dict[str, dict]) -> dict:
    """The content of export.json: operating points, provenance and the check of every file."""
    points = predictor.points
    columns = zip(*(np.where(np.isnan(column), None, column).tolist() for column in points), strict=True)
    return {
        "model_dir": str(model_dir),
        "checkpoint": checkpoint,
        "image_size": predictor.image_size,
        "patient_inputs": predictor.network.input[1:],  # beside the image
        "findings": {
            name: dict(zip(points._fields, row, strict=True)) for name, row in zip(FINDINGS, columns, strict=True)
        },
        "trained_on": provenance.dataset_facts(experiment.dataset_of(model_dir)),
        "run": identity.read(model_dir),
        "files": files,
        "git_sha": experiment.git_sha(),
        "library_versions": experiment.library_versions(),
    }


def print_result(result: dict) -> None:
    """Print a line for every file, and what is missing."""
    original = "the experiment in float32" if result["rescored"] else "predict.py"
    for name, found in result["files"].items():
        lost = (found.get("mean_auroc") or {"lost": None})["lost"]
        auroc = "" if lost is None else f", mean AUROC lost {lost:+.4f}"
        print(f"{name:22} within {found['difference']:.1g} of {original}{auroc} ({found['images']} images)")
    if result["rescored"]:
        print(card.rescored(result["rescored"]))
    if all(points["thresholds"] is None for points in result["findings"].values()):
        advice = operating_points.advice(pathlib.Path(result["model_dir"]), result["checkpoint"])
        print(f"no operating points. Run: {advice} and export again")


def main(argv: list[str] | None = None) -> None:
    """Export one experiment."""
    args = parse_args(argv)
    formats = [name for name in ("tflite", "onnx") if getattr(args, name)]
    with one_line_errors():
        result = export(
            args.model_dir,
            args.output_dir,
            checkpoint=args.checkpoint,
            formats=formats,
            data_dir=args.data_dir,
            num_images=args.images,
        )
        print_result(result)
        print(f"written: {args.output_dir}, with export.json and MODEL_CARD.md")


if __name__ == "__main__":
    main()
