"""TensorBoard files of a short run, read back."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from support.runs import SMALL

import train
from cxr.findings import FINDINGS
from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import open_dataset
from input_fn import input_fn
from training import figures


@pytest.fixture(scope="module")
def run(built_dataset, tmp_path_factory):
    """A run of two epochs with augmentation."""
    folder = tmp_path_factory.mktemp("run")
    params = SMALL | {"num_epochs": 2, "augmentation": "strong"}
    (folder / "params.json").write_text(json.dumps(params))
    train.main(["--model_dir", str(folder), "--data_dir", str(built_dataset)])
    return folder


def summaries(folder) -> dict[str, list[tuple[int, object]]]:
    """(step, value) of every summary in the event files of a run, by its tag."""
    found = {}
    # As they were written: of the names of one second, the tenth sorts before the ninth.
    for path in sorted((folder / "tensorboard").glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    return found


def pictures(values) -> list[np.ndarray]:
    """The images of the first summary of a tag, whose first two strings are their width and height."""
    return [tf.io.decode_png(data).numpy() for data in values[0][1].tensor.string_val[2:]]


def test_every_finding_with_positives_has_a_curve_per_epoch(run, built_dataset):
    labels = example.read_split_index(open_dataset(built_dataset).paths("val")).labels
    present = {f"val/{finding}/pr_curves" for finding, count in zip(FINDINGS, labels.sum(axis=0), strict=True) if count}
    found = summaries(run)
    assert {tag for tag in found if tag.startswith("val/")} == present
    for tag in present:
        assert [step for step, _ in found[tag]] == [1, 2]
        curve = tf.make_ndarray(found[tag][0][1].tensor)  # true and false positives, true and false negatives, ...
        assert curve[:4, 0].sum() == len(labels)
        assert curve[0, 0] == labels[:, FINDINGS.index(tag.split("/")[1])].sum()  # at threshold 0 all are positive


def test_images_are_shown_before_and_after_augmentation(run):
    found = summaries(run)
    plain, augmented = pictures(found["input"]), pictures(found["augmented"])
    assert len(plain) == len(augmented) == 8
    assert plain[0].shape == augmented[0].shape == (32, 32, 1)
    assert all((one != other).any() for one, other in zip(plain, augmented, strict=True))


def test_without_augmentation_the_images_are_shown_once(built_dataset, tmp_path):
    datasets = {"image": open_dataset(built_dataset)}
    figures.show_start(SimpleNamespace(params=Params(batch_size=8), datasets=datasets, model_dir=tmp_path))
    found = summaries(tmp_path)
    assert "input" in found
    assert "augmented" not in found


def test_heat_maps_of_four_images_are_drawn_after_every_epoch(run):
    found = {tag: values for tag, values in summaries(run).items() if tag.startswith("heat map/")}
    assert len(found) == 4
    for values in found.values():
        assert [step for step, _ in values] == [1, 2]
        [picture] = pictures(values)
        assert picture.shape == (32, 64, 3)  # the image next to itself under the map
        assert (picture[:, :32, 0] == picture[:, :32, 2]).all()  # grey
        assert (picture[:, 32:, 0] != picture[:, 32:, 2]).any()  # coloured


def test_examples_are_the_first_images_of_the_commonest_findings():
    labels = np.zeros((5, 14), int)
    labels[[1, 2, 3], 6] = 1  # Pneumonia, the commonest
    labels[[1, 4], 2] = 1  # Effusion: its first image is taken already
    labels[0, 13] = 1
    assert figures.choose_examples(labels) == ([1, 4, 0], [6, 2, 13])


def test_val_images_are_read_by_their_rows(built_dataset):
    images = open_dataset(built_dataset)
    rows = [7, 0, 3]
    stored_records = [record for path in images.paths("val") for record in example.read_records(path)]
    batches = input_fn("val", {"image": images}, Params(batch_size=4), inputs=["image"])
    for row, image in zip(rows, figures.images_of(batches, rows), strict=True):
        stored = stored_records[row]
        encoded = example.example_class().FromString(stored).features.feature["image/encoded"].bytes_list.value[0]
        np.testing.assert_array_equal(image, tf.io.decode_png(encoded).numpy())


def test_parameters_are_in_the_hparams_table(run):
    found = summaries(run)
    assert b"val_mean_auroc" in found["_hparams_/experiment"][0][1].metadata.plugin_data.content
    plugin = found["_hparams_/session_start_info"][0][1].metadata.plugin_data.content
    assert b"learning_rate" in plugin
    assert b"augmentation" in plugin
    assert b"[512, 256]" in plugin  # a list is shown as JSON


def test_the_projector_shows_the_val_features_with_their_findings(run, built_dataset):
    folder, index = run / "tensorboard", example.read_split_index(open_dataset(built_dataset).paths("val"))
    vectors = np.loadtxt(folder / "val_features.tsv", delimiter="\t")
    assert vectors.shape == (len(index.image_ids), 4)  # channels of the last block of SMALL
    lines = (folder / "val_metadata.tsv").read_text().splitlines()
    assert lines[0] == "image_id\tpatient_id\tfindings\tview_position"
    assert [line.split("\t")[0] for line in lines[1:]] == index.image_ids.tolist()
    assert {"No Finding"} < {line.split("\t")[2] for line in lines[1:]}
    config = (folder / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "val_features.tsv"' in config
    assert 'metadata_path: "val_metadata.tsv"' in config
