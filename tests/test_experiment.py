import json
import pickle
import re

import numpy as np
import pytest

from cxr import experiment
from cxr.findings import FINDINGS

RUN = ("best.weights.h5", "last.weights.h5", "dataset.json", "patients.json", "train.log", "history.csv")
SCORES = ("metrics_val_best.json", "predictions_test_last.csv")


def write_run(model_dir):
    """Write files with the names of a run, and params.json."""
    for name in ("params.json", *RUN, *SCORES):
        (model_dir / name).write_text(name)
    for name in ("resume", "tensorboard"):
        (model_dir / name).mkdir()
        (model_dir / name / "inside").write_text(name)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_move_aside_moves_all_but_params_json(tmp_path):
    write_run(tmp_path)
    assert experiment.move_aside(tmp_path) == tmp_path / "old/001"
    assert names(tmp_path) == {"params.json", "old"}
    assert names(tmp_path / "old/001") == {*RUN, *SCORES, "resume", "tensorboard"}
    assert (tmp_path / "old/001/resume/inside").read_text() == "resume"


def test_move_aside_numbers_the_folders(tmp_path):
    for number in ("001", "002", "003", "004"):
        (tmp_path / "history.csv").write_text(number)
        assert experiment.move_aside(tmp_path).name == number
    (tmp_path / "old/002").rename(tmp_path / "elsewhere")  # a gap is not filled: the numbers give the order
    (tmp_path / "history.csv").write_text("005")
    assert experiment.move_aside(tmp_path).name == "005"
    assert (tmp_path / "old/001/history.csv").read_text() == "001"


def test_move_aside_without_files_creates_no_folder(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    assert experiment.move_aside(tmp_path) is None
    assert names(tmp_path) == {"params.json"}


@pytest.mark.parametrize("left", ["best.weights.h5", "last.weights.h5", "resume", "head/best.weights.h5"])
def test_a_folder_with_weights_or_a_state_is_not_trained_over(tmp_path, left):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("")
    text = (
        f"{tmp_path} already holds a run. Add --resume to continue it, or --restart to move it aside and begin again."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        experiment.require_untrained(tmp_path)


def test_a_folder_with_only_a_log_can_be_trained_in(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    (tmp_path / "train.log").write_text("a run that ended before its first weights")
    experiment.require_untrained(tmp_path)


STATE = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64), np.array([2**32 - 1], np.uint32)]
HISTORY = [{"epoch": 1, "loss": 0.1 + 0.2, "val_mean_auroc": None}]


def save_state(model_dir, values=STATE, history=HISTORY):
    experiment.save_state(model_dir, values, {"fingerprint": "f00d", "history": history})


def test_a_saved_state_can_be_loaded(tmp_path):
    save_state(tmp_path)
    values, history = experiment.load_state(tmp_path, "f00d")
    assert [(value.dtype, value.tolist()) for value in values] == [(value.dtype, value.tolist()) for value in STATE]
    assert history == HISTORY
    assert names(tmp_path / "resume") == {"state.npz"}


def test_the_state_keeps_its_order_beyond_ten_variables(tmp_path):
    save_state(tmp_path, [np.array(number) for number in range(120)])
    values, _ = experiment.load_state(tmp_path, "f00d")
    assert [int(value) for value in values] == list(range(120))


def test_a_later_state_replaces_the_earlier_one(tmp_path):
    save_state(tmp_path, history=[])
    save_state(tmp_path)
    assert experiment.load_state(tmp_path, "f00d")[1] == HISTORY


def test_without_a_state_there_is_nothing_to_resume(tmp_path):
    assert experiment.load_state(tmp_path, "f00d") is None


def test_a_state_of_other_data_is_rejected(tmp_path):
    save_state(tmp_path)
    text = f"{tmp_path}/resume/state.npz was saved by a run on other images or features. Use the --data_dir that it"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}.*--restart"):
        experiment.load_state(tmp_path, "beef")


def test_files_of_the_user_in_old_are_kept(tmp_path):
    (tmp_path / "old/002").mkdir(parents=True)
    (tmp_path / "old/1 note.txt").write_text("the run with the wrong CSV")
    (tmp_path / "train.log").write_text("")
    assert experiment.move_aside(tmp_path) == tmp_path / "old/003"
    assert names(tmp_path / "old") == {"002", "003", "1 note.txt"}


class Bomb:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickles_in_a_state_are_not_loaded(tmp_path):
    (tmp_path / "resume").mkdir()
    bomb = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    np.savez(tmp_path / "resume/state.npz", **{"00000": bomb, "progress": np.array("{}")})
    with pytest.raises(ValueError, match=r"pickle|damaged"):
        experiment.load_state(tmp_path, "f00d")
    (tmp_path / "resume/state.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(ValueError, match=r"pickle|damaged"):
        experiment.load_state(tmp_path, "f00d")
    assert not (tmp_path / "exploded").exists()


def test_saved_weights_can_be_loaded(tmp_path):
    import keras

    def dense(units):
        keras.utils.set_random_seed(units)
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])

    model = dense(2)
    with pytest.raises(FileNotFoundError, match=re.escape(f"no {tmp_path}/best.weights.h5. Run: python train.py")):
        experiment.load_weights(model, tmp_path, "best")
    experiment.save_weights(model, tmp_path, "best")
    assert names(tmp_path) == {"best.weights.h5"}
    saved = model.get_weights()
    model.set_weights([np.zeros_like(value) for value in saved])
    experiment.load_weights(model, tmp_path, "best")
    for value, expected in zip(model.get_weights(), saved, strict=True):
        np.testing.assert_array_equal(value, expected)
    text = f"{tmp_path}/best.weights.h5 does not fit the model that {tmp_path}/params.json describes"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        experiment.load_weights(dense(4), tmp_path, "best")


def test_the_error_names_a_damaged_state(tmp_path):
    save_state(tmp_path)
    path = tmp_path / "resume/state.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        experiment.load_state(tmp_path, "f00d")


def test_the_error_names_damaged_weights(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    experiment.save_weights(model, tmp_path, "last")
    path = experiment.weights_path(tmp_path, "last")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises((OSError, ValueError), match=re.escape(str(path))):
        experiment.load_weights(model, tmp_path, "last")


def test_label_names_are_compared_on_load(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"findings": FINDINGS}))
    assert experiment.dataset_of(tmp_path)["findings"] == list(FINDINGS)
    path.write_text(json.dumps({"findings": [*FINDINGS[1:], FINDINGS[0]]}))  # the same names in another order
    with pytest.raises(ValueError, match=re.escape(f"{path} has the findings Cardiomegaly, Effusion, ")):
        experiment.dataset_of(tmp_path)


def test_a_folder_without_dataset_json_has_not_been_trained(tmp_path):
    text = f"{tmp_path} has not been trained. Run: python train.py --model_dir {tmp_path}"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(text)}$"):
        experiment.dataset_of(tmp_path)


def test_git_sha_is_none_outside_a_checkout(tmp_path, monkeypatch):
    found, read = experiment.git_sha(), experiment.git_sha.__wrapped__  # without the cache
    assert found is None or re.fullmatch(r"[0-9a-f]{12}\+?", found)
    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read() is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert read() is None


def test_library_versions_include_the_libraries_that_affect_results():
    assert {"tensorflow", "keras", "numpy"} <= experiment.library_versions().keys()
    assert experiment.library_versions()["numpy"] == np.__version__


def test_patients_that_the_weights_have_seen(tmp_path):
    assert experiment.patients_of(tmp_path) == {}
    experiment.patients_path(tmp_path).write_text('{"train": [1, 3], "val": [2]}')
    assert experiment.patients_of(tmp_path) == {"train": [1, 3], "val": [2]}
