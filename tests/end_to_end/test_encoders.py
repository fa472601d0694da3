"""Each source of encoders from training to the report, on a small release with boxes."""

import json
import re

import keras
import pytest
from support.onnx_files import write_encoder

import evaluate
import predict
import train
from cxr import storage
from cxr.evaluation import localization
from tools import export, localize, report

pytestmark = pytest.mark.usefixtures("few_resamples")
BOXES = """Image Index,Finding Label,Bbox [x,y,w,h],,,
00000009_001.png,Mass,512,512,256,256,,,
00000010_000.png,Nodule,100,100,300,300,,,
"""
FAST = {"hidden_units": [4], "num_epochs": 1, "batch_size": 8, "warmup_epochs": 0}


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_release, build):
    """A release of ten patients, the last two of them test, with two boxes; its records; and heat maps of 64 pixels."""
    root = tmp_path_factory.mktemp("world")
    release = write_release(root / "release", patients=10)
    (release / "BBox_List_2017.csv").write_text(BOXES)
    build(release, root / "records", "--ratios", 0.6, 0.2, 0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(localization, "SIDE", 64)
        yield root


def run_all(world, name: str, extractors: list[dict], capsys) -> dict[str, str]:
    """Train, evaluate, predict, localize and report; returns what evaluate, localize and predict printed, the page."""
    folder = world / name
    folder.mkdir()
    model = "ensemble" if len(extractors) > 1 else "feature_extractor"
    (folder / "params.json").write_text(json.dumps(FAST | {"model": model, "extractors": extractors}))
    image = world / "release/images/00000009_001.png"
    printed = {}
    for command, flags in (
        (train, ["--data_dir", world / "records"]),
        (evaluate, ["--data_dir", world / "records", "--split", "test"]),
        (predict, [image, "--heatmaps", folder / "maps"]),
        (localize, ["--data_dir", world / "release"]),
        (report, ["--data_dir", world / "records"]),
    ):
        command.main([str(flag) for flag in ("--model_dir", folder, *flags)])
        printed[command.__name__.rpartition(".")[2]] = capsys.readouterr().out
    assert len(list((folder / "maps").glob("*.png"))) >= 1
    result = storage.read_json(folder / "localization/localization.json")
    assert {"heat_map", "random", "shifted"} <= result["findings"]["Mass"].keys()
    return printed | {"page": (folder / "report_test.html").read_text()}


def test_a_preset_of_keras_hub_from_training_to_the_report(world, capsys):
    keras_hub = pytest.importorskip("keras_hub", reason="no keras-hub. Run: pip install -r requirements/hub.txt")
    keras.utils.set_random_seed(1)
    preset = str(world / "vit_tiny")
    vision = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 32}
    keras_hub.models.ViTBackbone(**vision, image_shape=(32, 32, 3)).save_to_preset(preset)
    keras_hub.layers.ViTImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1).save_to_preset(preset)
    printed = run_all(world, "hub", [{"source": "keras_hub", "preset": preset, "token": "mean"}], capsys)
    assert "network vit_tiny: fed 32 x 32 pixels, black is -1, white is 1" in printed["train"]
    assert "image sets that the pretrained networks have seen: vit_tiny: not stated" in printed["evaluate"]
    assert "occlusion" in printed["localize"]


def test_onnx_encoders_from_training_to_the_report(world, capsys):
    pytest.importorskip("openvino", reason="no OpenVINO. Run: pip install -r requirements/cpu.txt")
    paths = [write_encoder(world / f"{name}.onnx", channels=channels) for name, channels in (("rgb", 3), ("grey", 1))]
    keys = {"source": "onnx", "range": [-1024, 1024]}
    extractors = [keys | {"path": str(paths[0]), "seen": ["nih_test"]}, keys | {"path": str(paths[1]), "seen": []}]
    printed = run_all(world, "onnx", extractors, capsys)
    assert "network rgb: has seen nih_test" in printed["train"]
    assert "network grey: fed 16 x 16 pixels, black is -1024, white is 1024" in printed["train"]
    assert "SEEN: rgb was pretrained on nih_test; the scores may be too good" in printed["evaluate"].splitlines()
    assert "SEEN: rgb was pretrained on nih_test; the results may be too good" in printed["localize"].splitlines()
    assert '<p class="warning">SEEN: rgb was pretrained on nih_test; the scores may be too good</p>' in printed["page"]
    text = r"^error: method grad_cam needs gradients, but an encoder of source 'onnx' has no Keras layers"
    flags = ["--model_dir", world / "onnx", "--data_dir", world / "release", "--method", "grad_cam"]
    with pytest.raises(SystemExit, match=text):
        localize.main([str(flag) for flag in flags])
    text = (
        rf"^error: {re.escape(str(world / 'onnx'))}: an encoder of source 'onnx' has no Keras layers: it cannot be exp"
    )
    with pytest.raises(SystemExit, match=text):
        export.main(["--model_dir", str(world / "onnx"), "--output_dir", str(world / "exported")])
    for path in paths:
        path.unlink()  # the experiment keeps its own networks
    predict.main(["--model_dir", str(world / "onnx"), str(world / "release/images/00000009_001.png")])
    assert printed["predict"] == capsys.readouterr().out
