import json

import numpy as np
import pytest

from cxr.evaluation import out_of_distribution as ood

SQUARE = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)  # mean 0, variance 1, no correlation
FITTED = ood.Distances(np.zeros(2), np.eye(2), 5.0)


def experiment_of(folder, fingerprint="f"):
    from cxr.findings import FINDINGS

    (folder / "dataset.json").write_text(json.dumps({"findings": list(FINDINGS), "fingerprint": fingerprint}))
    return folder


def test_without_correlation_the_distance_is_counted_in_standard_deviations():
    fitted = ood.fit(SQUARE * [1, 10] + [5, 0], np.array([[5.0, 0.0]]))
    np.testing.assert_allclose(fitted.distance(np.array([[5, 0], [8, 0], [5, 40], [8, 40]])), [0, 3, 4, 5])


def test_with_correlation_the_distance_is_mahalanobis_with_a_shrunk_correlation():
    line = np.array([[-1.0, -1.0], [1.0, 1.0]])  # correlation 1, shrunk to 0.9
    fitted = ood.fit(line, line)
    # The inverse of [[1, .9], [.9, 1]] has 1/1.9 along (1, 1) and 1/0.1 across: squares 2/1.9 and 2/0.1.
    found = fitted.distance(np.array([[1, 1], [1, -1]]))
    np.testing.assert_allclose(found, [np.sqrt(2 / 1.9), np.sqrt(2 / 0.1)])
    assert fitted.threshold == pytest.approx(np.sqrt(2 / 1.9))


def test_at_most_one_percent_of_val_is_beyond_the_threshold():
    val = np.arange(1, 201)[:, None] * [[1.0, 0.0]]  # distances 1 to 200
    fitted = ood.fit(SQUARE, val)
    assert fitted.threshold == pytest.approx(199)  # only 200 is beyond it; beyond 198 would be 2 of 200, which is 1 %
    assert (fitted.distance(val) > fitted.threshold).sum() == 1
    assert ood.fit(SQUARE, val[:5]).threshold == pytest.approx(5)


def test_a_constant_column_has_no_weight_of_its_own():
    fitted = ood.fit(SQUARE * [1, 0], SQUARE[:1] * [1, 0])
    assert fitted.distance(np.array([2.0, 0.0])) == pytest.approx(2)


@pytest.mark.parametrize(("num_train", "num_val"), [(0, 4), (1, 4), (4, 0)])
def test_too_few_images_fit_nothing(tmp_path, num_train, num_val):
    assert ood.fit(SQUARE[:num_train], SQUARE[:num_val]) is None
    ood.fit_experiment(tmp_path, SQUARE[:num_train], SQUARE[:num_val], fingerprint="f")
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    model_dir = experiment_of(tmp_path)
    assert ood.read(model_dir, "best") is None
    random = np.random.default_rng(0).normal(size=(30, 3))
    ood.fit_experiment(model_dir, random[:20], random[20:], fingerprint="f")
    written, read = ood.fit(random[:20], random[20:]), ood.read(model_dir, "best")
    for before, after in zip(written, read, strict=True):
        np.testing.assert_array_equal(before, after)


def test_distances_of_another_dataset_are_refused(tmp_path):
    model_dir = experiment_of(tmp_path, "other")
    ood.write(model_dir, FITTED, "f")
    text = (
        f"{tmp_path}/out_of_distribution.json was fitted on another dataset than {tmp_path} was trained on. "
        f"Run: python evaluate.py --model_dir {tmp_path} --split val --checkpoint last"
    )
    with pytest.raises(ValueError, match=f"^{text}$"):
        ood.read(model_dir, "last")


@pytest.mark.parametrize("text", ["{}", '{"mean": [0, 0], "whitening": [[1]], "threshold": 1}', '{"mean": 1'])
def test_damaged_distances_are_refused(tmp_path, text):
    model_dir = experiment_of(tmp_path)
    ood.path_of(model_dir).write_text(text)
    with pytest.raises(ValueError, match=r"out_of_distribution\.json is (damaged|not valid JSON)"):
        ood.read(model_dir, "best")
