"""Each source of encoders from training to the report, on a small release with boxes."""

import json
import re

import keras
import pytest
import tensorflow as tf
from support.onnx_files import write_encoder
from support.tiny import save_tiny

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


class Rows(tf.Module):
    """A hub module whose features are the means of the 32 rows of an image."""

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)])
    def __call__(self, images):
        return tf.reduce_mean(images, [2, 3])


def test_networks_of_every_source_but_onnx_from_training_to_the_report(world, capsys):
    keras_hub = pytest.importorskip("keras_hub", reason="no keras-hub. Run: pip install -r requirements/hub.txt")
    keras.utils.set_random_seed(1)
    preset = str(world / "vit_tiny")
    vision = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 32}
    keras_hub.models.ViTBackbone(**vision, image_shape=(32, 32, 3)).save_to_preset(preset)
    keras_hub.layers.ViTImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1).save_to_preset(preset)
    tf.saved_model.save(Rows(), str(world / "rows"))
    (world / "cnn").mkdir()
    small = {"image_size": 32, "num_channels": 4, "num_blocks": 1, "num_epochs": 1, "batch_size": 8}
    (world / "cnn/params.json").write_text(json.dumps(small))
    train.main(["--model_dir", str(world / "cnn"), "--data_dir", str(world / "records")])
    extractors = [
        {"source": "keras_hub", "preset": preset, "token": "mean"},
        save_tiny(world / "tiny.weights.h5"),
        {"source": "hub", "handle": str(world / "rows"), "image_size": 32},
        {"source": "experiment", "model_dir": str(world / "cnn")},
    ]
    printed = run_all(world, "four", extractors, capsys)
    assert "network vit_tiny: fed 32 x 32 pixels, black is -1, white is 1" in printed["train"]
    assert "network rows: fed 32 x 32 pixels, black is 0, white is 1" in printed["train"]
    line = "image sets that the pretrained networks have seen: vit_tiny: not stated; Tiny: not stated; rows: not "
    line += "stated; cnn: train_of_official_split"
    assert line in printed["evaluate"]
    assert line in printed["localize"]
    assert line in printed["page"]
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
