import numpy as np
import pytest

from dbf_keras import data
from dbf_keras.backend import keras, ops
from dbf_keras.train import engine, recipes
from dbf_keras.train.rate import bearable_rate

DIGITS = data.load("digits").part(640)
RECIPE = recipes.Recipe(1, 32, 0.1)


def trainer(scale):
    """Of a network that has learnt a little, of pixels 0–1 times a scale: gradients grow with its square."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Rescaling(scale / 255), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01 / scale), loss)
    model.fit(DIGITS.x_train.astype("float32"), DIGITS.y_train, batch_size=32, epochs=3, verbose=0)
    return engine.Engine(model, RECIPE.optimizer(None), 10)


def found(of, images=640):
    source = engine.resident(DIGITS.x_train, DIGITS.y_train)
    return bearable_rate(of, RECIPE, source, images, 0)


@pytest.mark.parametrize("scale, most, least", [(1, 0.1, 0.1), (30, 0.003, 0.001)])
def test_it_is_the_highest_that_does_no_harm(scale, most, least):
    assert least * 0.99 <= found(trainer(scale)) <= most * 1.01


def test_weights_and_optimizer_are_as_they_were():
    of = trainer(30)
    before = [np.array(ops.convert_to_numpy(variable)) for variable in of.variables]
    found(of)
    for variable, value in zip(of.variables, before, strict=True):
        if variable is not of.optimizer._learning_rate:
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


@pytest.mark.parametrize("images", [31, 32, 64, 96, 640])
def test_few_images_are_enough(images):
    assert found(trainer(1), images) == pytest.approx(0.1)
