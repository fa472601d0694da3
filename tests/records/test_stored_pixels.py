"""The pixels in training batches are exactly those that were measured for the records, in every encoding."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from cxr.images.encode import ENCODINGS
from cxr.params import Params
from cxr.records import example
from cxr.records.dataset import open_dataset
from input_fn import input_fn
from tools import make_sample

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
SIZE = 64


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Drawn radiographs and one image of noise, which has every frequency of a JPEG."""
    folder = tmp_path_factory.mktemp("pixels") / "release"
    make_sample.main(["--output_dir", str(folder), "--images", "24", "--size", "128"])
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)
    Image.fromarray(noise).save(min(folder.glob("images/*.png")))
    return folder


def pillow_pixels(encoded: bytes, encoding: str) -> np.ndarray:
    """The image of a record, uint8 [SIZE, SIZE], decoded by Pillow."""
    if encoding == "raw":
        return np.frombuffer(encoded, np.uint8).reshape(SIZE, SIZE)
    return np.asarray(Image.open(io.BytesIO(encoded)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_batches_have_the_pixels_of_pillow_and_the_recorded_mean_and_stddev(release, build, tmp_path, encoding):
    build(release, tmp_path, "--image_size", SIZE, "--encoding", encoding, "--ratios", 1, 0, 0, "--split", "random")
    dataset = open_dataset(tmp_path)
    batches = input_fn("train", {"image": dataset}, Params(image_size=SIZE)).as_numpy_iterator()
    found = np.concatenate([inputs["image"][..., 0] for inputs, _ in batches])
    [path] = dataset.paths("train")
    features = [example.features_of(record) for record in example.read_records(path)]
    expected = [pillow_pixels(feature["image/encoded"].bytes_list.value[0], encoding) for feature in features]
    assert len(found) == 24
    np.testing.assert_array_equal(found, expected)
    index = example.read_split_index([path])
    np.testing.assert_allclose(found.mean(axis=(1, 2)), index.means, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=(1, 2)), index.stddevs, rtol=0, atol=1e-4)
