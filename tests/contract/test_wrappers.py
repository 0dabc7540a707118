"""Layers that hold a DBF layer, read its kernel or assign to it."""

import numpy as np
import pytest

from .tools import (
    CROSS_ENTROPY,
    KINDS,
    LEGACY,
    LEGACY_REASON,
    DBFConv2D,
    alike,
    examples,
    images,
    inputs,
    keras,
    layers,
    networks,
    numpy,
    ops,
    pair,
)

pytestmark = pytest.mark.skipif(LEGACY, reason=LEGACY_REASON)
both_kinds = pytest.mark.parametrize("kind", KINDS)


def classifier(layer, **options):
    inputs = keras.Input((8, 8, 4))
    x = layers.SpectralNormalization(layer, **options)(inputs)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.ReLU()(x))))


def train(model, **options):
    x, y = examples()
    model.compile(keras.optimizers.SGD(0.05), CROSS_ENTROPY, **options)
    return model.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_spectral_normalization_trains_as_the_twin(options):
    layer, twin = pair("conv")
    models = classifier(layer), classifier(twin)
    for ours, theirs in zip(models[0].layers[1:], models[1].layers[1:], strict=True):
        if ours.weights and not hasattr(ours, "layer"):
            theirs.set_weights(ours.get_weights())
    models[1].layers[1].vector_u.assign(models[0].layers[1].vector_u)
    found = [train(model, **options) for model in models]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4)
    np.testing.assert_allclose(numpy(layer.kernel), numpy(twin.kernel), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [{"ratio": 0.25}, {"kernel_size": 3}, {"kernel_size": 3, "ratio": 0.5}, {"selection": "sp_ovsf"}],
    ids=str,
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("channels", [4, 6])
def test_spectral_normalization_holds_the_norm_of_any_codes(arguments, policy, channels):
    layer = DBFConv2D(**{"filters": 8, "kernel_size": 4} | arguments, dtype=policy)
    wrapped = layers.SpectralNormalization(layer, power_iterations=5, dtype=policy)
    x = images(2, 8, 8, channels)
    wrapped(x)
    before = numpy(layer.kernel)
    for _ in range(4):
        wrapped(x, training=True)
    after = numpy(layer.kernel)
    assert np.linalg.norm(before.reshape(-1, 8), 2) > 1.2
    np.testing.assert_allclose(np.linalg.norm(after.reshape(-1, 8), 2), 1, rtol=2e-2)
    np.testing.assert_allclose(after / np.linalg.norm(after), before / np.linalg.norm(before), rtol=0, atol=1e-5)


@both_kinds
@pytest.mark.parametrize("ratio", [1, 0.5])
def test_kernels_are_assigned_to(kind, ratio):
    layer, twin = pair(kind, ratio=ratio)
    kernel = images(*layer.kernel.shape)
    for target in (layer, twin):
        target.kernel.assign(kernel)
        with pytest.raises(ValueError, match="shape"):
            target.kernel.assign(kernel[..., :-1])
    again = numpy(layer.kernel)
    np.testing.assert_allclose(again, kernel, rtol=0, atol=1e-5 if ratio == 1 else 5)
    layer.fit_kernel(kernel)
    np.testing.assert_allclose(again, numpy(layer.kernel), rtol=0, atol=1e-5)


@both_kinds
def test_kernels_are_read_as_the_twin_s(kind):
    layer, twin = (layer.kernel for layer in pair(kind))
    for read in (
        numpy,
        np.asarray,
        lambda kernel: kernel.numpy(),
        lambda kernel: numpy(kernel.value),
        lambda kernel: numpy(kernel * 2 - 1 / (3 + abs(kernel))),
        lambda kernel: numpy(ops.square(kernel)),
        lambda kernel: numpy(kernel[0]),
        lambda kernel: kernel.shape,
        lambda kernel: keras.backend.standardize_dtype(kernel.dtype) == "float32",
    ):
        np.testing.assert_allclose(read(layer), read(twin), rtol=1e-6)


def test_a_wrapper_of_one_s_own_that_scales_the_kernel():
    class UnitNorm(layers.Wrapper):
        def call(self, inputs):
            kernel = self.layer.kernel
            kernel.assign(kernel / ops.norm(ops.reshape(kernel, (-1,))))
            return self.layer(inputs)

    for layer in pair("conv"):
        UnitNorm(layer)(inputs("conv"))
        np.testing.assert_allclose(np.linalg.norm(numpy(layer.kernel)), 1, rtol=1e-5)


@pytest.mark.parametrize("ratio", [1, 0.25])
def test_convolution_op_is_overridden(ratio):
    """The way of Keras to standardise filters; the layer would compute in folded form at ρ = 1/4."""

    def standardized(base):
        class Standardized(base):
            def convolution_op(self, inputs, kernel):
                mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
                return super().convolution_op(inputs, (kernel - mean) / ops.sqrt(variance + 1e-10))

        return Standardized

    arguments = {"filters": 64, "kernel_size": 4, "padding": "same", "use_bias": False}
    layer, twin = standardized(DBFConv2D)(**arguments, ratio=ratio), standardized(layers.Conv2D)(**arguments)
    x = images(2, 8, 8, 64)
    layer.build(x.shape), twin.build(x.shape)
    alike(layer, twin)
    for training in (False, True):
        found = [numpy(model(x, training=training)) for model in (as_model(layer, x), as_model(twin, x))]
        np.testing.assert_allclose(*found, rtol=0, atol=1e-4 * np.abs(found[1]).max())


def as_model(layer, x):
    shape = keras.Input(x.shape[1:])
    return keras.Model(shape, layer(shape))


@pytest.mark.parametrize("ratio", [1, 0.25])
def test_time_distributed(ratio):
    layer, twin = pair("conv", ratio=ratio)
    x = images(2, 3, 8, 8, 4)
    found = [numpy(as_model(layers.TimeDistributed(each), x)(x)) for each in (layer, twin)]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ratio", [1, 0.25])
def test_models_in_models(ratio):
    found = []
    x, y = examples()
    ours, theirs = networks(ratio=ratio)
    for inner in (ours, theirs):
        outer = keras.Sequential(
            [keras.Input((8, 8, 4)), layers.Rescaling(2.0), keras.Sequential([inner]), layers.ReLU()]
        )
        outer.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
        found.append(outer.evaluate(x, y, verbose=0))
        outer.fit(x, y, verbose=0)
        again = keras.models.clone_model(outer)
        again.set_weights(outer.get_weights())
        np.testing.assert_array_equal(again.predict(x, verbose=0), outer.predict(x, verbose=0))
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_rematerialised_layers():
    if not hasattr(keras, "RematScope"):
        pytest.skip("this Keras has no RematScope")
    x, y = examples()
    found = []
    with keras.RematScope(mode="full"):
        both = pair("conv")
    for layer in both:
        model = keras.Sequential([keras.Input((8, 8, 4)), layer, layers.GlobalAveragePooling2D()])
        model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
        found.append(model.fit(x, y, batch_size=16, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*found, rtol=0, atol=1e-3)


@both_kinds
def test_low_rank_adapters_are_refused(kind):
    layer, twin = pair(kind)
    twin.enable_lora(2)
    with pytest.raises(ValueError, match=f"{type(layer).__name__}.*LoRA"):
        layer.enable_lora(2)
