import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.evaluation import metrics
from cxr.findings import FINDINGS

NAN = float("nan")

# Few distinct scores, so many ties; both classes are present.
mixed = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),  # three of the four pairs are in order
        ([0, 0, 1, 1], [0.8, 0.9, 0.1, 0.2], 0.0),  # none
        ([0, 1], [0.5, 0.5], 0.5),  # a tie is half a win
        ([0, 1, 1, 0], [0.2, 0.2, 0.7, 0.1], 0.875),  # a half and three wins of four
        ([1, 1], [0.1, 0.9], NAN),  # no negatives: undefined, not 0.5
        ([0, 0], [0.1, 0.9], NAN),  # no positives
        ([], [], NAN),
    ],
)
def test_auroc(labels, scores, expected):
    found = metrics.auroc(np.array(labels, int), np.array(scores, float))
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 5 / 6),  # 1/2 at precision 1, 1/2 at precision 2/3
        ([0, 1], [0.5, 0.5], 0.5),  # one threshold, precision 1/2
        ([1, 0, 0, 1], [0.9, 0.9, 0.9, 0.1], 5 / 12),  # 1/2 at precision 1/3, 1/2 at precision 2/4
        ([1, 1], [0.1, 0.9], 1.0),
        ([0, 0], [0.1, 0.9], NAN),
        ([], [], NAN),
    ],
)
def test_average_precision(labels, scores, expected):
    found = metrics.average_precision(np.array(labels, int), np.array(scores, float))
    assert found == pytest.approx(expected, nan_ok=True)


@settings(deadline=None)  # the machine may be busy
@given(mixed)
def test_auroc_and_average_precision_are_those_of_scikit_learn(pairs):
    labels, scores = np.array(pairs).T
    assert metrics.auroc(labels, scores / 9) == pytest.approx(roc_auc_score(labels, scores / 9), abs=1e-9)
    expected = average_precision_score(labels, scores / 9)
    assert metrics.average_precision(labels, scores / 9) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "probabilities", "expected"),
    [
        ([[1, 0]], [[0.5, 0.5]], 0.693147),  # ln 2 each
        ([[1, 0]], [[0.8, 0.4]], 0.366985),  # (-ln 0.8 - ln 0.6) / 2
        ([[1], [1]], [[1.0], [0.0]], 8.059048),  # 0 and -ln 1e-7 = 16.118096, halved: finite
        ([[0]], [[1.0]], 16.118096),
    ],
)
def test_log_loss(labels, probabilities, expected):
    assert metrics.log_loss(np.array(labels), np.array(probabilities)) == pytest.approx(expected, abs=1e-6)


def test_sigmoid():
    found = metrics.sigmoid(np.array([0.0, np.log(3), -1000, 1000, NAN]))
    np.testing.assert_allclose(found, [0.5, 0.75, 0, 1, NAN], atol=1e-15)  # 3 / (3 + 1)
    assert metrics.sigmoid(np.zeros(1, np.float32)).dtype == np.float32


def test_the_mean_is_over_the_defined():
    assert metrics.mean_defined([0.6, NAN, 0.8]) == pytest.approx(0.7)
    assert np.isnan(metrics.mean_defined([NAN]))
    assert np.isnan(metrics.mean_defined([]))


def random_predictions(*, images: int = 40, patients: int = 12, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (images, len(FINDINGS)))
    probabilities = np.round(0.3 * labels + 0.7 * generator.random(labels.shape), 2)
    return labels, probabilities, generator.integers(0, patients, images)


def test_bootstrap_equals_drawing_patients_and_repeating_their_images():
    labels, scores, patient_ids = random_predictions(images=30, patients=8)
    patients = np.unique(patient_ids)
    generator = np.random.default_rng(metrics.SEED)
    expected = []
    for _ in range(25):
        drawn = patients[generator.integers(len(patients), size=len(patients))]
        images = np.concatenate([np.flatnonzero(patient_ids == patient) for patient in drawn])
        expected.append([roc_auc_score(labels[images, f], scores[images, f]) for f in range(len(FINDINGS))])
    found = metrics.bootstrap_aurocs(labels, scores, patient_ids, resamples=25)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_bootstrap_is_seeded():
    data = random_predictions()
    first = metrics.bootstrap_aurocs(*data, resamples=5)
    np.testing.assert_array_equal(first, metrics.bootstrap_aurocs(*data, resamples=5))
    assert not np.array_equal(first, metrics.bootstrap_aurocs(*data, resamples=5, seed=1))


def test_a_resample_without_a_class_is_undefined():
    labels, scores = np.array([[1], [0]]), np.array([[0.9], [0.1]])
    found = metrics.bootstrap_aurocs(labels, scores, np.array([1, 2]), resamples=50)
    assert set(found[~np.isnan(found)]) == {1.0}
    assert np.isnan(found).any()  # both draws fall on one patient


def test_intervals_over_patients_are_wider_where_their_images_are_copies():
    labels, scores, _ = random_predictions(images=60)
    copies = [np.repeat(array, 5, axis=0) for array in (labels, scores)]
    by_patient = metrics.bootstrap_aurocs(*copies, np.repeat(np.arange(60), 5), resamples=200)
    by_image = metrics.bootstrap_aurocs(*copies, np.arange(300), resamples=200)
    ratio = by_patient.std(axis=0) / by_image.std(axis=0)
    assert ratio.mean() == pytest.approx(np.sqrt(5), rel=0.15)  # one fifth of the independent draws


def test_the_interval_is_the_central_95_percent_of_the_resamples():
    data = random_predictions()
    resampled = metrics.bootstrap_aurocs(*data)
    mean, findings = metrics.aurocs_with_intervals(*data)
    assert (resampled[:, 4] < findings["Mass"]["low"]).mean() == pytest.approx(0.025, abs=0.005)
    assert (resampled[:, 4] > findings["Mass"]["high"]).mean() == pytest.approx(0.025, abs=0.005)
    assert (resampled.mean(axis=1) < mean["low"]).mean() == pytest.approx(0.025, abs=0.005)


def test_undefined_findings_are_left_out_of_the_mean():
    labels, scores, patient_ids = random_predictions()
    labels[:, 13] = 0  # no Hernia
    labels[:, 0] = 1  # all Atelectasis
    mean, findings = metrics.aurocs_with_intervals(labels, scores, patient_ids)
    assert findings["Hernia"] == pytest.approx({"auroc": NAN, "low": NAN, "high": NAN, "positives": 0}, nan_ok=True)
    assert np.isnan(findings["Atelectasis"]["auroc"])
    expected = np.mean([roc_auc_score(labels[:, f], scores[:, f]) for f in range(1, 13)])
    assert (mean["value"], mean["findings"]) == (pytest.approx(expected, abs=1e-12), 12)
    assert mean["low"] < mean["value"] < mean["high"]


def test_one_positive_patient():
    labels = np.zeros((6, len(FINDINGS)), int)
    labels[0, 4] = 1  # a third of the resamples lack this patient, and then have no AUROC at all
    scores = np.tile(np.linspace(0.9, 0.1, 6)[:, None], (1, len(FINDINGS)))
    mean, _ = metrics.aurocs_with_intervals(labels, scores, np.arange(6))
    assert mean == {"value": 1.0, "low": 1.0, "high": 1.0, "findings": 1}


def test_one_patient_has_an_auroc_but_no_interval():
    labels, scores, _ = random_predictions()
    mean, findings = metrics.aurocs_with_intervals(labels, scores, np.full(40, 7))
    assert 0.5 < mean["value"] < 1
    assert np.isnan([mean["low"], mean["high"], findings["Mass"]["low"]]).all()


def test_no_images():
    none = np.zeros((0, len(FINDINGS)))
    mean, findings = metrics.aurocs_with_intervals(none.astype(int), none, np.zeros(0, int))
    assert mean == pytest.approx({"value": NAN, "low": NAN, "high": NAN, "findings": 0}, nan_ok=True)
    assert findings["Mass"]["positives"] == 0


def test_a_thousand_resamples_of_chance_on_the_official_test_split_lie_around_one_half():
    generator = np.random.default_rng(0)
    labels = (generator.random((25_596, 14)) < 0.1).astype(int)
    patient_ids = np.concatenate([np.arange(2_797), generator.integers(0, 2_797, 25_596 - 2_797)])
    found = metrics.bootstrap_aurocs(labels, generator.random(labels.shape), patient_ids)
    assert found.shape == (1000, 14)
    assert found.mean() == pytest.approx(0.5, abs=0.01)


def test_none_for_nan_at_any_depth():
    found = metrics.none_for_nan({"a": NAN, "b": [{"c": NAN, "d": 0.5}], "e": "nan", "f": 0})
    assert found == {"a": None, "b": [{"c": None, "d": 0.5}], "e": "nan", "f": 0}
