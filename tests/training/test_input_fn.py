import os
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import Dataset, open_dataset
from cxr.records.splits import SPLITS
from input_fn import batch_ids, input_fn

PARAMS = Params(batch_size=8, image_size=32)


@pytest.fixture(scope="module", autouse=True)
def tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


@pytest.fixture(scope="module")
def datasets(built_dataset):
    return {"image": open_dataset(built_dataset)}


@pytest.fixture
def read(datasets):
    """read(split, epoch): the batches as NumPy arrays."""

    def run(split, epoch=None, params=PARAMS, **options):
        batches = input_fn(split, datasets, params, epoch=epoch, **options)
        return list(batches.as_numpy_iterator())

    return run


def images_of(batches):
    """The bytes of every image, in order; all images of the dataset differ."""
    return [image.tobytes() for inputs, _ in batches for image in inputs["image"]]


def test_evaluation_has_every_image_once_in_dataset_order_and_a_short_last_batch(read, datasets):
    batches = read("train")
    index = example.read_split_index(datasets["image"].paths("train"))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 1]  # 33 images
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), index.labels)
    for name, expected in {"age": index.ages, "sex": index.sexes, "view_position": index.view_positions}.items():
        np.testing.assert_array_equal(np.concatenate([inputs[name] for inputs, _ in batches]), expected)
    assert len(set(images_of(batches))) == 33
    assert images_of(batches) == images_of(read("train"))


def test_batches_have_the_shapes_and_types_of_the_contract(read):
    inputs, labels = read("val")[0]
    found = {name: (value.shape, value.dtype.name) for name, value in inputs.items()}
    assert found == {
        "image": ((8, 32, 32, 1), "uint8"),
        "age": ((8,), "float32"),
        "sex": ((8,), "int64"),
        "view_position": ((8,), "int64"),
    }
    assert (labels.shape, labels.dtype.name) == ((8, 14), "float32")


def test_the_shapes_are_known_in_advance(datasets):
    inputs, labels = input_fn("train", datasets, PARAMS, epoch=1).element_spec
    assert inputs["image"].shape.as_list()[1:] == [32, 32, 1]
    assert labels.shape.as_list()[1:] == [14]


@pytest.mark.parametrize(
    ("split", "epoch", "steps"), [("train", None, 5), ("train", 0, 4), ("val", None, 2), ("val", 3, 1)]
)
def test_the_number_of_batches_is_known_in_advance(datasets, split, epoch, steps):
    assert int(input_fn(split, datasets, PARAMS, epoch=epoch).cardinality()) == steps


@pytest.mark.parametrize("epoch", [None, 0])
def test_no_pipeline_waits_for_the_autotuner(datasets, epoch):
    assert input_fn("train", datasets, PARAMS, epoch=epoch).options().autotune.enabled is False


def test_training_drops_the_remainder_and_repeats_no_image(read):
    batches = read("train", epoch=1)
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 8]
    assert len(set(images_of(batches))) == 32
    assert set(images_of(batches)) < set(images_of(read("train")))


def test_the_training_order_depends_on_seed_and_epoch_only(read):
    first = images_of(read("train", epoch=1))
    assert first == images_of(read("train", epoch=1))
    assert first != images_of(read("train", epoch=2))
    assert first != images_of(read("train", epoch=1, params=Params(batch_size=8, image_size=32, seed=231)))
    assert first != images_of(read("train"))[:32]


def test_training_labels_stay_with_their_images(read):
    def pairs(batches):
        return {
            (x.tobytes(), y.tobytes())
            for inputs, labels in batches
            for x, y in zip(inputs["image"], labels, strict=True)
        }

    assert pairs(read("train", epoch=1)) < pairs(read("train"))


def test_only_the_requested_inputs_are_returned(read):
    assert set(read("val", inputs=["image"])[0][0]) == {"image"}
    assert set(read("val", inputs=["view_position", "age"])[0][0]) == {"view_position", "age"}


AUGMENTED = Params(batch_size=8, image_size=32, augmentation="medium")


def test_augmentation_depends_on_seed_epoch_and_step_and_keeps_labels(read):
    plain, first = read("train", epoch=1), read("train", epoch=1, params=AUGMENTED)
    assert images_of(first) == images_of(read("train", epoch=1, params=AUGMENTED))
    assert not set(images_of(first)) & set(images_of(plain))
    for (_, expected), (_, labels) in zip(plain, first, strict=True):
        np.testing.assert_array_equal(labels, expected)
    assert not set(images_of(first)) & set(images_of(read("train", epoch=2, params=AUGMENTED)))


def test_evaluation_is_never_augmented(read):
    assert images_of(read("val", params=AUGMENTED)) == images_of(read("val"))


def test_the_shapes_of_augmented_batches_are_known_in_advance(datasets):
    plain, augmented = (input_fn("train", datasets, params, epoch=1) for params in (PARAMS, AUGMENTED))
    assert augmented.element_spec == plain.element_spec
    assert int(augmented.cardinality()) == 4


def test_mixed_labels_are_between_those_of_two_images(read):
    mixed = read("train", epoch=1, params=Params(batch_size=8, mixup=0.4))
    for (_, given), (_, labels) in zip(read("train", epoch=1), mixed, strict=True):
        low, high = np.minimum(given, given[::-1]), np.maximum(given, given[::-1])
        assert ((low <= labels) & (labels <= high)).all()
    assert any(((labels > 0) & (labels < 1)).any() for _, labels in mixed)


def test_a_copy_for_test_time_augmentation_has_other_pixels_of_the_same_images(read):
    plain, copy = read("val"), read("val", tta_copy=1)
    for (given, labels), (seen, again) in zip(plain, copy, strict=True):
        np.testing.assert_array_equal(labels, again)
        np.testing.assert_array_equal(given["age"], seen["age"])
    assert not set(images_of(plain)) & set(images_of(copy))
    assert images_of(copy) == images_of(read("val", tta_copy=1))


def test_the_image_ids_of_a_training_batch(read, datasets):
    index = example.read_split_index(datasets["image"].paths("train"))
    named = batch_ids(datasets, PARAMS, epoch=1, step=2)
    rows = [np.flatnonzero(index.image_ids == name).item() for name in named]
    inputs, labels = read("train", epoch=1)[2]
    np.testing.assert_array_equal(labels, index.labels[rows])
    np.testing.assert_array_equal(inputs["age"], index.ages[rows])


@pytest.fixture(scope="module")
def encodings(tmp_path_factory, write_release, build):
    """The same 12 images as png, raw and jpeg records, in one split; the other two are empty."""
    folder = tmp_path_factory.mktemp("encodings")
    release = write_release(folder / "release", patients=4, lists=False)
    for encoding in ("png", "raw", "jpeg"):
        build(release, folder / encoding, "--encoding", encoding, "--ratios", 1, 0, 0)
    return folder


def read_encoding(folder, split="train"):
    return list(input_fn(split, {"image": open_dataset(folder)}, PARAMS).as_numpy_iterator())


def test_png_and_raw_records_give_equal_pixels(encodings):
    png, raw = images_of(read_encoding(encodings / "png")), images_of(read_encoding(encodings / "raw"))
    assert png == raw
    assert len(png) == 12


def test_jpeg_records_give_nearly_equal_pixels(encodings):
    png, jpeg = read_encoding(encodings / "png"), read_encoding(encodings / "jpeg")
    difference = np.abs(png[0][0]["image"].astype(int) - jpeg[0][0]["image"])
    assert 0 < difference.mean() < 3


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_an_empty_split_has_no_batches(encodings, encoding):
    assert read_encoding(encodings / encoding, "test") == []


def test_the_pixels_are_those_of_the_release(encodings):
    paths = sorted((encodings / "release" / "images").iterdir())
    expected = [np.asarray(Image.open(path).resize((32, 32), Image.Resampling.BILINEAR)).tobytes() for path in paths]
    assert sorted(images_of(read_encoding(encodings / "png"))) == sorted(expected)


def test_a_damaged_shard_is_an_error(encodings, tensorflow, tmp_path):
    images = open_dataset(encodings / "png")
    [shard] = images.paths("train")
    data = bytearray(Path(shard).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / Path(shard).name).write_bytes(data)
    damaged = Dataset(epath.Path(tmp_path), images.info)
    with pytest.raises(tensorflow.errors.DataLossError, match="corrupted record"):
        list(input_fn("train", {"image": damaged}, PARAMS))


@pytest.fixture(scope="module")
def features(datasets, tmp_path_factory):
    """Two sets of features of the built dataset: the patient's id three times, and (patient's id, age)."""
    kinds = {"ids": lambda row: [row.patient_id] * 3, "pairs": lambda row: [row.patient_id, row.age]}
    images, made = datasets["image"], {}
    for name, vector in kinds.items():
        folder = tmp_path_factory.mktemp(name)
        for path in [path for split in SPLITS for path in images.paths(split)]:
            rows = [example.unpack_row(record) for record in example.read_records(path)]
            with (folder / Path(path).name).open("wb") as file:
                for row in rows:
                    example.write_record(file, example.pack_features(row, np.array(vector(row))))
        info = images.info | {"kind": "features", "dimension": len(vector(rows[0]))}
        made[name] = Dataset(epath.Path(folder), info)
    return made


def test_features_have_the_name_of_their_dataset(features):
    inputs, labels = next(iter(input_fn("val", features, PARAMS).as_numpy_iterator()))
    found = {name: (value.shape, value.dtype.name) for name, value in inputs.items()}
    assert found == {
        "ids": ((8, 3), "float32"),
        "pairs": ((8, 2), "float32"),
        "age": ((8,), "float32"),
        "sex": ((8,), "int64"),
        "view_position": ((8,), "int64"),
    }
    assert (labels.shape, labels.dtype.name) == ((8, 14), "float32")


@pytest.mark.parametrize("epoch", [None, 0, 1])
def test_the_features_of_an_image_stay_together(features, epoch):
    batches = list(input_fn("train", features, PARAMS, epoch=epoch).as_numpy_iterator())
    ids, pairs = (np.concatenate([inputs[name] for inputs, _ in batches]) for name in ("ids", "pairs"))
    np.testing.assert_array_equal(ids, np.repeat(pairs[:, :1], 3, axis=1))
    np.testing.assert_array_equal(pairs[:, 1], np.concatenate([inputs["age"] for inputs, _ in batches]))
    assert len(ids) == (33 if epoch is None else 32)
    assert len(set(ids[:, 0])) > 1


def test_features_have_the_order_of_the_images(features, datasets):
    orders = []
    for given in (features, datasets):
        batches = input_fn("train", given, PARAMS, epoch=3).as_numpy_iterator()
        orders.append(np.concatenate([np.column_stack([inputs["age"], labels]) for inputs, labels in batches]))
    np.testing.assert_array_equal(*orders)


def test_an_empty_split_of_several_feature_datasets_has_no_batches(features):
    empty = {"splits": {"test": {"images": 0, "shards": []}}}
    datasets = {name: Dataset(dataset.folder, dataset.info | empty) for name, dataset in features.items()}
    assert list(input_fn("test", datasets, PARAMS).as_numpy_iterator()) == []
