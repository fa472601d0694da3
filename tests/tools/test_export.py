import base64
import io
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.ready import make_experiment

from cxr.findings import FINDINGS
from cxr.images.decode import decode_grey
from cxr.images.resize import resize_square
from cxr.patient import Patient
from inference.predictor import Predictor
from tools import export
from tools.exporting import card, converters, decoding, parity, saved_model

NOISE = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)  # RGB, 130 wide
SIZE = 48


def encoded(pixels, kind="PNG", mode=None, **options):
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def graph():
    """A function from the bytes of a file to its SIZE x SIZE pixels, in TensorFlow."""
    run = tf.function(lambda encoded: decoding.decode_squares(encoded, SIZE), autograph=False)
    return lambda data: run(tf.constant([data])).numpy()[0, :, :, 0]


@pytest.fixture(scope="module")
def model_dir(built_dataset, tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("experiments") / "tiny", built_dataset)


@pytest.fixture(scope="module")
def predictor(model_dir):
    return Predictor(model_dir)


@pytest.fixture(scope="module")
def exported(model_dir, built_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "tiny"
    flags = ["--model_dir", str(model_dir), "--output_dir", str(folder), "--data_dir", str(built_dataset)]
    export.main([*flags, "--tflite"])
    return folder


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(NOISE[..., 0]), id="grey"),
        pytest.param(encoded(NOISE), id="rgb"),
        pytest.param(encoded(np.dstack([NOISE, NOISE[..., 0]])), id="rgba"),
        pytest.param(encoded(NOISE[..., 0], mode="LA"), id="grey and alpha"),
        pytest.param(encoded(NOISE, mode="P"), id="palette"),
        pytest.param(encoded(NOISE, mode="1"), id="one bit"),
        pytest.param(encoded(NOISE[..., 0].astype(np.uint16) * 257 - 9), id="16 bit"),
        pytest.param(encoded(NOISE[..., 0], "JPEG"), id="grey jpeg"),
        pytest.param(encoded(NOISE // 2 + 60, "JPEG", quality=85), id="rgb jpeg"),
        pytest.param(encoded(NOISE // 2 + 60, "JPEG", progressive=True, subsampling=0), id="progressive jpeg"),
    ],
)
def test_every_form_of_png_and_jpeg_decodes_to_the_pixels_of_a_build(graph, data):
    np.testing.assert_array_equal(graph(data), resize_square(decode_grey(data), SIZE))


@pytest.mark.parametrize(
    ("height", "width"),
    [
        pytest.param(48, 48, id="unchanged"),
        pytest.param(33, 32, id="enlarged"),
        pytest.param(49, 47, id="hardly changed"),
        pytest.param(96, 96, id="half"),
        pytest.param(191, 190, id="just too small for averaging"),
        pytest.param(192, 192, id="averaged over 2 x 2"),
        pytest.param(301, 403, id="averaged, smaller blocks at both edges"),
        pytest.param(1024, 1024, id="release"),
        pytest.param(701, 100, id="tall, rows first"),
        pytest.param(100, 701, id="wide"),
        pytest.param(97, 48, id="just rows first"),
        pytest.param(96, 48, id="just not rows first"),
    ],
)
def test_resizing_equals_pillow_bit_for_bit(graph, height, width):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width), np.uint8)
    np.testing.assert_array_equal(graph(encoded(pixels)), resize_square(pixels, SIZE))


def test_random_sizes_resize_bit_for_bit(graph):
    random = np.random.default_rng(1)
    for height, width in random.integers(32, 500, (40, 2)):
        pixels = random.integers(0, 256, (height, width), np.uint8)
        difference = graph(encoded(pixels)) != resize_square(pixels, SIZE)
        assert not difference.any(), (height, width)


def test_signature_outputs_by_hand(predictor):
    """The fixture has operating points of 0.5 and calibration sigmoid(2 * logit - 1); Hernia has neither."""
    logits = tf.constant([[0.0] * 14, [1.0] * 13 + [-30.0]])
    found = {key: value.numpy() for key, value in saved_model.signature_outputs(logits, predictor.points).items()}
    assert found["probabilities"][0] == pytest.approx([0.5] * 14)
    assert found["calibrated"][:, 0] == pytest.approx([1 / (1 + math.e), 1 / (1 + math.exp(-1))])
    assert found["calibrated"][1, 13] == found["probabilities"][1, 13] == pytest.approx(math.exp(-30))
    assert found["calls"].tolist() == [[1] * 13 + [-1]] * 2
    assert [name.decode() for name in found["findings"][1]] == list(FINDINGS)
    assert found["thresholds"][0, :13] == pytest.approx([0.5] * 13)
    assert found["calibrated_thresholds"][0, :13] == pytest.approx([1 / (1 + math.e)] * 13)
    assert np.isnan(found["thresholds"][:, 13]).all()


def test_the_saved_model_needs_only_tensorflow_and_predicts_as_predict_py(exported, predictor, tmp_path):
    files = [encoded(NOISE), encoded(NOISE[..., 0], "JPEG")]
    code = (
        "import base64, json, sys, tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures\n"
        "files = [base64.b64decode(file) for file in json.load(sys.stdin)]\n"
        "answer = serve['serving_default'](image_bytes=tf.constant(files))\n"
        "loaded = [name for name in ('cxr', 'predict', 'tools') if name in sys.modules]\n"
        "print(json.dumps([answer['probabilities'].numpy().tolist(), sorted(serve), loaded]))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(exported / "saved_model/1")],
        input=json.dumps([base64.b64encode(file).decode() for file in files]),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    probabilities, signatures, loaded = json.loads(done.stdout)
    ours = predictor.predict([predictor.read(file) for file in files])
    np.testing.assert_allclose(probabilities, [reading.probabilities for reading in ours], rtol=0, atol=1e-6)
    assert signatures == ["pixels", "serving_default"]
    assert loaded == []


def test_the_pixels_signature_takes_any_size(exported, predictor):
    serve = tf.saved_model.load(str(exported / "saved_model/1")).signatures["pixels"]
    pixels = np.stack([NOISE[..., 0], NOISE[..., 1]])[..., None]
    found = serve(image=tf.constant(pixels))["calibrated"].numpy()
    ours = predictor.predict([predictor.read(encoded(image[:, :, 0])) for image in pixels])
    np.testing.assert_allclose(found, [reading.calibrated for reading in ours], rtol=0, atol=1e-6)


def test_the_folder_has_everything_that_a_client_needs(exported, built_dataset):
    names = {path.name for path in exported.iterdir()}
    assert names == {"saved_model", "model.float16.tflite", "model.int8.tflite", "export.json", "MODEL_CARD.md"}
    written = json.loads((exported / "export.json").read_text())
    assert list(written["findings"]) == list(FINDINGS)
    assert written["findings"]["Mass"] == {"thresholds": 0.5, "slopes": 2.0, "intercepts": -1.0}
    assert written["findings"]["Hernia"] == {"thresholds": None, "slopes": None, "intercepts": None}
    val = json.loads((built_dataset / "dataset.json").read_text())["splits"]["val"]["images"]
    assert {found["images"] for found in written["files"].values()} == {24 + val, val}
    for name, bound in (("saved_model/1", 1e-5), ("model.float16.tflite", 0.02), ("model.int8.tflite", 0.5)):
        assert written["files"][name]["difference"] < bound
    lost = written["files"]["model.int8.tflite"]["mean_auroc"]
    assert lost["lost"] == pytest.approx(lost["before"] - lost["after"])
    text = (exported / "MODEL_CARD.md").read_text()
    assert "Not a medical device, not for clinical use." in text
    assert "- The files do not check whether an image is a frontal chest radiograph" in text
    assert "| `model.int8.tflite` | `image`, uint8 [1, 32, 32, 1] |" in text


def test_the_tflite_file_predicts_as_predict_py(exported, predictor):
    square = predictor.read(encoded(NOISE)).square[None, ..., None]
    found = converters.tflite_runner((exported / "model.float16.tflite").read_bytes())(square)
    ours = predictor.predict([predictor.read(encoded(NOISE))])[0].probabilities
    np.testing.assert_allclose(found[0], ours, rtol=0, atol=0.01)


def test_tflite_rejects_a_network_that_resizes_its_input(built_dataset, tmp_path):
    model_dir = make_experiment(tmp_path / "resizing", built_dataset, image_size=48)  # the dataset has 32
    text = (
        "error: this network resizes its input, because image_size in params.json differs from the dataset's; TFLite "
        "cannot do that. Leave out --tflite, or build the dataset with that --image_size and train again"
    )
    with pytest.raises(SystemExit) as caught:
        export.main(["--model_dir", str(model_dir), "--output_dir", str(tmp_path / "out"), "--tflite"])
    assert str(caught.value) == text


def test_the_onnx_file_predicts_as_the_model(model_dir, tmp_path, capsys):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    export.main(["--model_dir", str(model_dir), "--output_dir", str(tmp_path / "out"), "--onnx"])
    assert "model.onnx             within " in capsys.readouterr().out
    assert json.loads((tmp_path / "out/export.json").read_text())["files"]["model.onnx"]["difference"] < 1e-4


def test_without_tf2onnx_the_error_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"an ONNX file needs tf2onnx. Run: pip install -r requirements/export.txt"):
        converters.require_onnx()


def test_a_model_with_patient_inputs_has_signatures_for_them(built_dataset, tmp_path):
    predictor = Predictor(make_experiment(tmp_path / "with_patient_inputs", built_dataset, metadata=True))
    saved_model.save(predictor.network.keras_model(), predictor.points, tmp_path / "saved")
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures
    assert sorted(serve) == ["patient", "patient_pixels", "pixels", "serving_default"]
    data, patient = encoded(NOISE), Patient(80.0, "M", "AP")
    codes = {"age": tf.constant([80.0]), "sex": tf.constant([1]), "view_position": tf.constant([1])}
    unknown, known = (
        predictor.predict([predictor.read(data, inputs)])[0].probabilities for inputs in (Patient(), patient)
    )
    assert np.abs(known - unknown).max() > 1e-3
    found = serve["serving_default"](image_bytes=tf.constant([data]))["probabilities"][0]
    np.testing.assert_allclose(found, unknown, rtol=0, atol=1e-6)
    found = serve["patient"](image_bytes=tf.constant([data]), **codes)["probabilities"][0]
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-6)


def test_an_experiment_with_a_hub_module_is_exported(built_dataset, tmp_path):
    class Means(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = tf.Variable(np.random.default_rng(0).normal(0, 20, (48, 5)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)])
        def __call__(self, images):
            return tf.reshape(tf.nn.avg_pool2d(images, 8, 8, "VALID"), [-1, 48]) @ self.weights

    tf.saved_model.save(Means(), str(tmp_path / "hub"))
    spec = {"source": "hub", "handle": str(tmp_path / "hub"), "image_size": 32}
    model_dir = make_experiment(
        tmp_path / "with_hub", built_dataset, model="feature_extractor", extractors=[spec], hidden_units=[8]
    )
    with_hub = Predictor(model_dir)
    saved_model.save(with_hub.network.keras_model(), with_hub.points, tmp_path / "saved")
    assert parity.require_same(tmp_path / "saved", with_hub, parity.drawn_images(32)[:4]) < 1e-5


def test_a_file_with_other_predictions_is_not_exported(model_dir, tmp_path, monkeypatch):
    right = saved_model.signature_outputs
    wrong = lambda logits, points: right(logits + 0.01, points)  # noqa: E731
    monkeypatch.setattr(saved_model, "signature_outputs", wrong)
    with pytest.raises(SystemExit, match=r"error: the SavedModel differs from predict.py by up to 0.00\d+ in a prob"):
        export.main(["--model_dir", str(model_dir), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"it differs from predict.py by up to nan"):
        parity.require_close(math.nan, "it")


def test_an_export_is_not_overwritten(model_dir, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {tmp_path} already exists; delete it or give another --output_dir"):
        export.main(["--model_dir", str(model_dir), "--output_dir", str(tmp_path)])


def test_lost_auroc_by_hand():
    labels, before = np.zeros((4, 14), np.int64), np.zeros((4, 14), np.float32)
    labels[2:, 0], before[:, 0] = 1, [0.1, 0.2, 0.3, 0.4]
    after = before.copy()
    after[:, 0] = [0.1, 0.35, 0.3, 0.4]  # one of the four pairs is in the wrong order
    found = parity.compare(lambda squares: after, parity.Samples(np.zeros((4, 2, 2, 1), np.uint8), labels), before)
    assert found["mean_auroc"] == pytest.approx({"before": 1.0, "after": 0.75, "lost": 0.25})
    assert found["difference"] == pytest.approx(0.15)


def test_the_card_shows_intervals_and_warns_about_val(tmp_path):
    numbers = {"auroc": 0.75, "low": 0.7, "high": 0.8, "positives": 9, "sensitivity": 0.6, "specificity": None}
    result = {"images": 20, "patients": 12, "findings": {"Mass": numbers}}
    result["mean_auroc"] = {"value": 0.75, "low": None, "high": None, "findings": 1}
    assert card.performance(tmp_path, "best").startswith("Not evaluated. Run: `python evaluate.py")
    (tmp_path / "metrics_val_best.json").write_text(json.dumps(result))
    text = card.performance(tmp_path, "best")
    assert "The weights were chosen on this split, so these numbers are too good." in text
    assert "| Mass | 9 | 0.750 [0.700, 0.800] | 0.600 |  |" in text
    assert text.endswith("| mean of 1 | | 0.750 | | |")
    (tmp_path / "metrics_test_best.json").write_text(json.dumps(result))
    assert card.performance(tmp_path, "best").startswith("Measured on test: 20 images of 12 patients. Brackets")


def test_the_saved_model_predicts_84_real_images_as_predict_py(shared_dir, exported, predictor):
    serve = tf.saved_model.load(str(exported / "saved_model/1")).signatures["serving_default"]
    files = sorted((shared_dir / "nih-1024/images").iterdir())
    assert len(files) == 84
    for start in range(0, 84, 28):
        data = [file.read_bytes() for file in files[start : start + 28]]
        pictures = [predictor.read(one) for one in data]
        ours = np.stack([reading.probabilities for reading in predictor.predict(pictures)])
        squares = np.stack([picture.square for picture in pictures])[..., None]
        keras_model = tf.sigmoid(predictor.network.keras_model()({"image": squares}, training=False)).numpy()
        theirs = serve(image_bytes=tf.constant(data))["probabilities"].numpy()
        np.testing.assert_allclose(ours, keras_model, rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
