import pytest

from cxr.params import Params
from training.optimizers import learning_rate, make_optimizer

STEPS = 10  # per epoch, so two epochs are 20 steps


def rate_at(step: int, **values) -> float:
    params = Params(num_epochs=2, learning_rate=0.4, **values)
    optimizer = make_optimizer(params, learning_rate(params, STEPS))
    optimizer.iterations.assign(step)
    return float(optimizer.learning_rate)


@pytest.mark.parametrize(
    ("schedule", "warmup_epochs", "step", "expected"),
    [
        ("cosine", 0.4, 0, 0.0),  # warm-up of 4 steps
        ("cosine", 0.4, 2, 0.2),  # half of the warm-up
        ("cosine", 0.4, 4, 0.4),  # the peak
        ("cosine", 0.4, 8, 0.341421),  # a quarter of the 16 that are left: 0.2 * (1 + cos 45°)
        ("cosine", 0.4, 12, 0.2),  # half of the 16: (1 + cos 90°) / 2 = 1/2
        ("cosine", 0.4, 20, 0.0),  # the end
        ("cosine", 0, 0, 0.4),  # no warm-up
        ("cosine", 0, 10, 0.2),
        ("cosine", 0, 20, 0.0),
        ("constant", 0.4, 0, 0.0),
        ("constant", 0.4, 1, 0.1),
        ("constant", 0.4, 4, 0.4),
        ("constant", 0.4, 20, 0.4),  # constant
        ("constant", 0, 0, 0.4),
        ("constant", 0, 20, 0.4),
        ("cosine", 0.04, 0, 0.4),  # less than half a step of warm-up is none
        ("plateau", 0.4, 2, 0.2),
        ("plateau", 0, 0, 0.4),
        ("plateau", 0.4, 20, 0.4),
        ("constant", 3, 20, 0.266667),  # a warm-up longer than the training: 20 of 30 steps
    ],
)
def test_learning_rate(schedule, warmup_epochs, step, expected):
    assert rate_at(step, lr_schedule=schedule, warmup_epochs=warmup_epochs) == pytest.approx(expected, abs=1e-6)


def test_adamw_with_decoupled_weight_decay():
    import keras

    optimizer = make_optimizer(Params(weight_decay=0.01), 0.1)
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert optimizer.weight_decay == 0.01


def test_sgd_with_nesterov_momentum():
    import keras

    optimizer = make_optimizer(Params(optimizer="sgd", weight_decay=0.01), 0.1)
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.9, True, 0.01)


def test_weight_decay_is_scaled_by_the_learning_rate():
    import keras

    params = Params(optimizer="sgd", learning_rate=0.5, lr_schedule="constant", warmup_epochs=0, weight_decay=0.1)
    variable = keras.Variable([2.0])
    make_optimizer(params, 0.5).apply([keras.ops.zeros(1)], [variable])
    assert keras.ops.convert_to_numpy(variable) == pytest.approx([1.9])  # 2 - 0.5 * 0.1 * 2, no gradient


def test_a_plateau_lowers_the_learning_rate_of_a_compiled_step():
    import keras

    params = Params(optimizer="sgd", learning_rate=0.5, lr_schedule="plateau", warmup_epochs=0, weight_decay=0)
    rate = learning_rate(params, STEPS)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(make_optimizer(params, rate), lambda labels, outputs: outputs, jit_compile=False)
    one = keras.ops.ones((1, 1))  # the loss is the weight itself: its gradient is 1, with Nesterov's momentum 1.9
    model.train_on_batch(one, one)
    assert model.get_weights()[0].item() == pytest.approx(1 - 0.5 * 1.9)
    rate.factor.assign(0.1)
    model.train_on_batch(one, one)  # velocity -0.5 * 0.9 - 0.05; the step is 0.9 of that, minus 0.05
    assert model.get_weights()[0].item() == pytest.approx(1 - 0.5 * 1.9 - 0.9 * (0.45 + 0.05) - 0.05)


def test_a_gradient_above_the_maximum_norm_is_scaled_down():
    import keras

    variables = [keras.Variable([0.0]), keras.Variable([0.0])]
    params = Params(optimizer="sgd", weight_decay=0, gradient_clip_norm=1.0)
    gradients = [keras.ops.convert_to_tensor([value]) for value in (3.0, 4.0)]  # global norm 5
    make_optimizer(params, 1.0).apply(gradients, variables)
    found = [keras.ops.convert_to_numpy(variable).item() for variable in variables]
    assert found == pytest.approx([-0.6 * 1.9, -0.8 * 1.9])
