import numpy as np
import pytest

from dbf_keras.backend import keras, ops
from dbf_keras.layers import DBFDense
from dbf_keras.train import recipes
from dbf_keras.train.recipes import RECIPES, Recipe


@pytest.mark.parametrize(
    "recipe, rates",
    [
        (Recipe(10, schedule="step", drops=(4, 8)), {0: 0.1, 39: 0.1, 41: 0.01, 79: 0.01, 81: 0.001}),
        (Recipe(20, learning_rate=0.2), {0: 0.0, 5: 0.1, 10: 0.2, 105: 0.1, 200: 0.0}),
        (
            Recipe(20, learning_rate=0.2, schedule="one_cycle"),
            {0: 0.02, 30: 0.11, 60: 0.2, 120: 0.11, 180: 0.02, 190: 0.01, 200: 0.0, 300: 0.0},
        ),
    ],
)
def test_schedules_are_the_recipe_s(recipe, rates):
    schedule = recipe.optimizer(steps_per_epoch=10)._learning_rate
    for step, rate in rates.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-7), step


def test_the_paper_s_recipes():
    assert RECIPES["paper"].drops == (90, 150, 190, 220) and RECIPES["paper"].epochs == 250
    assert RECIPES["paper_dbfnet"].drops == (40, 70, 90)
    assert RECIPES["paper_imagenet"].drops == (30, 60, 90) and RECIPES["paper_imagenet"].batch_size == 64


def test_changes_of_a_recipe():
    shorter = RECIPES["paper"].change(epochs=25, batch_size=None, augmentation={"cutout": 0.5})
    assert (shorter.epochs, shorter.drops, shorter.batch_size) == (25, (9, 15, 19, 22), 128)
    assert shorter.augmentation == {"shift": 4, "mirror": True, "cutout": 0.5}
    assert RECIPES["paper"].change(schedule="cosine").drops == ()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"schedule": "sine"}, "Known: step, cosine, one_cycle"),
        ({"drops": (3,)}, "only that takes them"),
        ({"schedule": "step"}, "needs drops"),
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 0}, "--batch_size"),
        ({"label_smoothing": 1.0}, "--label_smoothing must be a finite number at least 0 and under 1; got 1.0"),
        ({"label_smoothing": -0.1}, "--label_smoothing"),
        ({"learning_rate": 0.0}, "--learning_rate must be a finite number over 0; got 0.0"),
        ({"learning_rate": -0.1}, "--learning_rate"),
        ({"learning_rate": float("nan")}, "--learning_rate must be a finite number over 0; got nan"),
        ({"learning_rate": float("inf")}, "--learning_rate"),
        ({"learning_rate": "1e-3"}, "--learning_rate must be a finite number over 0; got '1e-3'"),
        ({"weight_decay": -1e-4}, "--weight_decay must be a finite number at least 0"),
        ({"weight_decay": float("nan")}, "--weight_decay"),
        ({"weight_decay": 10.0}, "their product must be under 1"),
        ({"alpha_rate": float("nan")}, "--alpha_rate"),
        ({"epochs": 2.5}, "--epochs must be a whole number at least 1; got 2.5"),
        ({"epochs": True}, "--epochs"),
        ({"batch_size": -4}, "--batch_size must be a whole number at least 1; got -4"),
        ({"crop": float("nan")}, "--crop is a share"),
        ({"crop": 1.5}, "--crop is a share"),
        ({"schedule": "step", "drops": (4, 2)}, "in ascending order"),
    ],
)
def test_recipes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"epochs": 5, **options})


@pytest.mark.parametrize("name", ["paper", "cosine"])
def test_changes_that_cannot_be_are_refused(name):
    """As a file of runs may have them."""
    for fields in ({"epochs": "3"}, {"batch_size": 2.5}, {"learning_rate": "fast"}, {"weight_decay": [1]}):
        with pytest.raises(ValueError, match=f"--{next(iter(fields))} must be a .* number"):
            RECIPES[name].change(**fields)


def test_alpha_has_its_own_rate():
    """Twice the rate moves α twice as far, and other weights as before."""
    moved = []
    for rate in (1.0, 2.0):
        layer = DBFDense(4, alpha_initializer="zeros")
        layer.build((1, 16))
        optimizer = recipes.Recipe(1, alpha_rate=rate, weight_decay=0.0).optimizer(100)
        for _ in range(2):
            gradients = [ops.ones(variable.shape) for variable in layer.trainable_variables]
            optimizer.apply(gradients, layer.trainable_variables)
        moved.append([ops.convert_to_numpy(variable) for variable in layer.trainable_variables])
        config = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert config.alpha_rate == rate
    assert np.all(moved[0][0] < 0)
    np.testing.assert_allclose(moved[1][0], 2 * moved[0][0], rtol=1e-6)
    np.testing.assert_array_equal(moved[1][1], moved[0][1])
