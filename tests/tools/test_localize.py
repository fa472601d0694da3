import json
import shutil
import tarfile

import pytest
from support.ready import write_identity

from cxr import experiment
from cxr.evaluation import literature, localization
from cxr.findings import FINDINGS
from cxr.networks import cutting
from cxr.params import load_params
from model_fn import model_fn
from tools import localize

BOXES = """Image Index,Finding Label,Bbox [x,y,w,h],,,
00000004_001.png,Infiltrate,100,100,300,300,,,
00000003_000.png,Mass,512,512,256,256,,,
00000003_000.png,Nodule,0,0,64,64,,,
00000004_000.png,Mass,200,300,400,200,,,
00000004_000.png,Mass,700,700,100,100,,,
"""


@pytest.fixture(scope="module", autouse=True)
def coarse_maps():
    """Maps of 64 pixels instead of 256, a sixteenth of the work; test_localization.py tests the geometry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(localization, "SIDE", 64)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_release):
    """A release of four patients with boxes in images of the last two, and an experiment with random weights."""
    root = tmp_path_factory.mktemp("world")
    write_release(root / "release", patients=4)
    (root / "release" / "BBox_List_2017.csv").write_text(BOXES)
    splits = {"train": {"images": 98, "positives": dict.fromkeys(FINDINGS, 9)}}
    model_dir = root / "experiment"
    model_dir.mkdir()
    (model_dir / "params.json").write_text('{"image_size": 32, "num_channels": 4, "num_blocks": 2}')
    info = {"findings": list(FINDINGS), "image_size": 32, "splits": splits, "fingerprint": "f" * 64}
    (model_dir / "dataset.json").write_text(json.dumps(info))
    experiment.save_weights(model_fn(load_params(model_dir), info), model_dir, "best")
    write_identity(model_dir)
    experiment.patients_path(model_dir).write_text('{"train": [1], "val": [2]}')
    return root


def run(world, output_dir, *flags: object, release: str = "release") -> dict:
    fixed = ["--model_dir", world / "experiment", "--data_dir", world / release, "--output_dir", output_dir]
    localize.main([str(flag) for flag in [*fixed, *flags]])
    return json.loads((output_dir / "localization.json").read_text())


def error_of(world, output_dir, *flags: object, release: str = "release") -> str:
    with pytest.raises(SystemExit) as caught:
        run(world, output_dir, *flags, release=release)
    return str(caught.value)


@pytest.fixture
def copied(world):
    """copied(): a copy of the release that a test may change; its name."""
    name = "copied"
    shutil.copytree(world / "release", world / name)
    yield name
    shutil.rmtree(world / name)


def test_every_annotated_finding_is_scored_beside_its_controls(world, tmp_path, capsys):
    result = run(world, tmp_path / "out", "--overlays", 1)
    counts = {
        name: (values["boxes"], values["images"], values["patients"]) for name, values in result["findings"].items()
    }
    assert counts == {"Infiltration": (1, 1, 1), "Mass": (3, 2, 2), "Nodule": (1, 1, 1), "all": (5, 3, 2)}
    for values in result["findings"].values():
        for source in localization.SOURCES:
            assert list(values[source]["iobb"]) == [str(limit) for limit in localization.THRESHOLDS]
            for at in values[source]["iou"].values():
                if values["patients"] == 1:
                    assert at["low"] is at["high"] is None
                else:
                    assert 0 <= at["low"] <= at["accuracy"] <= at["high"] <= 1
    assert (result["method"], result["boxed_images"], result["absent"], result["broken"]) == ("cam", 3, 0, {})
    assert result["leak"] == {"patients": 0, "images": 0, "where": [], "unknown": []}
    assert result["overlays"] == ["Mass_00000003_000.png", "Nodule_00000003_000.png", "Infiltration_00000004_001.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*result["overlays"], "localization.json"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-5:4]] == ["Infiltration", "Mass", "Nodule", "all"]
    assert lines[-3:] == [
        f"5 boxes in 3 images of 2 patients; 0 of the 3 images with boxes are not in {world / 'release'}",
        f"NOT COMPARABLE: {literature.LOCALIZATION_SOURCE}",
        f"written: {tmp_path / 'out' / 'localization.json'} and 3 pictures",
    ]


def test_the_container_of_the_images_changes_nothing(world, tmp_path):
    packed = world / "packed"
    packed.mkdir()
    for path in (world / "release").glob("*.*"):
        shutil.copy(path, packed)
    with tarfile.open(packed / "images.tar.gz", "w:gz") as archive:
        for path in sorted((world / "release" / "images").iterdir(), reverse=True):
            archive.add(path, path.name)
    ours, theirs = run(world, tmp_path / "a"), run(world, tmp_path / "b", release="packed")
    assert theirs.pop("data_dir") != ours.pop("data_dir")
    assert theirs == ours | {"git_sha": theirs["git_sha"]}  # the checkout may have been edited between the two


def test_another_method_replaces_the_pictures(world, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"")
    run(world, tmp_path, "--overlays", 2)
    result = run(world, tmp_path, "--method", "occlusion", "--overlays", 0)
    assert (result["method"], result["overlays"]) == ("occlusion", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["localization.json", "mine.png"]


def test_the_default_folder_is_in_the_experiment():
    args = localize.parse_args(["--model_dir", "experiments/x", "--data_dir", "data/nih"])
    assert str(args.output_dir) == "experiments/x/localization"


def test_absent_and_broken_images_are_counted(world, tmp_path, capsys, copied):
    (world / copied / "images" / "00000003_000.png").unlink()
    (world / copied / "images" / "00000004_000.png").write_bytes(b"<html>")
    result = run(world, tmp_path, release=copied)
    assert (result["absent"], list(result["broken"])) == (1, ["00000004_000.png"])
    assert list(result["findings"]) == ["Infiltration", "all"]
    text = capsys.readouterr().out
    assert "; 1 of the 3 images with boxes are not in " in text
    assert "1 images are unreadable, such as 00000004_000.png (not a " in text


def test_a_release_without_a_boxed_image(world, tmp_path, copied):
    for path in (world / copied / "images").glob("0000000[34]*"):
        path.unlink()
    assert error_of(world, tmp_path, release=copied) == (
        f"error: none of the 3 images with boxes is below {world / copied} and readable; download them: they are all "
        "on the test list"
    )


@pytest.fixture
def leaking(world):
    path = experiment.patients_path(world / "experiment")
    before = path.read_text()
    path.write_text('{"train": [1, 3], "val": [2]}')
    yield
    path.write_text(before)


@pytest.mark.usefixtures("leaking")
def test_patients_that_the_weights_have_seen_are_rejected(world, tmp_path):
    text = error_of(world, tmp_path)
    assert text.startswith(
        "error: 1 of the 2 patients of the images with boxes were in training or validation of "
        f"{world / 'experiment'}, so scores would be too good. "
    )
    assert "add --allow_leak" in text


@pytest.mark.usefixtures("leaking")
def test_an_allowed_leak_marks_the_result(world, tmp_path, capsys):
    leak = run(world, tmp_path, "--allow_leak")["leak"]
    assert (leak["patients"], leak["images"]) == (1, 1)
    assert f"LEAK: 1 of these patients (1 images) were in training or validation of {world / 'experiment'}; " in (
        capsys.readouterr().out
    )


def test_patients_of_absent_images_are_not_a_leak(world, tmp_path, copied, leaking):
    (world / copied / "images" / "00000003_000.png").unlink()
    assert run(world, tmp_path, release=copied)["leak"]["patients"] == 0


def test_a_method_that_does_not_fit_is_rejected(world, tmp_path, monkeypatch):
    monkeypatch.setattr(cutting, "has_linear_head", lambda model: False)
    assert error_of(world, tmp_path, "--method", "cam") == (
        "error: simple_cnn is not linear after its pooling; cam needs that, use grad_cam or occlusion"
    )


def test_an_untrained_experiment_is_rejected(world, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {tmp_path} has not been trained. Run: python train.py --model_dir"):
        localize.main(["--model_dir", str(tmp_path), "--data_dir", str(world / "release")])


def test_a_negative_number_of_pictures_is_a_bad_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        localize.parse_args(["--model_dir", "m", "--data_dir", "d", "--overlays", "-1"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("error: --overlays -1: expected 0 or more\n")


def test_the_boxed_originals_run_end_to_end(world, tmp_path, shared_dir):
    (world / "nih").symlink_to(shared_dir / "nih-1024")
    result = run(world, tmp_path, "--overlays", 1, release="nih")
    counts = {name: values["boxes"] for name, values in result["findings"].items()}
    assert counts == {
        **{"Cardiomegaly": 2, "Effusion": 1, "Infiltration": 2, "Mass": 2, "Pneumonia": 17, "Pneumothorax": 1},
        "all": 25,
    }
    assert (result["boxed_images"], result["absent"]) == (880, 860)
    random = result["findings"]["all"]["random"]["iobb"]
    assert 0.3 < random["0.1"]["accuracy"] < 0.7
    assert random["0.5"]["accuracy"] < 0.25
