"""MODEL_CARD.md: what an exported model is, what it was trained on, how good it is, and what it is not for."""

import pathlib

from cxr import experiment, storage
from cxr.params import Params

LIMITS = """\
- **Not a medical device, not for clinical use.** Nobody has tested it on patients.
- The labels it learnt from were mined from radiology reports by a text classifier, whose authors put its accuracy above
  90 %; they are no radiologist's reading of the image, and no finding above its operating point does not mean healthy.
- One hospital, frontal views, 8-bit images that their publisher resized to 1024 x 1024. Other devices, views, ages and
  populations are other data: evaluate there first.
- Calibration and operating points come from that hospital's val split; where findings are rarer or more common,
  calibrated probabilities are too high or too low.
"""


def write_card(folder: pathlib.Path, model_dir: pathlib.Path, params: Params, export: dict) -> None:
    """Write MODEL_CARD.md.

    Args:
        export: what export.json says.
    """
    info = experiment.dataset_of(model_dir)
    sections = [
        f"# {model_dir.resolve().name}: 14 findings in chest radiographs",
        f"`{params.model}`, checkpoint `{export['checkpoint']}`, code {export['git_sha'] or 'of no checkout'}. "
        f"Images become squares of {info['image_size']} pixels, grey; {extractors(params)}.",
        "## Trained on",
        trained_on(info),
        "## How good",
        quality(model_dir, export["checkpoint"]),
        "## Run",
        identity(export["run"]),
        "## Files",
        files(export),
        "## Limits",
        LIMITS.rstrip(),
    ]
    storage.write_text(folder / "MODEL_CARD.md", "\n\n".join(sections) + "\n")


def extractors(params: Params) -> str:
    """Which networks it stands on."""
    if not params.extractors:
        return "no pre-trained network"
    names = [spec.get("name") or spec.get("handle") or spec.get("model_dir") for spec in params.extractors]
    return f"over {', '.join(map(str, names))}, {'fine-tuned' if params.fine_tune else 'frozen'}"


def trained_on(info: dict) -> str:
    """Source, split and sizes, from dataset.json."""
    sizes = [
        f"{split} {info['splits'][split]['images']:,} images of {info['splits'][split]['patients']:,} patients"
        for split in ("train", "val", "test")
    ]
    return (
        f"NIH ChestX-ray14, labels of `{info['source']['csv']}`, split `{info['split']['name']}`: {', '.join(sizes)}. "
        f"Dataset {info['fingerprint'][:12]}. No patient is in two splits."
    )


def quality(model_dir: pathlib.Path, checkpoint: str) -> str:
    """AUROC by finding with its interval, and how the operating points do, of test or else of val."""
    split = next((s for s in ("test", "val") if experiment.metrics_path(model_dir, s, checkpoint).is_file()), None)
    if split is None:
        return f"Not evaluated. Run: `python evaluate.py --model_dir {model_dir} --split test`"
    result = storage.read_json(experiment.metrics_path(model_dir, split, checkpoint))
    chosen = "" if split == "test" else " **This is the split the checkpoint was chosen on, so it flatters.**"
    lines = [
        f"On {split}, {result['images']:,} images of {result['patients']:,} patients, 95 % intervals over patients."
        f"{chosen} A score is comparable only within one split.",
        "",
        "| finding | positives | AUROC | sensitivity | specificity |",
        "|---|---|---|---|---|",
    ]
    for name, of in result["findings"].items():
        cells = number(of["sensitivity"]), number(of["specificity"])
        lines.append(f"| {name} | {of['positives']:,} | {interval(of, 'auroc')} | {cells[0]} | {cells[1]} |")
    mean = result["mean_auroc"]
    return "\n".join([*lines, f"| mean of {mean['findings']} | | {interval(mean, 'value')} | | |"])


def identity(run: dict) -> str:
    """What the weights were trained from, out of run.json."""
    start = run["restore_from"]
    lines = [
        f"- trained in {run['precision']} on {run['device']}, features by the runtime {run['runtime']}, code "
        f"{run['git_sha'] or 'outside a checkout'}",
        f"- began with {start['model_dir'] + ' ' + start['weights_sha256'][:12] if start else 'initial weights'}",
        *(f"- frozen network `{name}`, SHA-256 of its weights {sha256}" for name, sha256 in run["networks"].items()),
        f"- libraries: {', '.join(f'{name} {version}' for name, version in run['library_versions'].items())}",
    ]
    return "\n".join(lines)


def rescored(found: dict) -> str:
    """What the arithmetic of the files changes, where it is not that of the experiment."""
    aurocs = found["mean_auroc"]
    return (
        f"The experiment was scored in {found['precision']}; the files compute in float32, which is another model. On "
        f"the {found['images']:,} images of val a probability differs by up to {found['difference']:.2g}, and the mean "
        f"AUROC is {number(aurocs['after'])} where the experiment has {number(aurocs['before'])}. Calibration and "
        "operating points of the files are fitted on val, as the files compute."
    )


def files(export: dict) -> str:
    """Every file with what the check at export found."""
    other = "the experiment in float32" if export["rescored"] else "predict.py"
    lines = [rescored(export["rescored"]), ""] if export["rescored"] else []
    lines += [f"| file | takes | largest difference from {other} | mean AUROC lost on val |", "|---|---|---|---|"]
    for name, found in export["files"].items():
        aurocs = found.get("mean_auroc") or {"lost": None}
        lost = "" if aurocs["lost"] is None else f"{aurocs['lost']:+.4f} ({found['images']:,} images)"
        lines.append(f"| `{name}` | {found['takes']} | {found['difference']:.1g} | {lost} |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three decimals; nothing where undefined."""
    return "" if value is None else f"{value:.3f}"


def interval(of: dict, key: str) -> str:
    """A value with its interval."""
    if of[key] is None:
        return "undefined"
    return number(of[key]) + ("" if of["low"] is None else f" [{of['low']:.3f}, {of['high']:.3f}]")
