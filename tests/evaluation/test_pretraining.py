import json
from pathlib import Path

from cxr import experiment, identity
from cxr.evaluation import pretraining
from cxr.findings import FINDINGS
from cxr.params import Params, load_params

RAD_DINO = {"source": "keras_hub", "preset": "hf://microsoft/rad-dino", "token": "cls"}
OWN_FILE = {"source": "keras", "name": "ResNet50", "weights": "mine.h5"}
IMAGENET = {"source": "keras", "name": "MobileNet"}


def trained(folder: Path, *extractors: dict, split: str = "official", restore_from: Path | None = None) -> Path:
    """The files of a trained experiment that say what it has seen."""
    folder.mkdir()
    model = ["simple_cnn", "feature_extractor", "ensemble"][min(len(extractors), 2)]
    (folder / "params.json").write_text(json.dumps({"model": model, "extractors": extractors}))
    info = {"split": {"name": split}, "fingerprint": "f", "findings": list(FINDINGS)}
    (folder / "dataset.json").write_text(json.dumps(info))
    start = {"model_dir": str(restore_from), "weights_sha256": "0"} if restore_from else None
    run = {"networks": {}, "fingerprint": "f", "runtime": "keras", "device": "CPU", "restore_from": start}
    identity.path_of(folder).write_text(json.dumps(identity.describe(load_params(folder), **run)))
    return folder


def own(folder: Path) -> dict:
    return {"source": "experiment", "model_dir": str(folder)}


def test_a_network_that_has_seen_test_images_is_marked_on_test():
    params = Params(model="ensemble", extractors=(RAD_DINO, IMAGENET))
    found = pretraining.of_result(params, "test", "official")
    assert found["scored"] == {"rad-dino": ["nih_test_unlabeled"]}
    assert pretraining.seen_notes(found, "scores") == [
        "image sets that the pretrained networks have seen: rad-dino: nih_train_val_unlabeled, nih_test_unlabeled, "
        "brax, chexpert, mimic, padchest; MobileNet: imagenet",
        "SEEN: rad-dino was pretrained on nih_test_unlabeled without labels; the scores may be too good",
    ]


def test_labelled_images_are_marked_without_the_word_unlabelled():
    params = Params(model="feature_extractor", extractors=(OWN_FILE | {"seen": ["nih_train_val", "nih_test"]},))
    found = pretraining.of_result(params, "test", "random")
    assert pretraining.seen_notes(found, "results")[1:] == [
        "SEEN: ResNet50 was pretrained on nih_train_val and nih_test; the results may be too good"
    ]


def test_what_is_not_stated_is_said_and_an_older_file_has_no_line():
    found = pretraining.of_result(Params(model="feature_extractor", extractors=(OWN_FILE,)), "test", "official")
    assert found == {"networks": {"ResNet50": None}, "scored": {}}
    assert pretraining.seen_notes(found, "scores") == [
        "image sets that the pretrained networks have seen: ResNet50: not stated"
    ]
    assert pretraining.seen_notes(None, "scores") == []
    assert pretraining.seen_notes(pretraining.of_result(Params(), "test", "official"), "scores") == []


def test_an_experiment_as_extractor_inherits_and_adds_its_own_training(tmp_path):
    first = trained(tmp_path / "first", RAD_DINO)
    second = trained(tmp_path / "second", own(first), OWN_FILE, split="random")
    expected = ["brax", "chexpert", "mimic", "nih_test_unlabeled", "nih_train_val_unlabeled", "not_stated", "padchest"]
    expected += ["train_of_official_split", "train_of_random_split"]
    found = pretraining.of_result(Params(model="feature_extractor", extractors=(own(second),)), "test", "official")
    assert found == {"networks": {"second": expected}, "scored": {"second": ["nih_test_unlabeled"]}}


def test_an_average_has_seen_what_its_members_have(tmp_path):
    members = [trained(tmp_path / "a", RAD_DINO), trained(tmp_path / "b", IMAGENET)]
    params = Params(model="average", members=tuple(map(str, members)))
    found = pretraining.of_result(params, "test", "official")
    assert found["networks"].keys() == {"a/rad-dino", "b/MobileNet"}
    assert found["scored"] == {"a/rad-dino": ["nih_test_unlabeled"]}


def test_the_weights_that_an_experiment_began_with_count_too(tmp_path):
    first = trained(tmp_path / "first", RAD_DINO)
    second = trained(tmp_path / "second", IMAGENET, restore_from=first)
    assert "nih_test_unlabeled" in pretraining.seen_in(second)
    assert "imagenet" in pretraining.seen_in(second)


def test_what_a_network_has_seen_may_be_corrected_after_training(tmp_path):
    folder = trained(tmp_path / "one", OWN_FILE)
    changed = {"model": "feature_extractor", "extractors": [OWN_FILE | {"seen": ["nih_test"]}]}
    (folder / "params.json").write_text(json.dumps(changed))
    assert identity.trained_params(folder).extractors[0]["seen"] == ["nih_test"]
    assert experiment.dataset_of(folder)["split"]["name"] == "official"
