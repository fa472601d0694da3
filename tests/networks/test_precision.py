import pytest

from cxr.networks.precision import layers_in
from cxr.params import Params
from cxr.records.dataset import open_dataset
from model_fn import model_fn
from training.epochs import fit_epoch
from training.run import Run


@pytest.mark.parametrize(
    ("precision", "computes_in"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("mixed_float16", "float16")]
)
def test_layers_compute_in_the_precision_and_keep_float32_weights(precision, computes_in):
    import keras

    with layers_in(precision):
        layer = keras.layers.Dense(2)
    layer.build((None, 3))
    assert (layer.compute_dtype, layer.kernel.dtype) == (computes_in, "float32")


def test_the_policy_is_restored_even_after_an_error():
    import keras

    with pytest.raises(KeyError), layers_in("bfloat16"):
        raise KeyError
    assert keras.layers.Dense(2).compute_dtype == "float32"


def test_mixed_float16_uses_a_loss_scale_that_a_resume_restores(built_dataset, tmp_path):
    import keras

    images = open_dataset(built_dataset)
    params = Params(precision="mixed_float16", image_size=32, num_channels=4, num_blocks=2, batch_size=8)
    run = Run(params, model_fn(params, images.info), {"image": images}, tmp_path)
    # float16 gradients below 6e-8 are zero: https://arxiv.org/abs/1710.03740, section 3.2
    assert isinstance(run.model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = len(run.variables())
    fit_epoch(run, 0)
    assert len(run.variables()) == before


@pytest.mark.parametrize("seed", [230, 231, 232])
def test_losses_in_bfloat16_follow_those_in_float32(seed, built_dataset, tmp_path):
    images = open_dataset(built_dataset)
    curves = []
    for precision in ("float32", "bfloat16"):
        params = Params(precision=precision, image_size=32, num_channels=4, num_blocks=2, batch_size=8, seed=seed)
        run = Run(params, model_fn(params, images.info), {"image": images}, tmp_path)
        curves.append([fit_epoch(run, epoch)["loss"] for epoch in range(3)])
    float32, bfloat16 = curves
    assert bfloat16 == pytest.approx(float32, rel=0.02)  # five times the 2^-8 of rounding to bfloat16
    assert bfloat16 != float32
