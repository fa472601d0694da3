import numpy as np
import pytest

from training.averaging import WeightAverage


def one_weight(value: float):
    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[value]])])
    return model


def value_of(model) -> float:
    return model.get_weights()[0].item()


def test_the_average_moves_fast_at_first_and_later_by_the_decay():
    model = one_weight(1.0)
    average = WeightAverage(model, 0.5)
    model.set_weights([np.array([[11.0]])])
    average.update(0)  # decay min(0.5, 1 / 10): 1 + 0.9 * 10
    assert average.averages[0].numpy().item() == pytest.approx(10)
    model.set_weights([np.array([[0.0]])])
    average.update(1000)  # decay min(0.5, 1001 / 1010)
    assert average.averages[0].numpy().item() == pytest.approx(5)


def test_the_model_has_its_own_weights_again_after_the_block():
    model = one_weight(1.0)
    average = WeightAverage(model, 0.5)
    model.set_weights([np.array([[3.0]])])
    with average.in_place():
        assert value_of(model) == 1
    assert value_of(model) == 3
    assert average.averages[0].numpy().item() == 1


def test_batch_norm_statistics_are_averaged_and_random_states_are_not():
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)])
    average = WeightAverage(model, 0.9)
    assert [tuple(value.shape) for value in average.averages] == [(2,)] * 4  # gamma, beta, mean, variance


def test_the_average_of_a_constant_weight_equals_it_exactly():
    model = one_weight(0.1)
    average = WeightAverage(model, 0.999)
    for step in range(50):
        average.update(step)
    assert average.averages[0].numpy().item() == value_of(model)
