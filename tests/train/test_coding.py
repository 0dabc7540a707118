import json

import numpy as np
import pytest

from dbf_keras import data, networks, train
from dbf_keras.backend import keras
from dbf_keras.train.coding import Coding
from dbf_keras.train.recipes import RECIPES


class Layer:
    """What `Coding` sees of a layer."""

    def __init__(self):
        self.rate = keras.Variable(0.0)


def prices(coding, epochs, coded_kb, loss=10.0):
    """The price of each epoch, where a training takes so many kilobytes at a price, given the price before it."""
    layer, history, previous = Layer(), [], None
    for _ in range(epochs):
        coding.set_price([layer], history, epochs)
        price = float(layer.rate)
        previous = coded_kb(price, previous)
        history.append({"price": price, "coded_kb": previous, "loss": loss + price * previous})
    return history


def test_a_rate_rises_in_the_first_quarter():
    history = prices(Coding(rate=0.8), 8, lambda price, _: 50.0)
    np.testing.assert_allclose([row["price"] for row in history], [0.4, *[0.8] * 7], rtol=1e-6)


def test_a_target_is_met_by_a_model_that_follows_its_price():
    def slow(price, before):
        wanted = 20 + 80 / (1 + 200 * price)
        return wanted if before is None else before + 0.3 * (wanted - before)

    last = prices(Coding(coded_kb=40.0), 60, slow)[-1]
    assert abs(last["coded_kb"] - 40) < 2


def test_bytes_that_a_training_starts_with_are_held():
    """From a first price that is too low for them, and of layers that follow slowly."""

    def slow(price, before):
        wanted = 20 + 80 / (1 + 200 * price)
        return 40.0 if before is None else before + 0.1 * (wanted - before)

    history = prices(Coding(coded_kb=40.0, first_price=0.01), 60, slow)
    assert history[0]["price"] == pytest.approx(0.01)
    assert max(row["coded_kb"] for row in history) > 40.5 and abs(history[-1]["coded_kb"] - 40) < 0.5


def test_bytes_may_be_measured():
    layers = [Layer(), Layer()]
    layers[0].rate.assign(0.5)
    assert Coding(measure=lambda layer: 1500.0).row(layers) == {"coded_kb": 3.0, "price": 0.5}
    assert Coding(measure=lambda layer: 1.0) == Coding()  # How is no setting of a training.


def test_a_price_is_bounded_where_bytes_do_not_follow():
    history = prices(Coding(coded_kb=10.0), 100, lambda price, _: 50.0)
    assert max(row["price"] * 50 for row in history) <= 20 * 10 * 1.001


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rate": 1.0, "coded_kb": 3.0}, "not both"),
        ({"rate": float("nan")}, "--rate must be at least 0; got nan"),
        ({"coded_kb": 0.0}, "--coded_kb must be over 0; got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Coding(**arguments)


def test_a_rate_without_levels_is_refused(tmp_path):
    recipe = RECIPES["digits"].change(epochs=1)
    with pytest.raises(ValueError, match="alpha_step"):
        train.train(
            lambda: networks.DBFNetMicro(ratio=0.25),
            data.load("digits"),
            recipe,
            tmp_path / "x.keras",
            coding=Coding(rate=0.1),
            verbose=False,
        )


def test_training_makes_bytes_fewer_and_keeps_what_it_rounded_to(tmp_path):
    """The file holds levels: rounding it again changes nothing."""
    dataset = data.load("digits").part(640)
    path = tmp_path / "coded.keras"
    history = train.train(
        lambda: networks.DBFNetMicro(width=0.5, ratio=0.5, alpha_step=0.4),
        dataset,
        RECIPES["digits"].change(epochs=16, batch_size=32),
        path,
        coding=Coding(coded_kb=1.5),
        verbose=False,
    )
    assert abs(history[-1]["coded_kb"] - 1.5) < 0.2 < history[0]["coded_kb"] - 2.5
    assert json.loads((tmp_path / "coded.history.json").read_text())["run"]["coding"]["coded_kb"] == 1.5
    model = keras.models.load_model(path)
    coded = Coding().layers(model)
    assert coded
    for layer in coded:
        before = keras.ops.convert_to_numpy(layer.rounded_coefficients)
        levels, _, steps = map(keras.ops.convert_to_numpy, layer._all_levels())
        np.testing.assert_array_equal(levels * steps, before)
        held = keras.ops.convert_to_numpy(layer.coefficients) / layer.coefficient_scale
        np.testing.assert_allclose(held, before, rtol=1e-6, atol=0)
    np.testing.assert_allclose(Coding().row(coded)["coded_kb"], history[-1]["coded_kb"], rtol=1e-3)
