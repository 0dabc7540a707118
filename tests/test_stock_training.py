"""Stock optimizers train a DBF network as they train its plain twin."""

import numpy as np
import pytest

from dbf_keras import data
from dbf_keras.backend import LEGACY, keras
from dbf_keras.layers import DBFConv2D
from dbf_keras.train.optimizers import CodeSGD

layers = keras.layers
pytestmark = pytest.mark.skipif(LEGACY, reason="Keras 2 draws other numbers")

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "decay": lambda: keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01),
    "global clipping": lambda: keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.5),
    "clipping": lambda: keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=0.2),
}


def network(convolution, kernel_size=4):
    keras.utils.set_random_seed(0)
    options = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            convolution(64, kernel_size, **options),
            convolution(64, kernel_size, **options),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def losses(convolution, optimizer, kernel_size=4, steps=24):
    """The losses of the first steps on the digits, each on 64 other images."""
    model = network(convolution, kernel_size)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    digits = data.load("digits")
    batches = np.arange(steps * 64).reshape(steps, 64) % len(digits.y_train)
    return [float(model.train_on_batch(digits.x_train[batch] / 255, digits.y_train[batch])) for batch in batches]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stock_step_on_the_coefficients_is_that_step_on_the_filters(name):
    """At ρ = 1 with orthogonal codes the training is that of the twin, until roundings have grown."""
    ours, theirs = (losses(convolution, OPTIMIZERS[name]()) for convolution in (DBFConv2D, layers.Conv2D))
    assert theirs[-1] < theirs[0] - 0.05
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


def test_codes_that_are_not_orthogonal_follow_nearly_by_sgd_and_closely_by_code_sgd():
    theirs = losses(layers.Conv2D, OPTIMIZERS["sgd"](), 3)
    np.testing.assert_allclose(losses(DBFConv2D, OPTIMIZERS["sgd"](), 3), theirs, rtol=0.1)
    np.testing.assert_allclose(losses(DBFConv2D, CodeSGD(0.05, momentum=0.9), 3), theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("rate", [1e-3, 3e-3])
def test_adam_trains_as_well_as_it_trains_the_twin(rate):
    ours, theirs = (losses(kind, keras.optimizers.Adam(rate), steps=60) for kind in (DBFConv2D, layers.Conv2D))
    assert np.mean(ours[-8:]) < 1.15 * np.mean(theirs[-8:])


def test_weights_move_between_scales(tmp_path):
    """Weights of before version 0.2, where the variable held α itself, and of today, in either kind of layer."""
    today = DBFConv2D(4, 4, ratio=0.5)
    before = DBFConv2D.from_config({key: value for key, value in today.get_config().items() if key != "unit_norm"})
    again = DBFConv2D.from_config(today.get_config())
    for layer in (today, before, again):
        layer.build((1, 8, 8, 8))
    assert (today.coefficient_scale, before.coefficient_scale, again.coefficient_scale) == (128**0.5, 1, 128**0.5)
    for source in (today, before):
        store = {}
        source.save_own_variables(store)
        for target in (today, before, again):
            target.load_own_variables(dict(store))
            np.testing.assert_allclose(target.kernel, source.kernel, rtol=0, atol=1e-6)
    del store["scale"]  # As an old file has it.
    again.load_own_variables(store)
    np.testing.assert_allclose(again.kernel, before.kernel, rtol=0, atol=1e-6)
