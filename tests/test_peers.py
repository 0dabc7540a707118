"""What `benchmarks/peers` makes of trained networks, before it trains them."""

import zlib

import numpy as np
import pytest

import pruning
from dbf_keras import zoo
from dbf_keras.backend import keras
from factorised import separable, squeeze, tucker
from methods import METHODS
from narrower import narrow
from rebuild import rebuild, renew

layers = keras.layers


@pytest.fixture(scope="module")
def digits():
    return zoo.load_zoo("digits_plain")


@pytest.fixture(scope="module")
def branched():
    """Strides, dilation, biases, concatenation, depthwise and dense layers, and weights that are no start."""
    inputs = keras.Input((9, 9, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="first")(x)
    other = layers.Conv2D(8, 3, dilation_rate=2, padding="same", name="dilated")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
    x = layers.Concatenate()([layers.BatchNormalization()(other), x])
    x = layers.Conv2D(16, 1, strides=2, name="pointwise")(x)
    x = layers.Flatten()(layers.ReLU()(x))
    x = layers.Dense(24, activation="relu", name="dense")(x)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x))
    rng = np.random.default_rng(0)
    model.set_weights(
        [rng.normal(0, 0.1, w.shape) if w.ndim > 1 else rng.uniform(0.2, 1, w.shape) for w in model.get_weights()]
    )
    return model


def images(model, count=16):
    return np.random.default_rng(0).uniform(0, 255, (count, *model.input_shape[1:])).astype("f")


def outputs(model):
    """What the classifier takes."""
    return keras.Model(model.inputs, model.layers[-1].input)([images(model)]).numpy()


@pytest.mark.parametrize("make", [lambda model: tucker(model, 2), lambda model: separable(model, 1000)])
def test_with_all_ranks_nothing_is_lost(make, digits, branched):
    for model in (digits, branched):
        np.testing.assert_allclose(outputs(make(model)), outputs(model), rtol=1e-3, atol=1e-4)


def test_tucker_at_a_planted_rank_is_the_network_itself():
    """A convolution, a 1×1 convolution and a dense layer of rank 3."""
    rng = np.random.default_rng(0)

    def planted(*shape):
        core = rng.normal(size=(*shape[:-2], 3, 3))
        kernel = np.einsum("...ab,ca,kb->...ck", core, rng.normal(size=(shape[-2], 3)), rng.normal(size=(shape[-1], 3)))
        return kernel + 1e-4 * rng.normal(size=shape)

    inputs = keras.Input((8, 8, 16))
    x = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu", name="conv")(inputs)
    x = layers.Conv2D(32, 1, strides=2, activation="relu", name="pointwise")(x)
    x = layers.Dense(40, activation="relu", name="dense")(layers.Flatten(name="flat")(x))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x))
    model.set_weights([planted(*w.shape) if w.ndim > 1 else rng.normal(size=w.shape) for w in model.get_weights()])

    made = tucker(model, 1)

    names = {layer.name: [part.name for part in getattr(layer, "layers", ())] for layer in made.layers}
    assert names["conv"] == ["conv_in", "conv_core", "conv_out"]
    assert names["pointwise"] == ["pointwise_in", "pointwise_out"] and names["classes"] == []
    assert made.get_layer("conv").layers[1].kernel.shape == (3, 3, 3, 3)
    assert made.count_params() < 0.5 * model.count_params()
    wanted = outputs(model)
    np.testing.assert_allclose(outputs(made), wanted, atol=0.01 * np.abs(wanted).max())


def test_less_share_is_smaller_and_further(digits):
    sizes = [tucker(digits, share).count_params() for share in (0.3, 1, 1.5, 2)]
    assert sizes == sorted(sizes) and sizes[0] < 0.3 * sizes[-1]
    sizes = [separable(digits, size).count_params() for size in (0.5, 1, 2, 4)]
    assert sizes == sorted(sizes) and sizes[1] < 0.3 * digits.count_params()


def test_squeeze_layers_come_before_convolutions(digits):
    made = squeeze(digits, 0.25)

    part = made.get_layer("cascade2_module1_conv2")
    assert [type(layer).__name__ for layer in part.layers] == ["Conv2D", "BatchNormalization", "ReLU", "Conv2D"]
    assert part.layers[-1].kernel.shape == (4, 4, 8, 32)
    assert np.isfinite(outputs(made)).all()


def test_narrow_networks_leave_out_what_is_zero(digits, branched):
    """Every second filter is zero, and what follows keeps it so."""

    def mute(layer):
        weights = layer.get_weights()
        if type(layer) in (layers.Conv2D, layers.Dense) and layer.name not in ("classifier", "classes"):
            for weight in weights:
                weight[..., 1::2] = 0
        elif isinstance(layer, layers.BatchNormalization):
            for weight in weights[1:3]:  # β and the mean
                weight[1::2] = 0
        elif isinstance(layer, layers.DepthwiseConv2D):
            weights[1].reshape(-1, layer.depth_multiplier)[1::2] = 0
        return [(type(layer).from_config(layer.get_config()), weights)]

    for model in (digits, branched):
        muted = rebuild(model, mute)
        made = narrow(muted, 0.5)
        for layer in made.layers[:-1]:
            if type(layer) in (layers.Conv2D, layers.Dense):
                assert layer.kernel.shape[-1] == model.get_layer(layer.name).kernel.shape[-1] // 2
        wanted = outputs(muted)
        np.testing.assert_allclose(outputs(made), wanted[:, ::2], rtol=1e-3, atol=1e-5)
        assert np.std(wanted, axis=0).max() > 0.01 and not wanted[:, 1::2].any()


def test_renewed_networks_are_not_trained(digits):
    made = renew(digits)

    assert made.to_json() == digits.to_json()
    assert not np.allclose(made.get_layer("classifier").kernel, digits.get_layer("classifier").kernel)


def test_layers_of_unknown_channels_are_named():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3)(inputs)
    x = layers.Reshape((-1, 4), name="shuffled")(x)
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))
    with pytest.raises(ValueError, match="'shuffled', a Reshape"):
        narrow(model, 0.5)


@pytest.mark.parametrize("key", METHODS)
def test_methods_start_from_plain_networks_of_the_same_classes(key, digits):
    method = METHODS[key]
    started = [method.start(digits, knob) for knob in (method.knobs[0], method.knobs[-1])] if method.knobs else [digits]

    made = [method.finish(model) for model in started]

    for model in made:
        assert (model.input_shape, model.output_shape) == (digits.input_shape, digits.output_shape)
        assert model.layers[-1].name == "classifier" and np.isfinite(outputs(model)).all()
    sizes = [len(zlib.compress(b"".join(weight.tobytes() for weight in model.get_weights()))) for model in made]
    assert len(made) == 1 or sizes[0] < 0.7 * sizes[1]


def test_int4_is_what_training_rounded_to(digits):
    method = METHODS["int4"]
    started = method.start(digits, 1.0)

    made = method.finish(started)

    np.testing.assert_allclose(made(images(digits)), started(images(digits)), atol=1e-5)
    kernel = made.get_layer("cascade2_module1_conv2").kernel.numpy()
    assert type(made.get_layer("cascade2_module1_conv2")) is layers.Conv2D
    assert max(len(np.unique(kernel[..., number])) for number in range(kernel.shape[-1])) <= 15


def test_kernels_are_pruned_and_clustered(digits):
    """By tensorflow-model-optimization, in a process of its own, from few images."""
    job = pruning.Job(
        "digits_plain",
        "digits",
        None,
        2,
        1,
        train_images=256,
        batch_size=32,
        sparsity=0.8,
        clusters=8,
        clip=1.0,
        shift=1,
        mirror=False,
        teacher_weight=0.9,
    )

    found = pruning.run(job, digits.get_weights())

    for before, after in zip(digits.get_weights(), found, strict=True):
        assert before.shape == after.shape
        if before.ndim > 1:
            assert np.mean(after == 0) == pytest.approx(0.8, abs=0.02)
            assert len(np.unique(after)) <= 8
    kept = np.abs(found[0]) > 0
    assert np.abs(digits.get_weights()[0][kept]).mean() > 2 * np.abs(digits.get_weights()[0][~kept]).mean()
