"""MODEL_CARD.md: what an exported model does, how well, what it was trained on, and what it must not be used for."""

import pathlib

from cxr import experiment, seen, specs, storage
from cxr.evaluation import pretraining
from cxr.params import Params

WARNING = "**Research only. Not a medical device, not for clinical use.** It has not been tested on patients."
OUTPUTS = """\
For each of 14 findings the model gives a probability. Findings are independent: an image can have several or none.

- `probabilities` come straight from the network. `calibrated` is corrected on the validation images, so that 0.2 means
  one patient in five: show this one to people.
- `calls` is 1 if the probability is at or above the finding's operating point (Youden's index on the validation
  images), 0 if it is below, and -1 if there were too few positives to choose one.
- TFLite and ONNX files return `probabilities` only; the operating points and the calibration are in `export.json`."""
LIMITS = """\
- The labels were extracted from radiology reports by a program. Its authors put its accuracy above 90 %; no radiologist
  has read the images for them.
- No finding above its operating point does not mean that the patient is healthy.
- All training images are frontal radiographs from one hospital, with 8 bits per pixel, resized by their publisher to
  1024 x 1024 pixels. Evaluate on your own images before use with other scanners, ages or populations.
- The files do not check whether an image is a frontal chest radiograph: they give probabilities and calls for a logo
  too. `predict.py` and `tools.serve` of the experiment do check, and call nothing for an image that is out of
  distribution.
- The operating points and the calibration fit the validation images. Where a finding is rarer, its calibrated
  probability is too high; where it is more common, too low."""


def write_card(folder: pathlib.Path, model_dir: pathlib.Path, params: Params, export: dict) -> None:
    """Write MODEL_CARD.md.

    Args:
        export: the content of export.json.
    """
    info = experiment.dataset_of(model_dir)
    sections = [
        f"# {model_dir.resolve().name}: 14 findings in chest radiographs",
        WARNING,
        "## Input",
        inputs(export["patient_inputs"], info),
        "## Output",
        OUTPUTS,
        "## Files",
        files(export),
        "## Performance",
        performance(model_dir, export["checkpoint"]),
        "## Training data",
        training_data(info),
        "## Training run",
        training_run(params, export),
        "## Limits",
        LIMITS,
    ]
    storage.write_text(folder / "MODEL_CARD.md", "\n\n".join(sections) + "\n")


def inputs(patient_inputs: list[str], info: dict) -> str:
    """What the model takes."""
    size = info["image_size"]
    image = (
        f"One frontal chest radiograph, grey, {size} x {size} pixels. The SavedModel resizes images itself; for TFLite "
        "and ONNX resize them first."
    )
    if not patient_inputs:
        return f"{image} Age, sex and view position are not used."
    return f"{image} Age, sex and view position (PA or AP) are optional inputs of the SavedModel."


def files(export: dict) -> str:
    """A row for every file with the result of its check."""
    lines = [rescored(export["rescored"]), ""] if export["rescored"] else []
    original = "the experiment in float32" if export["rescored"] else "`predict.py`"
    lines += [
        f"Every file was run on the number of images shown. Difference: the largest difference of any probability from "
        f"{original}.",
        "",
        "| file | input | difference | images | mean AUROC lost on val |",
        "|---|---|---|---|---|",
    ]
    for name, found in export["files"].items():
        aurocs = found.get("mean_auroc") or {"lost": None}
        lost = "" if aurocs["lost"] is None else f"{aurocs['lost']:+.4f}"
        lines.append(f"| `{name}` | {found['takes']} | {found['difference']:.1g} | {found['images']:,} | {lost} |")
    return "\n".join(lines)


def rescored(found: dict) -> str:
    """How the float32 files differ from an experiment that computes in another precision."""
    aurocs = found["mean_auroc"]
    return (
        f"The experiment was scored in {found['precision']}; the files compute in float32, which is another model. On "
        f"the {found['images']:,} val images a probability differs by up to {found['difference']:.2g}, and the mean "
        f"AUROC is {number(aurocs['after'])} instead of {number(aurocs['before'])}. The operating points and the "
        "calibration were fitted again for the files."
    )


def performance(model_dir: pathlib.Path, checkpoint: str) -> str:
    """AUROC with its interval, sensitivity and specificity of every finding, on test if evaluated, else on val."""
    split = next((s for s in ("test", "val") if experiment.metrics_path(model_dir, s, checkpoint).is_file()), None)
    if split is None:
        return f"Not evaluated. Run: `python evaluate.py --model_dir {model_dir} --split test`"
    result = storage.read_json(experiment.metrics_path(model_dir, split, checkpoint))
    chosen = "" if split == "test" else " **The weights were chosen on this split, so these numbers are too good.**"
    lines = [
        f"Measured on {split}: {result['images']:,} images of {result['patients']:,} patients.{chosen} Brackets are "
        "95 % intervals over patients. Sensitivity and specificity are those at the operating point. Do not compare "
        "these numbers with results on another split.",
        "",
        "| finding | positives | AUROC | sensitivity | specificity |",
        "|---|---|---|---|---|",
    ]
    for name, numbers in result["findings"].items():
        sensitivity, specificity = number(numbers["sensitivity"]), number(numbers["specificity"])
        auroc = with_interval(numbers, "auroc")
        lines.append(f"| {name} | {numbers['positives']:,} | {auroc} | {sensitivity} | {specificity} |")
    mean = result["mean_auroc"]
    return "\n".join([*lines, f"| mean of {mean['findings']} | | {with_interval(mean, 'value')} | | |"])


def training_data(info: dict) -> str:
    """Source, split and sizes, from dataset.json."""
    lines = [
        f"NIH ChestX-ray14 with the labels of `{info['source']['csv']}`, split `{info['split']['name']}`. No patient "
        f"is in two splits. Dataset fingerprint {info['fingerprint'][:12]}.",
        "",
        "| split | images | patients |",
        "|---|---|---|",
    ]
    for split in ("train", "val", "test"):
        counts = info["splits"][split]
        lines.append(f"| {split} | {counts['images']:,} | {counts['patients']:,} |")
    return "\n".join(lines)


def training_run(params: Params, export: dict) -> str:
    """Model, precision, device, initial weights and versions, from run.json."""
    run, start = export["run"], export["run"]["restore_from"]
    features = f"; features computed by {run['runtime']}" if run["networks"] else ""
    lines = [
        f"- model `{params.model}`, checkpoint `{export['checkpoint']}`, {origin(params)}",
        *(
            f"- member `{member['model_dir']}`, model `{member['params']['model']}`, SHA-256 of its weights "
            f"{member['weights_sha256'][:12]}"
            for member in run.get("members", [])
        ),
        f"- trained in {run['precision']} on {run['device']}{features}",
        *([f"- initial weights: `{start['model_dir']}`, SHA-256 {start['weights_sha256'][:12]}"] if start else []),
        *(f"- frozen network `{name}`, SHA-256 of its weights {sha256}" for name, sha256 in run["networks"].items()),
        *pretraining_of(params),
        f"- code: trained with {run['git_sha'] or 'unknown'}, exported with {export['git_sha'] or 'unknown'}",
        f"- libraries: {', '.join(f'{name} {version}' for name, version in run['library_versions'].items())}",
    ]
    return "\n".join(lines)


def origin(params: Params) -> str:
    """The pre-trained networks of an experiment, or the number of its members."""
    if params.members:
        return f"the mean of the logits of {len(params.members)} experiments"
    if not params.extractors:
        return "no pre-trained network"
    names = [next(spec[key] for key in specs.IDENTIFYING if key in spec) for spec in params.extractors]
    return f"pre-trained {', '.join(map(str, names))}, {'fine-tuned' if params.fine_tune else 'frozen'}"


def pretraining_of(params: Params) -> list[str]:
    """What each pretrained network has seen, and a warning where that may include images of test."""
    networks = pretraining.networks_seen(params)
    lines = [f"- image sets that `{name}` has seen: {seen.words(sets)}" for name, sets in networks.items()]
    tested = [name for name, sets in networks.items() if seen.scored(sets or [], "test", "official")]
    warning = "has seen images of NIH's official test list: its performance there may be too good"
    return lines + [f"- **`{name}` {warning}.**" for name in tested]


def number(value: float | None) -> str:
    """Three decimals; empty if undefined."""
    return "" if value is None else f"{value:.3f}"


def with_interval(values: dict, key: str) -> str:
    """A value with its interval."""
    if values[key] is None:
        return "undefined"
    return number(values[key]) + ("" if values["low"] is None else f" [{values['low']:.3f}, {values['high']:.3f}]")
