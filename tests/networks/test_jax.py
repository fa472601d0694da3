"""The model code on the JAX backend: logits, losses and three training steps agree with TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxr.networks.imports import import_tensorflow

ROOT = Path(__file__).resolve().parents[2]
HEAD = {"left": 6, "right": 4}  # widths of an ensemble's features
LOSS_OF = {"simple_cnn": "focal", "ensemble": "batch_balanced"}
LOSSES = ["bce", "batch_balanced", "inverse_frequency", "focal"]
OTHER_BACKEND = """
import sys
sys.path[:0] = ["tests", "tests/networks"]
import test_jax
test_jax.run_all(sys.argv[1], sys.argv[2])
"""


def dataset_info() -> dict:
    from cxr.findings import FINDINGS

    info = {"findings": list(FINDINGS), "image_size": 40}
    return info | {"splits": {"train": {"images": 98, "positives": dict.fromkeys(FINDINGS, 9)}}}


def loss_values() -> dict[str, np.ndarray]:
    """Every loss of a batch of logits."""
    import keras

    from cxr.networks.losses import make_loss
    from cxr.params import Params

    random, found = np.random.default_rng(1), {}
    labels, logits = random.integers(0, 2, (5, 14)).astype(np.float32), random.normal(size=(5, 14)).astype(np.float32)
    labels, logits = keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(logits)
    for name in LOSSES:
        loss = make_loss(Params(loss=name), dataset_info())
        found[f"loss/{name}"] = np.asarray(loss(labels, logits))
    return found


def make_models() -> dict:
    """A small CNN on a crop with patient inputs, and a head over two extractors."""
    from cxr.params import parse_params
    from model_fn import model_fn

    info = dataset_info()
    small = {"image_size": 32, "num_channels": 4, "num_blocks": 2}
    ensemble = {"model": "ensemble", "extractors": [{}, {}], "hidden_units": [8, 5], "transition_units": 7}
    return {
        "simple_cnn": model_fn(parse_params({**small, "metadata": True, "crop_size": 36}, where=""), info),
        "ensemble": model_fn(parse_params(ensemble, where=""), info, HEAD),
    }


def make_batch() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """12 images and feature vectors, with labels."""
    random = np.random.default_rng(0)
    inputs = {name: random.normal(size=(12, width)).astype(np.float32) for name, width in HEAD.items()}
    inputs |= {"age": np.linspace(-5, 200, 12, dtype=np.float32), "sex": np.arange(12) % 3 - 1}
    inputs |= {"view_position": np.arange(12) % 2, "image": random.integers(0, 256, (12, 40, 40, 1), np.uint8)}
    return inputs, random.integers(0, 2, (12, 14)).astype(np.float32)


def trained_logits(name: str, model, weights: list[np.ndarray] | None) -> tuple[list, np.ndarray, np.ndarray]:
    """The initial weights, their logits, and the logits after three steps of SGD."""
    import keras

    from cxr.networks.losses import make_loss
    from cxr.params import Params

    inputs, labels = make_batch()
    inputs = {name: inputs[name] for name in model.input}
    if weights is not None:
        model.set_weights(weights)
    begin, before = model.get_weights(), model.predict(inputs, verbose=0)
    loss = make_loss(Params(loss=LOSS_OF[name]), dataset_info())
    model.compile(
        keras.optimizers.SGD(0.1), loss, jit_compile=keras.backend.backend() == "jax"
    )  # without it JAX is slow
    model.fit(inputs, labels, batch_size=4, shuffle=False, verbose=0)
    return begin, before, model.predict(inputs, verbose=0)


def run_all(source: str, target: str) -> None:
    """Train every model from the weights in one .npz and write its logits to another."""
    import_tensorflow()
    import keras

    assert keras.backend.backend() == "jax"
    found = {}
    with np.load(source) as given:
        for name, model in make_models().items():
            weights = [given[f"{name}/{place:02d}"] for place in range(len(model.weights))]
            _, found[f"{name}/before"], found[f"{name}/after"] = trained_logits(name, model, weights)
    np.savez(target, **found, **loss_values())


def test_jax_gives_the_same_logits_losses_and_training_as_tensorflow(tmp_path):
    pytest.importorskip("jax")
    weights, expected = {}, {}
    for name, model in make_models().items():
        begin, before, after = trained_logits(name, model, None)
        weights |= {f"{name}/{place:02d}": value for place, value in enumerate(begin)}
        expected |= {f"{name}/before": before, f"{name}/after": after}
        assert np.abs(after - before).max() > 0.01  # training changed the logits
    expected |= loss_values()
    np.savez(tmp_path / "weights.npz", **weights)
    command = [sys.executable, "-c", OTHER_BACKEND, str(tmp_path / "weights.npz"), str(tmp_path / "logits.npz")]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles in half the time
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    with np.load(tmp_path / "logits.npz") as found:
        assert set(found.files) == set(expected)
        for name, logits in expected.items():
            np.testing.assert_allclose(found[name], logits, atol=1e-4, err_msg=name)
