"""Setup and description of TensorFlow's devices. No test needs a GPU: some put fake ones into TensorFlow's lists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxr.networks import devices

ROOT = Path(__file__).resolve().parents[2]
# Two fake GPUs in TensorFlow's own lists; the messages about them are TensorFlow's.
FAKE_GPUS = """
import logging
import tensorflow as tf
from tensorflow.python.eager import context
from cxr.networks.devices import prepare_devices
logging.basicConfig(stream=sys.stdout, format="%(message)s")
gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU") for number in range(2)]
tf.config.list_physical_devices()
context.context()._physical_devices += gpus
context.context()._visible_device_list += gpus
context.context()._memory_growth_map |= dict.fromkeys(gpus)
def growth():
    return [tf.config.experimental.get_memory_growth(gpu) for gpu in gpus]
"""
TWO_CPUS = """
import json, pathlib
sys.path[:0] = ["tests", "tests/networks", "tests/training"]
import numpy as np
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_fine_tune as tests
from support.tiny import register_tiny
from cxr.networks.devices import mirrored_devices, prepare_devices
register_tiny()
images, folder = tests.open_dataset(sys.argv[1]), pathlib.Path(sys.argv[2])
"""
TRAINED_TWICE = """
prepare_devices(deterministic=True)
CHANGED = {"augmentation": "strong", "horizontal_flip": True, "dropout": 0.3}
CNN = {"image_size": 48, "num_channels": 4, "num_blocks": 1, "batch_size": 8, "loss": "batch_balanced", "mixup": 0.3}
TUNED = {"metadata": True, "fine_tune": tests.TUNE | {"batch_norm": "trained"}}
found = {}
for name, values, names in (("tuned", tests.SMALL | TUNED, ["CPU:0"]), ("cnn on two", CNN, ["CPU:0", "CPU:1"])):
    for _ in range(2):
        params = tests.parse_params(values | CHANGED, where=name)
        with mirrored_devices(*names).scope():
            run = tests.Run(params, tests.model_fn(params, images.info), {"image": images}, folder)
        before = np.concatenate([np.ravel(weight) for weight in run.model.get_weights()])
        tests.fit_epoch(run, 0)
        after = np.concatenate([np.ravel(weight) for weight in run.model.get_weights()])
        kinds = sorted({type(layer).__name__ for layer in run.model._flatten_layers()})
        found.setdefault(name, []).append([float(np.abs(after - before).max()), after.tobytes().hex(), kinds])
tf.keras.utils.set_random_seed(1)
tf.random.set_seed(None)
try:
    tf.random.uniform([1])
    unseeded = "drawn"
except RuntimeError as error:
    unseeded = str(error)
print(json.dumps([found, unseeded]))
"""
MIRRORED = """
found = []
for place, count in enumerate((2, 1, 2)):
    strategy = mirrored_devices(*["CPU:0", "CPU:1"][:count])
    constant = {} if place else {"lr_schedule": "constant", "warmup_epochs": 0}
    with strategy.scope():
        params = tests.parse_params(tests.SMALL | {"dropout": 0.0, "ema_decay": 0.9} | constant, where="")
        model = tests.model_fn(params, images.info)
        for layer in model.get_layer("feature_extractor").layers if place else ():
            # Each device normalises by its own share of a batch.
            layer.trainable = "batch_normalization" not in layer.name
        run = tests.Run(params, model, {"image": images}, folder)
    row = tests.fit_epoch(run, 0)
    found.append([strategy.num_replicas_in_sync, row["loss"], tests.logits_of(model, sys.argv[1]).tolist()])
print(json.dumps(found))
"""
ONE_CORE = """
from cxr.networks.devices import describe_devices
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
print(describe_devices())
"""
ALONE = {
    "prepared": FAKE_GPUS + "prepare_devices(); print(growth()); tf.constant(1); prepare_devices(); print(growth())",
    "opened": FAKE_GPUS + "tf.constant(1); prepare_devices(); print(growth())",
    "one core": ONE_CORE,
    "trained twice": TWO_CPUS + TRAINED_TWICE,
    "mirrored": TWO_CPUS + MIRRORED,
}
# Runs each snippet of code in a fork of its own, before TensorFlow has opened a device: one import serves all.
FORKS = """
import json, os, sys
from cxr.networks.imports import import_tensorflow
import_tensorflow()
for place, code in enumerate(json.loads(sys.argv[3])):
    child = os.fork()
    if not child:
        with open(f"{sys.argv[2]}/{place}.txt", "w") as sys.stdout:
            exec(code)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, code
"""


@pytest.fixture(scope="module")
def printed(built_dataset, tmp_path_factory) -> dict[str, str]:
    """What each of ALONE prints in a process of its own, for state that is global to a process."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-c", FORKS, str(built_dataset), str(folder), json.dumps(list(ALONE.values()))]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    return {name: (folder / f"{place}.txt").read_text() for place, name in enumerate(ALONE)}


def test_gpu_memory_growth_is_set_and_stays_set(printed):
    assert printed["prepared"] == "[True, True]\n[True, True]\n"


def test_gpus_that_tensorflow_has_opened_are_only_logged(printed):
    *said, grows = printed["opened"].splitlines()
    text = "memory growth of /physical_device:GPU:{} cannot be set: Physical devices cannot be modified after being in"
    assert [line[: len(text) - 1] for line in said] == [text.format(0), text.format(1)]
    assert grows == "[None, None]"


def test_without_a_gpu_there_is_nothing_to_prepare(caplog):
    devices.prepare_devices()
    devices.prepare_devices()
    assert caplog.records == []


def test_deterministic_training_on_one_and_on_two_devices_gives_the_same_weights_twice(printed):
    """Augmentation, dropout, antialiased resizing, both batch norms and embeddings all have deterministic kernels."""
    found, unseeded = json.loads(printed["trained twice"].splitlines()[-1])
    for name, (one, again) in found.items():
        assert one[0] > 1e-4, f"{name} was not trained"
        assert one[1] == again[1], f"{name} has other weights the second time"
    assert {"Resizing", "Dropout", "BatchNormalization"} <= set(found["cnn on two"][0][2])
    assert {"FusedBatchNormalization", "Embedding"} <= set(found["tuned"][0][2])
    assert unseeded.startswith("Random ops require a seed to be set when determinism is enabled.")


def test_training_on_two_devices_gives_the_same_numbers_as_on_one(printed):
    """Two models one after the other on two devices, like a head and the whole model, and one on a single device."""
    other, one, two = json.loads(printed["mirrored"].splitlines()[-1])
    assert (other[0], one[0], two[0]) == (2, 1, 2)
    assert np.isfinite(other[1])
    assert two[1] == pytest.approx(one[1], abs=1e-4)
    np.testing.assert_allclose(two[2], one[2], atol=1e-4)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["NVIDIA A100-SXM4-40GB"], "NVIDIA A100-SXM4-40GB"),
        (["NVIDIA A100-SXM4-40GB"] * 2, "2 x NVIDIA A100-SXM4-40GB"),
        (["NVIDIA L4", "NVIDIA T4", "NVIDIA L4"], "2 x NVIDIA L4, NVIDIA T4"),
        ([None], "GPU of unknown name"),  # plugins of other vendors may report no name
    ],
)
def test_gpus_are_described_by_count_and_name(monkeypatch, names, expected):
    import tensorflow as tf

    fakes = [tf.config.PhysicalDevice(f"/physical_device:GPU:{place}", "GPU") for place in range(len(names))]
    details = {gpu: {"device_name": name} if name else {} for gpu, name in zip(fakes, names, strict=True)}
    monkeypatch.setattr(tf.config, "get_visible_devices", {"GPU": fakes}.get)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.get)
    assert devices.describe_devices() == expected


def test_a_cpu_is_described_by_its_name_and_the_usable_cores(printed):
    assert printed["one core"] == f"CPU {devices.processor_name()}, 1 core\n"
    if len(os.sched_getaffinity(0)) > 1:
        assert devices.describe_devices().endswith(f", {len(os.sched_getaffinity(0))} cores")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 7B13\n\nmodel name\t: other\n", "AMD EPYC 7B13"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", os.uname().machine),  # ARM does not name its model
        ("model name\t:\n", os.uname().machine),
        (None, os.uname().machine),
    ],
)
def test_the_name_of_a_processor(tmp_path, cpuinfo, expected):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert devices.processor_name(tmp_path / "cpuinfo") == expected


def test_one_device_needs_no_mirroring():
    import tensorflow as tf

    assert devices.mirrored_devices("CPU:0") is tf.distribute.get_strategy()


def test_the_gpu_requirements_pin_the_same_tensorflow():
    pins = {}
    for name in ("requirements.txt", "requirements/gpu.txt"):
        [pins[name]] = re.findall(r"^tensorflow(?:\[and-cuda\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    assert pins["requirements.txt"] == pins["requirements/gpu.txt"]
