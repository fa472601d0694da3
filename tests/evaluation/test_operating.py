import json
import math

import numpy as np
import pytest

from cxr.evaluation import operating
from cxr.findings import FINDINGS


def test_calibration_and_calls_by_hand():
    nan = math.nan
    points = operating.OperatingPoints(*(np.array([a, b, nan]) for a, b in ((0.5, 0.2), (2.0, 1.0), (-1.0, 0.0))))
    p = np.array([0.5, 0.2, 0.9])
    # logit(0.5) = 0, so sigmoid(-1); slope 1 and intercept 0 change nothing; without calibration nothing changes
    np.testing.assert_allclose(points.calibrated(p), [1 / (1 + math.e), 0.2, 0.9], atol=1e-12)
    assert points.calls(p) == [True, True, None]  # at the threshold is a call
    assert points.calls(p - 1e-9) == [False, False, None]
    same = points.calibrated(p) >= points.calibrated(points.thresholds)
    assert list(same[:2]) == points.calls(p)[:2]  # on the other side of the calibration too


def test_metrics_files_from_before_calibration_still_give_calls(tmp_path):
    (tmp_path / "metrics_val_best.json").write_text(
        json.dumps({"findings": {key: {"threshold": 0.3} for key in FINDINGS}})
    )
    points = operating.read_points(tmp_path, "best")
    assert not points.is_empty
    assert points.calibrated(np.full(14, 0.3)).tolist() == [0.3] * 14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"findings": {"Mass": {}}}', "has the findings Mass; this code works with Atelectasis"),
        (json.dumps({"findings": {key: {} for key in FINDINGS}}), r"is no metrics file \(KeyError\('threshold'\)\)"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_metrics_file_that_is_none_is_named(tmp_path, text, message):
    (tmp_path / "metrics_val_best.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        operating.read_points(tmp_path, "best")
