"""Regularisers, constraints and freezing: `losses` of a DBF layer are those of its plain twin."""

import numpy as np
import pytest

from .tools import CROSS_ENTROPY, KINDS, LEGACY, LEGACY_REASON, examples, inputs, keras, layers, networks, numpy, pair

pytestmark = pytest.mark.skipif(LEGACY, reason=LEGACY_REASON)
both_kinds = pytest.mark.parametrize("kind", KINDS)


def total(layer):
    return float(sum(map(float, layer.losses)))


def both_total(kind, expected_count=1, **options):
    ours, theirs = pair(kind, **options)
    assert len(ours.losses) == len(theirs.losses) == expected_count
    np.testing.assert_allclose(total(ours), total(theirs), rtol=1e-5)
    return ours, theirs


@both_kinds
@pytest.mark.parametrize("name", ["l1", "l2", "orthogonal_regularizer"])
def test_kernel_penalties_are_there_before_any_call(kind, name):
    if name == "orthogonal_regularizer" and kind == "conv":
        pytest.skip("Keras has it for matrices only")
    both_total(kind, kernel_regularizer=name)


@both_kinds
def test_a_layer_called_several_times_is_penalised_once(kind):
    for layer in both_total(kind, kernel_regularizer="l2"):
        before = total(layer)
        layer(inputs(kind))
        layer(inputs(kind))
        assert len(layer.losses) == 1
        np.testing.assert_allclose(total(layer), before, rtol=1e-6)


def test_a_layer_shared_in_a_model_is_penalised_once():
    found = []
    for layer in pair("conv", kernel_regularizer="l2"):
        left, right = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
        model = keras.Model([left, right], layers.Add()([layer(left), layer(right)]))
        model([inputs("conv"), inputs("conv")])
        assert len(model.losses) == 1
        found.append(total(model))
    np.testing.assert_allclose(*found, rtol=1e-5)


@both_kinds
def test_biases_are_penalised(kind):
    both_total(kind, bias_regularizer="l1", bias_initializer="ones")


@both_kinds
def test_outputs_are_penalised(kind):
    found = []
    for layer in pair(kind, activity_regularizer="l2"):
        layer(inputs(kind))
        assert len(layer.losses) == 1
        found.append(total(layer))
    np.testing.assert_allclose(*found, rtol=1e-4)


@both_kinds
def test_frozen_layers_are_not_penalised(kind):
    for layer in pair(kind, kernel_regularizer="l2", bias_regularizer="l2"):
        layer.trainable = False
        layer(inputs(kind))
        assert layer.losses == []
        layer.trainable = True
        assert len(layer.losses) == 2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_penalties_are_added_up_in_float32(policy):
    """Large filters whose squares half precision could not add up."""
    found = []
    for layer in pair("conv", kernel_regularizer=keras.regularizers.L2(1.0), dtype=policy):
        layer.kernel.assign(numpy(layer.kernel) * 100)
        assert keras.backend.standardize_dtype(layer.losses[0].dtype) == "float32"
        found.append(total(layer))
    assert found[1] > 70000
    np.testing.assert_allclose(*found, rtol=1e-4)


@pytest.mark.parametrize("ratio", [1, 0.25])
def test_training_counts_penalties_as_losses_says(ratio):
    x, y = examples()
    for model in networks(ratio=ratio, kernel_regularizer="l2"):
        model.compile(keras.optimizers.SGD(0.0), CROSS_ENTROPY)
        plain = float(CROSS_ENTROPY(y, model(x)))
        np.testing.assert_allclose(model.evaluate(x, y, batch_size=64, verbose=0), plain + total(model), rtol=1e-5)
        np.testing.assert_allclose(float(model.train_on_batch(x, y)), plain + total(model), rtol=1e-5)
        assert total(model) > 0.01


def test_penalties_shrink_filters_as_the_twin_s():
    x, y = examples()
    norms = []
    for model in networks(kernel_regularizer=keras.regularizers.L2(0.1)):
        model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
        model.fit(x, y, epochs=5, batch_size=64, verbose=0)
        norms.append([np.linalg.norm(numpy(layer.kernel)) for layer in model.layers if hasattr(layer, "kernel")])
    np.testing.assert_allclose(*norms, rtol=1e-4)


def test_constraints_of_filters_are_refused_and_those_of_coefficients_and_biases_hold():
    x, y = examples()
    with pytest.raises(ValueError, match="alpha_constraint"):
        pair("conv", kernel_constraint="non_neg")
    ours, theirs = networks(bias_constraint=keras.constraints.MaxNorm(0.01))
    for layer in ours.layers:
        if hasattr(layer, "coefficients"):
            layer.coefficients.constraint = keras.constraints.NonNeg()
    for model in (ours, theirs):
        model.compile(keras.optimizers.SGD(0.5), CROSS_ENTROPY)
        model.fit(x, y, epochs=2, batch_size=16, verbose=0)
        biases = [numpy(layer.bias) for layer in model.layers if hasattr(layer, "bias")]
        assert all(0 < np.linalg.norm(bias) <= 0.0101 for bias in biases)
    alphas = [numpy(layer.coefficients) for layer in ours.layers if hasattr(layer, "coefficients")]
    assert all(alpha.min() == 0 and alpha.max() > 0 for alpha in alphas)


@pytest.mark.parametrize("what", ["layer", "model"])
def test_frozen_weights_stay(what):
    x, y = examples()
    moved = []
    for model in networks():
        frozen = model if what == "model" else model.get_layer("first")
        frozen.trainable = False
        before = model.get_weights()
        model.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), CROSS_ENTROPY)
        model.fit(x, y, epochs=1, verbose=0)
        moved.append([not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)])
    assert moved[0] == moved[1]
    assert moved[0] == ([False] * 6 if what == "model" else [False] * 2 + [True] * 4)
