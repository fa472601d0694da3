import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MIRRORED = """
import json, pathlib, sys
sys.path[:0] = ["tests", "tests/training"]
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_fine_tune as tests
from support.tiny import register_tiny
from cxr.networks.devices import mirrored_devices
register_tiny()
found = []
for place, count in enumerate((2, 1, 2)):
    strategy = mirrored_devices(*["CPU:0", "CPU:1"][:count])
    constant = {} if place else {"lr_schedule": "constant", "warmup_epochs": 0}
    with strategy.scope():
        params = tests.parse_params(tests.SMALL | {"dropout": 0.0, "ema_decay": 0.9} | constant, where="")
        images = tests.open_dataset(sys.argv[1])
        model = tests.model_fn(params, images.info)
        for layer in model.get_layer("feature_extractor").layers if place else ():
            # Each device normalises by its own share of a batch.
            layer.trainable = "batch_normalization" not in layer.name
        run = tests.Run(params, model, {"image": images}, pathlib.Path(sys.argv[2]))
    row = tests.fit_epoch(run, 0)
    found.append([strategy.num_replicas_in_sync, row["loss"], tests.logits_of(model, sys.argv[1]).tolist()])
print(json.dumps(found))
"""


def test_training_on_two_devices_gives_the_same_numbers_as_on_one(built_dataset, tmp_path):
    """Two models one after the other on two devices, like a head and the whole model, and one on a single device."""
    command = [sys.executable, "-c", MIRRORED, str(built_dataset), str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    other, one, two = json.loads(process.stdout.splitlines()[-1])
    assert (other[0], one[0], two[0]) == (2, 1, 2)
    assert np.isfinite(other[1])
    assert two[1] == pytest.approx(one[1], abs=1e-4)
    np.testing.assert_allclose(two[2], one[2], atol=1e-4)
