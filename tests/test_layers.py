import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

import dbf_keras
from dbf_keras import codes
from dbf_keras.backend import LEGACY, keras, ops
from dbf_keras.layers import DBFConv2D, DBFDense

RNG = np.random.default_rng(0)

# (arguments, input shape): what a convolution can be asked for.
CONVOLUTIONS = [
    ({"filters": 5, "kernel_size": 3}, (2, 9, 8, 6)),
    ({"filters": 4, "kernel_size": 4, "padding": "same", "ratio": 0.25}, (1, 7, 7, 8)),
    ({"filters": 3, "kernel_size": (2, 5), "strides": 2, "padding": "same", "ratio": 0.5}, (2, 9, 11, 3)),
    ({"filters": 3, "kernel_size": 3, "dilation_rate": 2, "ratio": 0.3, "selection": "sequency"}, (1, 9, 9, 7)),
    ({"filters": 6, "kernel_size": 1, "ratio": 0.25, "activation": "relu"}, (2, 5, 5, 16)),
    ({"filters": 1, "kernel_size": 7, "ratio": 0.1, "selection": "random:3", "use_bias": False}, (1, 9, 9, 1)),
    ({"filters": 16, "kernel_size": 3, "ratio": 0.25, "selection": "ovsf", "padding": "same"}, (2, 6, 6, 16)),
    ({"filters": 4, "kernel_size": 3, "ratio": 0.2, "selection": [8, 3, 17, 0, 5]}, (1, 6, 6, 2)),
    ({"filters": 4, "kernel_size": 3, "ratio": 0.5, "selection": "sp_ovsf"}, (1, 6, 6, 5)),
    ({"filters": 24, "kernel_size": 4, "ratio": 0.25, "selection": "spatial_tree", "padding": "same"}, (2, 7, 6, 8)),
    ({"filters": 8, "kernel_size": 4, "ratio": 0.125, "selection": "spatial_tree", "dilation_rate": 2}, (1, 9, 9, 8)),
    ({"filters": 40, "kernel_size": (2, 4), "ratio": 0.25, "selection": "spatial_tree"}, (1, 6, 7, 8)),
    ({"filters": 24, "kernel_size": 4, "ratio": 0.25, "selection": "spatial_tree", "strides": 2}, (2, 8, 9, 8)),
    ({"filters": 24, "kernel_size": 4, "ratio": 0.25, "strides": 2, "padding": "same"}, (2, 9, 6, 8)),
    ({"filters": 24, "kernel_size": 4, "ratio": 0.125, "strides": 4, "padding": "same"}, (1, 9, 11, 8)),
    ({"filters": 5, "kernel_size": 3, "ratio": 0.5, "selection": "sequency", "alpha_bits": 4}, (2, 6, 6, 4)),
    ({"filters": 16, "kernel_size": 4, "ratio": 0.25, "padding": "same", "alpha_bits": 2}, (1, 6, 6, 16)),
    ({"filters": 3, "kernel_size": 2, "ratio": 0.2, "selection": "random"}, (1, 4, 4, 300)),
    ({"filters": 200, "kernel_size": 1, "ratio": 0.25, "selection": "ovsf"}, (1, 3, 2, 1200)),
]
DENSES = [
    ({"units": 7}, (3, 10)),
    ({"units": 16, "ratio": 0.25, "activation": "relu"}, (3, 16)),
    ({"units": 2, "ratio": 0.3, "selection": "random", "use_bias": False}, (2, 4, 9)),
    ({"units": 2, "ratio": 0.5, "selection": "sp_ovsf", "alpha_bits": 8}, (2, 11)),
    # Long codes: projected inputs for many units, generated weights for few.
    ({"units": 40}, (2, 300)),
    ({"units": 40, "ratio": 0.25}, (3, 49 << 4)),
    ({"units": 40, "ratio": 0.3, "selection": "random"}, (2, 3, 700)),
    ({"units": 2, "ratio": 0.25}, (3, 600)),
    ({"units": 3, "ratio": 0.4, "selection": "sp_ovsf"}, (2, 300)),
]
LAYERS = [(DBFConv2D, *case) for case in CONVOLUTIONS] + [(DBFDense, *case) for case in DENSES]


def built(layer_class, arguments, shape):
    """A DBF layer with a random bias and its plain twin with the generated kernel set."""
    layer = layer_class(**arguments)
    layer.build(shape)
    if layer.bias is not None:
        layer.bias.assign(RNG.standard_normal(layer.bias.shape))
    plain = {key: value for key, value in arguments.items() if key not in ("ratio", "selection", "alpha_bits")}
    twin = layer_class.__bases__[-1](**plain)
    twin.build(shape)
    weights = [ops.convert_to_numpy(layer.kernel)]
    twin.set_weights(weights + ([ops.convert_to_numpy(layer.bias)] if layer.bias is not None else []))
    return layer, twin


def value_and_gradients(layer, x, target):
    """Output, and the gradients of ½‖output − target‖² with respect to input, kernel-like weight and bias."""
    weights = layer.trainable_variables if LEGACY else [variable.value for variable in layer.trainable_variables]
    if keras.backend.backend() == "jax":
        import jax

        def loss(x, weights):
            outputs, _ = layer.stateless_call(weights, [v.value for v in layer.non_trainable_variables], x)
            return 0.5 * ((outputs - target) ** 2).sum(), outputs

        # Compiled whole: op by op each op would be.
        (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, weights)
        return np.asarray(outputs), [np.asarray(g) for g in (gradients[0], *gradients[1])]
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
        loss = 0.5 * tf.reduce_sum((outputs - target) ** 2)
    gradients = tape.gradient(loss, [x, *weights])
    return outputs.numpy(), [g.numpy() for g in gradients]


def alpha_gradient(layer, kernel_gradient):
    """∂L/∂(α·√P) from ∂L/∂kernel by the chain rule: the adjoint of the kernel's generation, in NumPy."""
    filters = np.moveaxis(kernel_gradient.reshape(*layer.filter_shape, -1), -1, 0) / np.prod(layer.filter_shape) ** 0.5
    if layer.codes is not None:
        return codes.analyze(filters, layer.codes, layer.filter_shape).T
    taps = int(np.prod(layer.filter_shape))
    matrix = codes.ovsf_tree(codes.padded(taps))[: layer.coefficients.shape[0], :taps]
    return matrix @ filters.reshape(len(filters), -1).T


@pytest.mark.parametrize("layer_class, arguments, shape", LAYERS)
def test_value_and_gradients_are_the_twin_s(layer_class, arguments, shape):
    layer, twin = built(layer_class, arguments, shape)
    x = RNG.standard_normal(shape).astype(np.float32)
    target = RNG.standard_normal(twin(x).shape).astype(np.float32)
    outputs, (dx, dalpha, *dbias) = value_and_gradients(layer, x, target)
    expected, (twin_dx, twin_dkernel, *twin_dbias) = value_and_gradients(twin, x, target)
    for ours, theirs in [
        (outputs, expected),
        (dx, twin_dx),
        (dalpha, alpha_gradient(layer, twin_dkernel)),
        *zip(dbias, twin_dbias, strict=True),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("units, folded", [(64, True), (1, False)])
@pytest.mark.parametrize("ratio", [1, 0.25])
def test_long_inputs_of_many_units_are_projected(units, folded, ratio):
    layer = DBFDense(units, ratio=ratio)
    layer.build((None, 49 << 7))
    assert (layer._folding is not None and layer._folding.projected) == folded


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="looks into TensorFlow's graphs")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "layer_class, arguments, shape",
    [
        (DBFDense, {"units": 40, "ratio": 0.25}, (8, 49 << 7)),
        (DBFDense, {"units": 40, "ratio": 1}, (8, 49 << 7)),
        (DBFDense, {"units": 40, "ratio": 0.25, "selection": "random"}, (8, 5000)),
        (DBFDense, {"units": 1, "ratio": 0.25, "selection": "sp_ovsf"}, (8, 5000)),
        (DBFConv2D, {"filters": 40, "kernel_size": 1, "ratio": 0.25}, (1, 2, 2, 4096)),
        (DBFConv2D, {"filters": 200, "kernel_size": 1, "ratio": 0.25, "selection": "ovsf"}, (1, 2, 2, 4096)),
    ],
)
def test_no_tensor_of_a_step_is_as_large_as_the_square_of_the_channels(layer_class, arguments, shape, training):
    import tensorflow as tf

    layer = layer_class(**arguments)
    layer.build(shape)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=training))
        return tape.gradient(loss, [x, *layer.trainable_variables])

    graph = step.get_concrete_function(tf.TensorSpec(shape)).graph
    sizes = [t.shape.num_elements() or 0 for op in graph.get_operations() for t in op.outputs]
    # Inputs and kernel, several times as large for axes that are made longer, and the codes' places.
    assert max(sizes) <= 4 * max(np.prod(shape), shape[-1] * int(layer.coefficients.shape[-1]), shape[-1])


@pytest.mark.parametrize("layer_class, arguments, shape", LAYERS)
def test_the_kernel_is_the_sum_of_codes(layer_class, arguments, shape):
    layer, _ = built(layer_class, arguments, shape)
    alpha = ops.convert_to_numpy(layer.rounded_coefficients).T.astype(np.float64)
    if layer.codes is None:
        filters = codes.sp_ovsf_synthesize(alpha, layer.filter_shape)
    else:
        filters = codes.synthesize(alpha, layer.codes, layer.filter_shape)
    expected = np.moveaxis(filters, 0, -1)
    kernel = ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(kernel.reshape(expected.shape), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "channels, filters, kernel_size, strides, ratio, selection, folded",
    [
        (64, 64, 3, 1, 0.25, "ovsf", True),
        (64, 64, 3, 1, 1.0, "ovsf", False),  # Nothing to save.
        (64, 64, 3, 1, 0.3, "ovsf", False),  # Not separable.
        (16, 4, 1, 1, 0.5, "ovsf", False),  # The projection costs more than it saves.
        (64, 64, 3, 2, 0.25, "ovsf", True),
        (64, 64, 4, 1, 0.25, "spatial_tree", True),
        (16, 16, 4, 1, 0.25, "spatial_tree", False),  # Pooling costs more than it saves.
        (64, 64, 4, 1, 0.5, "spatial_tree", True),
        (64, 64, 4, 1, 0.125, "spatial_tree", True),
        (64, 64, 4, 1, 0.75, "spatial_tree", False),  # Three quarters of the spatial codes are not separable.
        (64, 64, 3, 1, 4 / 9, "spatial_tree", False),  # Pools of two do not fill three taps.
        (64, 64, 4, 2, 0.25, "spatial_tree", True),  # Sums two apart, and a convolution with strides of one.
        (64, 64, 4, 2, 0.5, "spatial_tree", False),  # Sums of pairs in one direction would be dilated and strided.
        (64, 64, 4, 3, 0.25, "spatial_tree", False),
    ],
)
def test_separable_sets_compute_in_folded_form_where_that_is_less_work(
    channels, filters, kernel_size, strides, ratio, selection, folded
):
    layer = DBFConv2D(filters, kernel_size, strides, ratio=ratio, selection=selection)
    layer.build((1, 8, 8, channels))
    assert (layer._folding is not None) == folded


@pytest.mark.parametrize("size", [(9, 6), (None, None)])
def test_strides_with_padding_fold_where_the_size_is_known(size):
    inputs = keras.Input((*size, 8))
    layer, twin = built(
        DBFConv2D, {"filters": 24, "kernel_size": 4, "ratio": 0.25, "strides": 2, "padding": "same"}, (1, 9, 6, 8)
    )
    x = RNG.standard_normal((2, 9, 6, 8)).astype(np.float32)
    assert layer._folds(inputs) == (None not in size)
    outputs = ops.convert_to_numpy(keras.Model(inputs, layer(inputs))(x))
    np.testing.assert_allclose(outputs, ops.convert_to_numpy(twin(x)), rtol=0, atol=1e-5)


def test_the_folded_form_is_for_cpus(monkeypatch):
    x = RNG.standard_normal((1, 8, 8, 64)).astype(np.float32)
    layer, _ = built(DBFConv2D, {"filters": 64, "kernel_size": 4, "ratio": 0.25}, x.shape)
    outputs = []
    for accelerator in (False, True):
        monkeypatch.setattr("dbf_keras.mixins.folded.on_accelerator", lambda value=accelerator: value)
        assert layer._folds(x) != accelerator
        outputs.append(layer(x))
    np.testing.assert_allclose(*map(ops.convert_to_numpy, outputs), rtol=0, atol=1e-5)


# With the largest number as the end of the range the errors here are 0.59 and 0.0134; 8 bits clip nothing.
@pytest.mark.parametrize("bits, most_error", [(2, 0.19), (4, 0.0112), (8, 5e-5)])
def test_alpha_of_few_bits_has_the_scale_of_least_error(bits, most_error):
    layer = DBFConv2D(64, 4, ratio=0.5, alpha_bits=bits)
    layer.build((1, 8, 8, 16))
    alpha = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    alpha[:, 1] = 0
    layer.coefficients.assign(alpha * layer.coefficient_scale)
    rounded = ops.convert_to_numpy(layer.rounded_coefficients)
    assert not rounded[:, 1].any()
    alpha, rounded = np.delete(alpha, 1, 1), np.delete(rounded, 1, 1)
    most = 2 ** (bits - 1) - 1
    scales = np.abs(rounded).max(0) / most
    np.testing.assert_allclose(rounded / scales, np.clip(np.rint(alpha / scales), -most, most), rtol=0, atol=1e-4)
    assert np.square(rounded - alpha).mean() < most_error


def test_fixed_alpha_of_few_bits_rounds_to_itself():
    layer = DBFConv2D(64, 4, ratio=0.5, alpha_bits=4)
    layer.build((1, 8, 8, 16))
    rounded = ops.convert_to_numpy(layer.rounded_coefficients)
    layer.fix_rounding()
    fixed = ops.convert_to_numpy(layer.coefficients)
    np.testing.assert_allclose(fixed / layer.coefficient_scale, rounded, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.rounded_coefficients), rounded, rtol=0, atol=1e-6)
    layer.coefficients.assign(fixed.astype(np.float16).astype(np.float32))  # As the zoo stores them.
    np.testing.assert_allclose(ops.convert_to_numpy(layer.rounded_coefficients), rounded, rtol=1e-3, atol=1e-6)


def test_alpha_of_few_bits_is_rounded_in_float32_under_mixed_precision():
    arguments = {"filters": 64, "kernel_size": 4, "ratio": 0.5, "dtype": "mixed_bfloat16"}
    inputs = keras.Input((8, 8, 16))
    rounding, rounded = DBFConv2D(alpha_bits=4, **arguments), DBFConv2D(**arguments)
    model, twin = (keras.Model(inputs, layer(inputs)) for layer in (rounding, rounded))
    rounded.coefficients.assign(rounding.rounded_coefficients * rounding.coefficient_scale)
    x = RNG.standard_normal((2, 8, 8, 16)).astype(np.float32)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(ops.cast(m(x), "float32")) for m in (model, twin)))


def built_with_steps(**arguments):
    layer = DBFConv2D(64, 4, ratio=0.5, **{"alpha_step": 0.4, **arguments})
    layer.build((1, 8, 8, 16))
    return layer


@pytest.mark.parametrize("bits, dead_zone, largest", [(None, 0, 127), (3, 0, 3), (8, 0.3, 127)])
def test_alpha_of_steps_is_whole_multiples_of_short_steps(bits, dead_zone, largest):
    layer = built_with_steps(alpha_bits=bits, dead_zone=dead_zone)
    layer.steps.assign(layer.steps * np.linspace(0.5, 1.7, 64, dtype=np.float32))
    held = ops.convert_to_numpy(layer.coefficients) / layer.coefficient_scale
    steps = ops.convert_to_numpy(layer.steps) / layer.coefficient_scale
    mantissas, exponents = np.frexp(steps)
    short = np.ldexp(np.rint(mantissas * 32) / 32, exponents).astype(np.float32)
    levels = np.sign(held) * np.clip(np.floor(np.abs(held / short) + (0.5 - dead_zone)), 0, largest)
    assert np.abs(levels).max() == (largest if bits == 3 else np.abs(levels).max()) > 0
    np.testing.assert_allclose(ops.convert_to_numpy(layer.rounded_coefficients), levels * short, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dead_zone", [0.0, 0.45])
def test_fixed_alpha_of_steps_rounds_to_itself(dead_zone):
    layer = built_with_steps(dead_zone=dead_zone)
    rounded = ops.convert_to_numpy(layer.rounded_coefficients)
    layer.fix_rounding()
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.rounded_coefficients), rounded)
    values = [ops.convert_to_numpy(value) for value in (layer.coefficients, layer.steps)]
    for variable, value in zip((layer.coefficients, layer.steps), values, strict=True):
        variable.assign(value.astype(np.float16).astype(np.float32))  # As the zoo stores them.
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.rounded_coefficients), rounded)


def test_steps_start_as_a_share_of_the_filters_also_of_fitted_ones():
    layer = built_with_steps()
    layer.fit_kernel(RNG.standard_normal((4, 4, 16, 64)) * 5)
    alpha = ops.convert_to_numpy(layer.coefficients)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer.steps), 0.4 * np.sqrt(np.square(alpha).mean(0)), rtol=1e-6, atol=0
    )


def entropy(levels):
    _, counts = np.unique(levels, return_counts=True)
    return float((counts * np.log2(counts.sum() / counts)).sum())


def test_coded_bits_are_near_the_entropy_of_each_spatial_code():
    layer = built_with_steps()
    layer.coefficients.assign(np.random.default_rng(0).laplace(size=(128, 64)))
    layer.steps.assign(np.full(64, 1.3))
    levels = np.rint(ops.convert_to_numpy(layer.rounded_coefficients * layer.coefficient_scale) / 1.3)
    spatial = np.asarray(layer.codes) // 16
    expected = sum(entropy(levels[spatial == code]) for code in np.unique(spatial))
    np.testing.assert_allclose(float(layer.coded_bits), expected, rtol=0.02)


def test_the_rate_is_a_loss_once_and_only_in_training():
    layer = DBFDense(32, ratio=0.5, alpha_step=0.3, rate_weight=2.0)
    inputs = keras.Input((32,))
    model = keras.Model(inputs, layer(layer(inputs)))
    (loss,) = model.losses
    np.testing.assert_allclose(float(loss), 2 * float(layer.coded_bits) / 8000, rtol=1e-6)
    if not LEGACY:  # Keras 2 asks frozen layers, too.
        layer.trainable = False
        assert not model.losses


def test_gradients_pass_through_levels_to_coefficients_and_steps():
    layer = built_with_steps(use_bias=False)
    # 13 has few bits, so the step is not rounded further.
    layer.steps.assign(np.full(64, 13 / 256 * layer.coefficient_scale))
    twin = DBFConv2D(64, 4, ratio=0.5, use_bias=False)
    twin.build((1, 8, 8, 16))
    twin.coefficients.assign(layer.rounded_coefficients * layer.coefficient_scale)
    x = RNG.standard_normal((2, 8, 8, 16)).astype(np.float32)
    target = RNG.standard_normal((2, 5, 5, 64)).astype(np.float32)
    _, (_, alpha, steps) = value_and_gradients(layer, x, target)
    _, (_, expected) = value_and_gradients(twin, x, target)
    np.testing.assert_allclose(alpha, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    held = ops.convert_to_numpy(layer.coefficients) / ops.convert_to_numpy(layer.steps)
    share = (0.4 / 128) ** 0.5  # 1 / √(n / step)
    toward = (expected * (np.rint(held) - held)).sum(0) * share  # Esser et al., Eq. 3.
    np.testing.assert_allclose(steps, toward, rtol=0, atol=1e-4 * np.abs(toward).max())


@pytest.mark.skipif(LEGACY, reason="Keras 2 has another fit")
def test_a_price_of_bytes_makes_levels_smaller():
    keras.utils.set_random_seed(0)
    kilobytes = []
    for price in (0.0, 3.0):
        model = keras.Sequential([keras.Input((64,)), DBFDense(64, alpha_step=0.3, rate_weight=price)])
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
        x = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
        model.fit(x, x[:, ::-1], epochs=20, verbose=0)
        kilobytes.append(float(model.layers[0].coded_bits) / 8000)
    assert kilobytes[1] < 0.5 * kilobytes[0]


def test_only_layers_with_steps_are_coded():
    layer = DBFDense(4)
    layer.build((1, 8))
    with pytest.raises(AttributeError, match="no `alpha_step`"):
        layer.coded_bits  # noqa: B018 - a property.


def test_alpha_starts_with_he_variance():
    layer = DBFConv2D(512, 4, ratio=0.25)
    layer.build((1, 8, 8, 32))
    kernel = ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(kernel.var(), 2 / (4 * 4 * 32), rtol=0.05)
    assert layer.coefficients.shape == (128, 512)


@pytest.mark.parametrize("ratio", [0.3, 1])
def test_alpha_starts_with_white_filters_on_codes_that_are_not_orthogonal(ratio):
    """Their covariance is the projection onto the kept codes, times P/n of He's variance."""
    layer = DBFConv2D(40000, 3, ratio=ratio, use_bias=False)
    layer.build((1, 8, 8, 4))
    filters = ops.convert_to_numpy(layer.kernel).reshape(36, -1)
    basis = codes.synthesize(np.eye(len(layer.codes)), layer.codes, (3, 3, 4)).reshape(-1, 36).T
    projection = basis @ np.linalg.pinv(basis)
    expected = projection * 2 / len(layer.codes)
    np.testing.assert_allclose(filters @ filters.T / 40000, expected, atol=0.03 * expected.max())


@pytest.mark.parametrize("arguments, shape", [({"filters": 5, "kernel_size": 3}, (1, 8, 8, 6))])
@pytest.mark.parametrize("selection", ["ovsf", "sequency", "random"])
def test_at_full_ratio_a_fitted_layer_is_the_convolution(arguments, shape, selection):
    convolution = keras.layers.Conv2D(**arguments)
    convolution.build(shape)
    layer = DBFConv2D(**arguments, selection=selection)
    layer.build(shape)
    kernel = ops.convert_to_numpy(convolution.kernel)
    assert layer.fit_kernel(kernel) < 1e-6
    x = RNG.standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(layer(x), convolution(x), atol=3e-6)


def test_fitting_fewer_codes_tells_the_error():
    layer = DBFDense(4, ratio=0.5)
    layer.build((1, 8))
    kernel = RNG.standard_normal((8, 4))
    error = layer.fit_kernel(kernel)
    difference = ops.convert_to_numpy(layer.kernel) - kernel
    assert 0 < error < 1
    np.testing.assert_allclose(error, np.linalg.norm(difference) / np.linalg.norm(kernel), rtol=1e-6)
    # The residual of least squares is orthogonal to the codes.
    matrix = codes.short_codes(8)[layer.codes]
    np.testing.assert_allclose(matrix @ difference, 0, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(8, 4\)"):
        layer.fit_kernel(kernel[:7])
    with pytest.raises(ValueError, match="Build"):
        DBFDense(4).fit_kernel(kernel)


def test_a_kernel_initializer_is_fitted():
    layer = DBFConv2D(4, 3, kernel_initializer=keras.initializers.Constant(0.5))
    layer.build((1, 8, 8, 5))
    np.testing.assert_allclose(ops.convert_to_numpy(layer.kernel), 0.5, atol=1e-6)


def test_regularizers_act_on_the_filters_and_on_alpha():
    layer = DBFDense(3, kernel_regularizer="l2", alpha_regularizer=keras.regularizers.L2(0.5))
    x = np.ones((1, 8), np.float32)
    layer(x)
    kernel, alpha = (ops.convert_to_numpy(value) for value in (layer.kernel, layer.coefficients))
    np.testing.assert_allclose(float(sum(layer.losses)), 0.01 * (kernel**2).sum() + 0.5 * (alpha**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("layer_class", [DBFConv2D, DBFDense])
def test_the_signature_is_the_twin_s_and_more(layer_class):
    ours = inspect.signature(layer_class.__init__).parameters
    theirs = inspect.signature(layer_class.__bases__[-1].__init__).parameters
    added = {"ratio", "selection", "alpha_initializer", "alpha_regularizer", "alpha_constraint", "alpha_bits"}
    added |= {"alpha_step", "dead_zone", "rate_weight"}
    keras_3_only = {"lora_rank", "lora_alpha", "quantization_config"}
    assert set(ours) - added == set(theirs) - keras_3_only
    for name, parameter in theirs.items():
        if name in ours and name != "kernel_initializer":
            assert ours[name].default == parameter.default, name
    common = [name for name in theirs if name in ours and name != "kwargs"]
    assert list(ours)[: len(common)] == common


@pytest.mark.parametrize("layer_class, arguments, shape", LAYERS)
def test_config_makes_an_equal_layer(layer_class, arguments, shape):
    layer, _ = built(layer_class, arguments, shape)
    copy = layer_class.from_config(layer.get_config())
    copy.build(shape)
    copy.set_weights(layer.get_weights())
    assert copy.get_config() == layer.get_config()
    x = RNG.standard_normal(shape).astype(np.float32)
    np.testing.assert_array_equal(copy(x), layer(x))


def test_another_order_version_is_refused():
    config = DBFDense(3).get_config() | {"order_version": 99}
    with pytest.raises(ValueError, match="version 99"):
        DBFDense.from_config(config)


_LOAD = """
import sys
import numpy as np
import tensorflow as tf
import dbf_keras
path, weights, inputs, outputs, fresh = sys.argv[1:]
x = np.load(inputs)
model = tf.keras.models.load_model(path, custom_objects=dbf_keras.custom_objects())
np.testing.assert_array_equal(model(x), np.load(outputs))
model.get_layer("conv").coefficients.assign(0 * model.get_layer("conv").coefficients)
model.load_weights(weights)
np.testing.assert_array_equal(model(x), np.load(outputs))
print("same")
"""


def test_models_load_in_a_new_process(tmp_path):
    model = keras.Sequential(
        [
            keras.layers.InputLayer((8, 8, 6)),
            DBFConv2D(8, 3, ratio=0.25, activation="relu", name="conv"),
            DBFConv2D(8, 3, ratio=0.5, selection=list(range(36)), padding="same", kernel_regularizer="l2"),
            keras.layers.Flatten(),
            DBFDense(4, ratio=0.5, selection="random:2"),
        ]
    )
    files = [str(tmp_path / name) for name in ("m.keras", "m.weights.h5", "x.npy", "y.npy")]
    x = RNG.standard_normal((2, 8, 8, 6)).astype(np.float32)
    model.save(files[0])
    model.save_weights(files[1])
    np.save(files[2], x)
    np.save(files[3], model(x))
    environment = os.environ | {"KERAS_BACKEND": keras.backend.backend()}
    result = subprocess.run([sys.executable, "-c", _LOAD, *files, ""], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "same", result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"data_format": "channels_first"}, "channels_last"),
        ({"ratio": 0}, "0 < ratio <= 1; got 0"),
        ({"ratio": 1.5}, "0 < ratio <= 1; got 1.5"),
        ({"groups": 2}, "groups"),
        ({"kernel_constraint": "non_neg"}, "alpha_constraint"),
        ({"kernel_initializer": "zeros", "alpha_initializer": "zeros"}, "not both"),
        ({"alpha_bits": 1}, "from 2 to 8; got 1"),
        ({"alpha_bits": 4.5}, "from 2 to 8; got 4.5"),
        ({"alpha_step": 0.0}, "over 0; got 0.0"),
        ({"alpha_step": float("nan")}, "over 0; got nan"),
        ({"alpha_step": 0.5, "dead_zone": 0.5}, "under 0.5; got 0.5"),
        ({"alpha_step": 0.5, "rate_weight": -1.0}, "at least 0; got -1.0"),
        ({"rate_weight": 1.0}, "need `alpha_step`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DBFConv2D(4, 3, **arguments)


@pytest.mark.parametrize(
    "selection, message",
    [("nonsense", "Unknown selection"), ([1, 1, 2] * 9, "twice"), ([0, 1, 18], "0 to 17"), ([0.5], "integers")],
)
def test_selections_that_do_not_fit_are_refused(selection, message):
    with pytest.raises(ValueError, match=message):
        DBFConv2D(4, 3, selection=selection).build((1, 8, 8, 2))


def test_what_generated_kernels_cannot_do_is_refused():
    layer = DBFDense(4)
    with pytest.raises(AttributeError, match="before it is built"):
        _ = layer.kernel
    with pytest.raises(ValueError, match="known number of channels"):
        layer.build((None, None))
    layer.build((1, 8))
    with pytest.raises(ValueError, match="LoRA"):
        layer.enable_lora(2)
    with pytest.raises(NotImplementedError, match="export"):
        layer.quantize("int8")


def test_custom_objects_name_the_layers():
    assert dbf_keras.custom_objects() == {"DBFConv2D": DBFConv2D, "DBFDense": DBFDense}


@pytest.mark.parametrize("options, shape", CONVOLUTIONS)
def test_empty_batches_have_the_shape_of_others(options, shape):
    layer = DBFConv2D(**options)
    full = layer(RNG.standard_normal(shape).astype("float32"))
    assert tuple(layer(np.zeros((0, *shape[1:]), "float32")).shape) == (0, *full.shape[1:])


@pytest.mark.parametrize("options, shape", DENSES)
def test_empty_batches_of_dense_layers(options, shape):
    layer = DBFDense(**options)
    full = layer(RNG.standard_normal(shape).astype("float32"))
    assert tuple(layer(np.zeros((0, *shape[1:]), "float32")).shape) == (0, *full.shape[1:])
