import csv
import io
import json
import math
import struct
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from support.ready import make_experiment

import predict
from cxr.findings import FINDINGS
from cxr.patient import UNKNOWN_PATIENT, Patient
from inference import readings
from inference.files import find_files
from inference.predictor import Predictor

SOFT = np.clip(np.random.default_rng(0).normal(120, 40, (40, 48)), 0, 255).astype(np.uint8)  # 48 wide


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model_dir(built_dataset, tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("experiments") / "tiny", built_dataset)


@pytest.fixture(scope="module")
def predictor(model_dir):
    return Predictor(model_dir)


@pytest.fixture
def xrays(tmp_path):
    """A folder of five readable images, two of them in a subfolder, and a text file."""
    folder = tmp_path / "xrays"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(["a.png", "b.jpg", "c.webp", "more/a.png", "more/noending"]):
        kind = {"jpg": "JPEG", "webp": "WEBP"}.get(name.split(".")[-1], "PNG")
        (folder / name).write_bytes(encoded(np.roll(SOFT, 5 * index), kind))
    (folder / "notes.txt").write_text("ignored")
    return folder


def run(capsys, *flags):
    """(exit code, stdout, stderr) of predict.main, in this process."""
    code = 0
    try:
        predict.main([str(flag) for flag in flags])
    except SystemExit as ended:
        code = 1 if isinstance(ended.code, str) else ended.code
        print(ended.code, file=sys.stderr)
    out, err = capsys.readouterr()
    return code, out, err


def test_probabilities_equal_those_of_the_keras_model(predictor):
    pictures = [predictor.read(encoded(np.roll(SOFT, shift))) for shift in range(3)]
    found = predictor.predict(pictures)
    squares = np.stack([picture.square for picture in pictures])[..., None]
    logits = predictor.network.keras_model().predict({"image": squares}, verbose=0)
    np.testing.assert_allclose([reading.probabilities for reading in found], 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert (
        np.ptp([reading.probabilities for reading in found], axis=0).max() > 1e-3
    )  # different images have different predictions


def test_outputs_that_are_nan_are_an_error(predictor):
    keras_model = keras.models.clone_model(predictor.network.keras_model())
    keras_model.set_weights([np.full_like(weights, np.nan) for weights in keras_model.get_weights()])
    damaged = predictor.with_network(keras_model, predictor.points)
    with pytest.raises(ValueError, match=r"^the network's outputs are NaN or infinite: its weights are damaged; train"):
        damaged.predict([damaged.read(encoded(SOFT))])


def test_an_image_has_the_same_predictions_alone_and_in_a_batch(predictor):
    pictures = [predictor.read(encoded(np.roll(SOFT, shift))) for shift in range(3)]
    together = predictor.predict(pictures, rows=8)
    assert len(together) == 3
    np.testing.assert_allclose(
        predictor.predict(pictures[2:])[0].probabilities, together[2].probabilities, rtol=0, atol=1e-6
    )


def test_the_table_the_csv_and_the_json_agree(capsys, model_dir, predictor, xrays, tmp_path):
    code, out, err = run(capsys, "--model_dir", model_dir, xrays, "--output", tmp_path / "new/p.csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader((tmp_path / "new/p.csv").read_text().splitlines()))
    names = ["a.png", "b.jpg", "c.webp", "more/a.png", "more/noending"]
    assert [row["file"] for row in rows] == [str(xrays / name) for name in names]
    kinds = [f"{kind}_{finding}" for kind in ("prob", "call", "calibrated") for finding in FINDINGS]
    assert list(rows[0]) == ["file", *kinds, "out_of_distribution", "distance"]
    reading = predictor.predict([predictor.read((xrays / "b.jpg").read_bytes())])[0]
    assert float(rows[1]["prob_Mass"]) == pytest.approx(reading.probabilities[4], abs=1e-6)
    assert float(rows[1]["calibrated_Mass"]) == pytest.approx(reading.calibrated[4], abs=1e-6)
    assert rows[1]["call_Mass"] == str(int(reading.probabilities[4] >= 0.5))
    assert rows[1]["call_Hernia"] == ""
    lines = out.splitlines()
    assert lines[1].split() == ["file", *readings.ABBREVIATIONS, "called"]
    shown = lines[3].removeprefix(("..." + str(xrays / "b.jpg")[-33:]).ljust(36)).split("  ", 1)
    assert (", ".join(reading.called) or "-") in lines[3]
    assert readings.percent(reading.calibrated[4]) in shown[-1].split()
    run(capsys, "--model_dir", model_dir, xrays / "b.jpg", "--output", tmp_path / "p.json")
    image = json.loads((tmp_path / "p.json").read_text())["images"][0]
    assert image["findings"]["Mass"]["probability"] == pytest.approx(float(rows[1]["prob_Mass"]), abs=1e-6)
    assert image["findings"]["Hernia"] | {"probability": 0, "calibrated": 0} == {
        "probability": 0, "calibrated": 0, "threshold": None, "calibrated_threshold": None, "call": None,
    }  # fmt: skip
    assert image["findings"]["Mass"]["calibrated_threshold"] == pytest.approx(1 / (1 + math.e))


def test_an_unreadable_file_is_one_line_and_the_others_are_still_read(capsys, model_dir, xrays, tmp_path):
    (xrays / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 20_000, 20_000, 8, 0, 0, 0, 0) + bytes(4)
    )
    (xrays / "one.png").write_bytes(encoded(SOFT[:1, :1]))
    (xrays / "page.png").write_text("<html>")
    code, out, err = run(capsys, "--model_dir", model_dir, xrays, "--output", tmp_path / "p.json")
    assert code == 1
    assert err.splitlines() == [
        f"unreadable: {xrays}/huge.png: declares 20000 x 20000 pixels, over the limit of 67,108,864",
        f"unreadable: {xrays}/one.png: 1 x 1 pixels, under 32 a side",
        f"unreadable: {xrays}/page.png: not a PNG, JPEG, WebP or DICOM image (6 bytes, starting '<html>')",
        "error: 3 of 8 files could not be read",
    ]
    assert len(out.splitlines()) == 2 + 5 + 1
    written = json.loads((tmp_path / "p.json").read_text())
    assert (len(written["images"]), len(written["unreadable"])) == (5, 3)
    assert written["unreadable"][1] == {"file": f"{xrays}/one.png", "error": "1 x 1 pixels, under 32 a side"}


def test_an_error_without_any_readable_file_has_no_traceback(capsys, model_dir, tmp_path):
    (tmp_path / "x.png").write_text("no")
    code, _, err = run(capsys, "--model_dir", model_dir, tmp_path / "x.png")
    assert (code, err.splitlines()[-1]) == (1, "error: 1 of 1 files could not be read")


def test_the_warnings_of_a_file_are_one_line(capsys, model_dir, tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(np.zeros((90, 33), np.uint8)))
    code, _, err = run(capsys, "--model_dir", model_dir, tmp_path / "x.png")
    text = "33 x 90 pixels, far from square; blank or nearly so: the standard deviation of its grey values is 0.0"
    assert (code, err) == (0, f"warning: {tmp_path}/x.png: {text}\n")


def test_dicom_and_png_with_the_same_pixels_have_the_same_predictions(predictor, shared_dir):
    pytest.importorskip("pydicom")
    files = shared_dir / "odd/nih_dicom.dcm", shared_dir / "nih-1024/images/00000001_000.png"
    dicom, png = (predictor.predict([predictor.read(file.read_bytes())])[0] for file in files)
    np.testing.assert_allclose(dicom.probabilities, png.probabilities, rtol=0, atol=1e-6)


def test_without_pydicom_the_error_names_the_command_that_installs_it(capsys, model_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM")
    code, _, err = run(capsys, "--model_dir", model_dir, tmp_path / "x.dcm")
    text = "reading DICOM needs pydicom. Run: pip install -r requirements/dicom.txt"
    assert (code, err.splitlines()[0]) == (1, f"unreadable: {tmp_path}/x.dcm: {text}")


def test_heat_maps_of_called_findings_are_drawn(capsys, model_dir, predictor, xrays, tmp_path):
    code, _, _ = run(capsys, "--model_dir", model_dir, xrays, "--heatmaps", tmp_path / "heat")
    assert code == 0
    found = {path.relative_to(tmp_path / "heat").as_posix() for path in (tmp_path / "heat").rglob("*.png")}
    expected = set()
    for name in ("a.png", "b.jpg", "c.webp", "more/a.png", "more/noending"):
        reading = predictor.predict([predictor.read((xrays / name).read_bytes())])[0]
        expected |= {f"{name}.{finding}.png" for finding in reading.called or [FINDINGS[reading.calibrated.argmax()]]}
    assert found == expected
    with Image.open(tmp_path / "heat" / sorted(found)[0]) as image:
        assert (image.mode, image.size) == ("RGB", (512, 427))  # 48 x 40


def test_heat_maps_are_written_only_into_their_folder(capsys, model_dir, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    for name in ("above.png", "here/beside.png"):
        (tmp_path / name).write_bytes(encoded(SOFT))
    monkeypatch.chdir(tmp_path / "here")
    assert run(capsys, "--model_dir", model_dir, "../above.png", "beside.png", "--heatmaps", "heat")[0] == 0
    drawn = {path.relative_to(tmp_path).parts[:-1] for path in tmp_path.rglob("*.png.*.png")}
    assert drawn == {("here", "heat"), ("here", "heat", "here")}


def test_images_in_a_folder_are_found_by_ending_or_dicom_uid(tmp_path):
    names = ["1.2.840.113619.2.66.2158", "a.PNG", "noending"]
    for name in [*names, "notes.txt", ".hidden.png", "1.2.zip"]:
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_files([tmp_path])] == names


def test_a_heat_map_covers_exactly_the_image(predictor):
    heat = predictor.heat_map(predictor.read(encoded(SOFT)), "Effusion")
    assert (heat.shape, bool(np.isfinite(heat).all())) == (SOFT.shape, True)


def test_a_heat_map_is_constant_outside_the_crop(tiny_release, build, tmp_path):
    build(tiny_release(), tmp_path / "records", "--image_size", 48)
    cropped = Predictor(make_experiment(tmp_path / "cropped", tmp_path / "records", crop_size=32))
    image = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    heat = cropped.heat_map(cropped.read(encoded(image)), "Effusion")
    inside = np.zeros((48, 48), bool)
    inside[8:40, 8:40] = True  # the crop, all that the network sees
    assert heat[inside].max() > heat[~inside].max() == heat.min()


def test_without_operating_points_nothing_is_called(capsys, built_dataset, tmp_path, xrays):
    model_dir = make_experiment(tmp_path / "bare", built_dataset, points=False)
    code, out, err = run(capsys, "--model_dir", model_dir, xrays / "a.png", "--output", tmp_path / "p.csv")
    advice = f"python evaluate.py --model_dir {model_dir} --split val"
    assert (code, err) == (0, f"no operating points: nothing is called or calibrated. Run: {advice}\n")
    assert out.splitlines()[2].endswith("  ?")
    row = next(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert (row["call_Mass"], row["prob_Mass"]) == ("", row["calibrated_Mass"])


def test_patient_inputs_change_the_predictions(built_dataset, tmp_path):
    predictor = Predictor(make_experiment(tmp_path / "with_patient_inputs", built_dataset, metadata=True))
    data = encoded(SOFT)
    pictures = [
        predictor.read(data, patient) for patient in (UNKNOWN_PATIENT, Patient(80.0, "M", "AP"), Patient(sex="F"))
    ]
    found = np.stack([reading.probabilities for reading in predictor.predict(pictures)])
    assert np.abs(np.diff(found, axis=0)).max(axis=1).min() > 1e-4
    assert predictor.heat_map(pictures[1], "Mass").shape == SOFT.shape


def test_an_experiment_with_changed_params_weights_or_findings_is_rejected(built_dataset, tmp_path):
    model_dir = make_experiment(tmp_path / "tiny", built_dataset)
    (model_dir / "params.json").write_text('{"image_size": 32, "num_channels": 8, "num_blocks": 2}')
    with pytest.raises(ValueError, match=r"params\.json was changed since the run began: num_channels 4, now 8\."):
        Predictor(model_dir)
    (model_dir / "params.json").write_text('{"image_size": 32, "num_channels": 4, "num_blocks": 2}')
    (model_dir / "best.weights.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*best.weights.h5. Run: python train.py --model_dir"):
        Predictor(model_dir)
    info = json.loads((model_dir / "dataset.json").read_text())
    (model_dir / "dataset.json").write_text(json.dumps(info | {"findings": ["Mass"]}))
    with pytest.raises(ValueError, match="has the findings Mass; this code works with"):
        Predictor(model_dir)


def test_a_missing_file_and_a_folder_without_images_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no file or folder {tmp_path}/x"):
        find_files([tmp_path / "x"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="no PNG, JPEG, WebP or DICOM file below"):
        find_files([tmp_path])
    assert find_files([tmp_path / "notes.txt"] * 2) == [
        tmp_path / "notes.txt"
    ]  # a named file is taken whatever its ending, and once


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--output p.txt", "--output p.txt: expected a name that ends in .csv or .json"),
        ("--age 130", "--age 130: expected 0 to 120 years"),
        ("--sex X", "argument --sex: invalid choice: 'X' (choose from F, M)"),
    ],
)
def test_impossible_flags_exit_with_2(capsys, flags, text):
    with pytest.raises(SystemExit) as caught:
        predict.parse_args(["--model_dir", "x", "y.png", *flags.split()])
    assert caught.value.code == 2
    assert text.replace("'", "") in capsys.readouterr().err.replace("'", "")


@pytest.mark.parametrize(("p", "text"), [(0.0, "<1"), (0.0049, "<1"), (0.5, "50"), (0.994, "99"), (0.999, ">99")])
def test_percent_is_never_0_or_100(p, text):
    assert readings.percent(p) == text
