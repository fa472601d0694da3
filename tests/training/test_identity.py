"""run.json, and the commands that reject an experiment that differs from it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.identity import HEAD, error_of, png_of, predicted, scored, train_head
from support.runs import assert_same_run, interrupted_at, make_experiment, run_train
from support.tiny import save_tiny

import evaluate
import predict
from cxr import experiment, identity, storage
from cxr.networks.assembly import trained_model
from cxr.params import as_json, load_params
from cxr.records.dataset import open_dataset
from tools import export, localize

pytestmark = pytest.mark.usefixtures("few_resamples")

ROOT = Path(__file__).resolve().parents[2]
HASH = re.compile(r"[0-9a-f]{64}")


def test_run_json_describes_the_origin_of_a_run(world):
    run = identity.read(world / "bfloat16")
    assert run["params"] == as_json(load_params(world / "bfloat16"))
    assert list(run["networks"]) == ["Tiny"]
    assert HASH.fullmatch(run["networks"]["Tiny"])
    assert run["networks"] == identity.read(world / "float32")["networks"]  # in both precisions
    assert run["dataset_fingerprint"] == open_dataset(world / "records").info["fingerprint"]
    assert (run["precision"], run["runtime"], run["restore_from"]) == ("bfloat16", "openvino", None)
    assert identity.read(world / "float32")["runtime"] == "keras"
    assert identity.read(world / "cnn")["networks"] == {}
    assert {"device", "git_sha", "library_versions", "leak"} <= run.keys()


def test_run_json_is_written_before_the_first_step_and_kept(world, tmp_path):
    model_dir = make_experiment(tmp_path / "run", num_epochs=1)
    with interrupted_at(1), pytest.raises(SystemExit, match=r"^interrupted"):
        run_train(model_dir, world / "records")
    before = identity.path_of(model_dir).read_bytes()
    run_train(model_dir, world / "records", "--resume")
    assert identity.path_of(model_dir).read_bytes() == before


def test_a_replaced_weights_file_is_rejected_by_every_command(world, copied, tmp_path):
    model_dir = copied("float32")
    other = save_tiny(tmp_path / "tiny.weights.h5", seed=1)
    params = json.loads((model_dir / "params.json").read_text()) | {"extractors": [other]}
    (model_dir / "params.json").write_text(json.dumps(params))  # another path alone does not make another network
    text = f"error: the frozen networks of {model_dir} are not those it was trained on: SHA-256 of Tiny "
    flags = ["--model_dir", model_dir]
    image = tmp_path / "xray.png"
    image.write_bytes(png_of(np.zeros((32, 32, 1), np.uint8)))
    for main, more in (
        (evaluate.main, ["--data_dir", world / "records", "--split", "val"]),
        (predict.main, [image]),
        (export.main, ["--output_dir", tmp_path / "exported"]),
    ):
        assert error_of(main, *flags, *more).startswith(text)
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}.*--restart"):
        run_train(model_dir, world / "records", "--resume")


def test_a_moved_weights_file_is_the_same_network(world, copied, tmp_path):
    model_dir = copied("float32")
    moved = shutil.copy(world / "tiny.weights.h5", tmp_path / "moved.weights.h5")
    params = json.loads((model_dir / "params.json").read_text())
    params["extractors"][0]["weights"] = str(moved)
    (model_dir / "params.json").write_text(json.dumps(params))
    np.testing.assert_allclose(predicted(model_dir, world / "records"), scored(model_dir), atol=1e-5)


def test_an_experiment_over_one_that_was_trained_again_is_rejected(world, copied, tmp_path):
    below, over = copied("cnn"), copied("over")
    params = json.loads((over / "params.json").read_text()) | {
        "extractors": [{"source": "experiment", "model_dir": str(below)}]
    }
    (over / "params.json").write_text(json.dumps(params))
    flags = ["--model_dir", over, "--data_dir", world / "records", "--split", "val"]
    evaluate.main([str(flag) for flag in flags])  # restored
    make_experiment(below, seed=231, num_epochs=1)
    run_train(below, world / "records", "--restart")
    text = f"error: the frozen networks of {over} are not those it was trained on: SHA-256 of cnn "
    assert error_of(evaluate.main, *flags).startswith(text)


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("cnn", {"image_size": 64}, "image_size 32, now 64"),
        ("cnn", {"crop_size": 32}, "crop_size None, now 32"),
        ("cnn", {"precision": "bfloat16"}, "precision float32, now bfloat16"),
        ("float32", {"normalization": "per_image"}, "normalization extractor, now per_image"),
        ("float32", {"precision": "bfloat16"}, "precision float32, now bfloat16"),
        ("float32", {"extractors": 64}, "extractors.0.image_size 32, now 64"),
    ],
)
def test_a_run_is_bound_to_its_parameters(world, copied, tmp_path, name, change, text):
    model_dir = copied(name)
    params = json.loads((model_dir / "params.json").read_text())
    if "extractors" in change:
        change = {"extractors": [params["extractors"][0] | {"image_size": change["extractors"]}]}
    (model_dir / "params.json").write_text(json.dumps(params | change))
    expected = f"error: {model_dir}/params.json was changed since the run began: {text}. Undo that, copy the folder to"
    flags = ["--model_dir", model_dir]
    for main, more in (
        (evaluate.main, ["--data_dir", world / "records", "--split", "val"]),
        (predict.main, [__file__]),
        (export.main, ["--output_dir", tmp_path / "exported"]),
        (localize.main, ["--data_dir", tmp_path]),
    ):
        assert error_of(main, *flags, *more).startswith(expected)


def test_an_experiment_without_run_json_is_rejected(world, copied):
    model_dir = copied("cnn")
    identity.path_of(model_dir).unlink()
    text = f"error: {model_dir} was trained by a version that wrote no run.json, so the networks, parameters and data"
    assert error_of(predict.main, "--model_dir", model_dir, __file__).startswith(text)
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}"):
        run_train(model_dir, world / "records", "--resume")


def test_another_dataset_json_is_rejected(copied):
    model_dir = copied("cnn")
    info = json.loads((model_dir / "dataset.json").read_text()) | {"fingerprint": "0" * 64}
    (model_dir / "dataset.json").write_text(json.dumps(info))
    text = f"error: {model_dir}/dataset.json describes another dataset than the one its weights were trained on"
    assert error_of(predict.main, "--model_dir", model_dir, __file__).startswith(text)


def test_operating_points_of_other_weights_are_rejected(world, copied):
    model_dir = copied("cnn")
    shutil.copy(model_dir / "metrics_val_best.json", model_dir / "metrics_val_last.json")
    result = json.loads((model_dir / "metrics_val_best.json").read_text())
    (model_dir / "metrics_val_best.json").write_text(json.dumps(result | {"weights_sha256": "0" * 64}))
    text = f"error: {model_dir}/metrics_val_best.json was measured with other weights than the experiment has now"
    assert error_of(predict.main, "--model_dir", model_dir, __file__).startswith(text)
    flags = ["--model_dir", model_dir, "--data_dir", world / "records"]
    assert error_of(evaluate.main, *flags, "--split", "test").startswith(text)
    evaluate.main([str(flag) for flag in [*flags, "--split", "val"]])  # as the error text says
    evaluate.main([str(flag) for flag in [*flags, "--split", "test"]])


def test_a_restored_run_that_was_killed_in_its_first_epoch_begins_with_those_weights_again(world, tmp_path):
    start = world / "cnn"
    flags = ("--restore_from", str(start))
    whole = run_train(make_experiment(tmp_path / "whole", seed=231, num_epochs=2), world / "records", *flags)
    model_dir = make_experiment(tmp_path / "run", seed=231, num_epochs=2)
    with interrupted_at(1), pytest.raises(SystemExit, match=r"^interrupted"):
        run_train(model_dir, world / "records", *flags)
    assert_same_run(run_train(model_dir, world / "records", "--resume"), whole)
    restored = identity.read(model_dir)["restore_from"]
    assert restored == {
        "model_dir": str(start),
        "weights_sha256": storage.sha256_of(start / "best.weights.h5"),
    }
    assert f"the run begins again with the best weights of {start}" in (model_dir / "train.log").read_text()


def test_weights_that_were_trained_on_patients_of_val_are_rejected(world, copied, tmp_path):
    start = copied("cnn")
    patients = experiment.patients_of(start)
    experiment.patients_path(start).write_text(
        json.dumps(patients | {"train": patients["train"] + patients["val"][:1]})
    )
    text = f"error: 1 patients of val were in training of {start}: val scores would be too good."
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}.*--allow_leak"):
        run_train(make_experiment(tmp_path / "run"), world / "records", "--restore_from", str(start))


def test_each_checkpoint_predicts_with_its_own_weights(world, copied):
    model_dir = copied("cnn")
    best = predicted(model_dir, world / "records")
    model = trained_model(model_dir)
    model.set_weights([0 * weight for weight in model.get_weights()])
    experiment.save_weights(model, model_dir, "last")
    (model_dir / "metrics_val_last.json").unlink()  # it was measured with other weights
    np.testing.assert_allclose(predicted(model_dir, world / "records", checkpoint="last"), 0.5)  # all weights are 0
    assert np.abs(best - 0.5).max() > 1e-2


def test_changed_weights_of_restore_from_are_rejected(world, copied, tmp_path):
    start = copied("cnn")
    model_dir = make_experiment(tmp_path / "run")
    with interrupted_at(1), pytest.raises(SystemExit, match=r"^interrupted"):
        run_train(model_dir, world / "records", "--restore_from", str(start))
    shutil.copy(start / "last.weights.h5", start / "best.weights.h5")
    (start / "best.weights.h5").write_bytes((start / "best.weights.h5").read_bytes() + b" ")
    text = f"error: the run began with the best weights of {start}, which have changed since: SHA-256 "
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}.*--restart"):
        run_train(model_dir, world / "records", "--resume")


def test_a_restored_fine_tuning_run_resumes_without_a_head(world, tmp_path, tiny_network):
    tuned = {"extractors": [tiny_network], "num_epochs": 1, "fine_tune": {"epochs": 1, "batch_size": 8}}
    first = run_train(make_experiment(tmp_path / "first", HEAD, **tuned), world / "records")
    model_dir = make_experiment(tmp_path / "second", HEAD, **tuned, seed=231)
    with interrupted_at(1), pytest.raises(SystemExit, match=r"^interrupted"):
        run_train(model_dir, world / "records", "--restore_from", str(first))
    run_train(model_dir, world / "records", "--resume")
    assert not (model_dir / "head").exists()


def test_two_trainings_of_one_folder_do_not_mix(world, copied):
    model_dir = copied("cnn")
    code = "import sys; from cxr import storage\nwith storage.exclusive(sys.argv[1], 'training in'):\n"
    code += "    print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(model_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = sorted(path.name for path in model_dir.iterdir())
        with pytest.raises(SystemExit, match=f"^error: another process is training in {model_dir}; wait for it"):
            run_train(model_dir, world / "records", "--restart")
        assert sorted(path.name for path in model_dir.iterdir()) == before
        other.communicate("")


def test_networks_that_were_trained_on_patients_of_val_are_rejected(world, copied, tmp_path):
    below = copied("cnn")
    patients = experiment.patients_of(below)
    leaked = {"train": patients["train"] + patients["val"][:2], "val": patients["val"][2:]}
    experiment.patients_path(below).write_text(json.dumps(leaked))  # as with another split of its dataset
    spec = {"source": "experiment", "model_dir": str(below)}
    text = f"error: 2 patients of val were in training of {below}: val scores would be too good."
    with pytest.raises(SystemExit, match=f"^{re.escape(text)}.*--allow_leak"):
        train_head(tmp_path / "rejected", world / "records", spec)
    model_dir = make_experiment(tmp_path / "marked", HEAD, extractors=[spec], num_epochs=1)
    run_train(model_dir, world / "records", "--allow_leak")
    assert identity.read(model_dir)["leak"]["patients"] == 2
    assert storage.read_json(model_dir / "metrics_val_best.json")["leak"]["patients"] == 2


def test_differences_are_listed_by_their_path():
    before = {"a": 1, "extractors": [{"size": 2, "name": "x"}], "gone": "f" * 64}
    now = {"a": 1, "extractors": [{"size": 3, "name": "x"}], "new": None}
    assert list(identity.differences(before, now)) == ["extractors.0.size 2, now 3", "gone ffffffffffff, now None"]
