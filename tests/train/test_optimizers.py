import numpy as np
import pytest

from dbf_keras import codes
from dbf_keras.backend import keras, ops
from dbf_keras.layers import DBFConv2D
from dbf_keras.train.optimizers import CodeSGD


@pytest.mark.parametrize("kernel_size", [1, 3, 4, (2, 5)])
def test_code_sgd_moves_the_filters_as_sgd_moves_the_twin(kernel_size):
    """At ρ = 1, momentum and weight decay included."""
    layer, twin = DBFConv2D(6, kernel_size), keras.layers.Conv2D(6, kernel_size)
    layer.build((1, 8, 8, 16))
    twin.build((1, 8, 8, 16))
    twin.set_weights([ops.convert_to_numpy(layer.kernel), np.zeros(6)])
    ours = CodeSGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    theirs = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    theirs.exclude_from_weight_decay(var_names=["bias"])
    rng = np.random.default_rng(0)
    for _ in range(5):
        dkernel, dbias = rng.standard_normal(twin.kernel.shape).astype("f"), rng.standard_normal(6).astype("f")
        dalpha = codes.analyze(np.moveaxis(dkernel, -1, 0), layer.codes, dkernel.shape[:3]).T / layer.coefficient_scale
        ours.apply([ops.convert_to_tensor(g) for g in (dalpha, dbias)], layer.trainable_variables)
        theirs.apply([ops.convert_to_tensor(g) for g in (dkernel, dbias)], twin.trainable_variables)
    np.testing.assert_allclose(layer.kernel, twin.kernel, atol=1e-5)
    np.testing.assert_allclose(layer.bias, twin.bias, atol=1e-6)


@pytest.mark.parametrize("selection", ["ovsf", "sequency", "random"])
@pytest.mark.parametrize("kernel_size", [3, 4])
def test_code_sgd_moves_the_filters_along_their_projected_gradient(selection, kernel_size):
    layer = DBFConv2D(6, kernel_size, ratio=0.3, selection=selection, use_bias=False)
    layer.build((1, 8, 8, 16))
    before = ops.convert_to_numpy(layer.kernel)
    dkernel = np.random.default_rng(0).standard_normal(before.shape)
    filters, shape = np.moveaxis(dkernel, -1, 0), before.shape[:3]
    dalpha = (codes.analyze(filters, layer.codes, shape).T / layer.coefficient_scale).astype("f")
    CodeSGD(1.0).apply([ops.convert_to_tensor(dalpha)], layer.trainable_variables)
    projection = codes.synthesize(codes.fit(filters, layer.codes, shape), layer.codes, shape)
    np.testing.assert_allclose(before - layer.kernel, np.moveaxis(projection, 0, -1), atol=2e-5)
