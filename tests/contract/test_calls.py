"""What a layer is called with, and what it says of itself."""

import numpy as np
import pytest

from .tools import (
    KINDS,
    LEGACY,
    LEGACY_REASON,
    DBFConv2D,
    DBFDense,
    alike,
    images,
    inputs,
    keras,
    layers,
    networks,
    numpy,
    pair,
)

pytestmark = pytest.mark.skipif(LEGACY, reason=LEGACY_REASON)
both_kinds = pytest.mark.parametrize("kind", KINDS)
ratios = pytest.mark.parametrize("ratio", [1, 0.25])


@ratios
@both_kinds
@pytest.mark.parametrize("training", [None, False, True])
def test_the_training_argument(kind, ratio, training):
    """In a model, where Keras hands it on to layers that take it."""
    found = []
    for layer in pair(kind, ratio=ratio):
        shape = keras.Input(KINDS[kind][3])
        found.append(numpy(keras.Model(shape, layer(shape))(inputs(kind), training=training)))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


@ratios
@both_kinds
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("way", ["eager", "predict"])
def test_any_batch(kind, ratio, batch, way):
    x = images(batch, *KINDS[kind][3])
    found = []
    for layer in pair(kind, ratio=ratio):
        shape = keras.Input(KINDS[kind][3])
        model = keras.Model(shape, layer(shape))
        try:
            found.append(numpy(model(x)) if way == "eager" else model.predict(x, verbose=0))
        except UnboundLocalError:  # Keras predicts nothing from nothing.
            found.append(None)
    if found[1] is None:
        assert batch == 0 and way == "predict" and found[0] is None
    else:
        if batch == 0:  # TensorFlow's convolutions on oneDNN give the twin the shape of its inputs.
            found[1] = found[1][..., :1].repeat(found[0].shape[-1], axis=-1)
        assert found[0].shape == found[1].shape
        np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


def test_open_sizes():
    layer, twin = (
        DBFConv2D(64, 4, strides=2, padding="same", ratio=0.25),
        layers.Conv2D(64, 4, strides=2, padding="same"),
    )
    models = []
    for each in (layer, twin):
        shape = keras.Input((None, None, 64))
        models.append(keras.Model(shape, each(shape)))
    alike(layer, twin)
    assert models[0].output_shape == models[1].output_shape == (None, None, None, 64)
    for size in ((8, 8), (5, 9), (1, 1)):
        x = images(2, *size, 64)
        found = [model.predict(x, verbose=0) for model in models]
        np.testing.assert_allclose(*found, rtol=0, atol=1e-4)


@both_kinds
def test_ragged_data_meets_what_the_twin_meets(kind):
    tf = pytest.importorskip("tensorflow", reason="ragged tensors are TensorFlow's")
    rows = [images(3, *KINDS[kind][3][1:]), images(2, *KINDS[kind][3][1:])]
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(rows), [3, 2])
    found = []
    for layer in pair(kind):
        try:
            found.append(layer(ragged))
        except Exception:  # Which kind depends on the op that meets them first.
            found.append("refused")
    assert found == ["refused", "refused"]


WRONG_INPUTS = {
    "channels": lambda shape: (2, *shape[:-1], shape[-1] + 1),
    "axes": lambda shape: (2,),
}


@both_kinds
@pytest.mark.parametrize("wrong", WRONG_INPUTS)
def test_inputs_that_do_not_fit_are_refused_as_by_the_twin(kind, wrong):
    x = images(*WRONG_INPUTS[wrong](KINDS[kind][3]))
    messages = []
    for layer in pair(kind):
        with pytest.raises(ValueError) as caught:
            layer(x)
        messages.append(str(caught.value).replace(layer.name, "LAYER"))
    assert messages[0] == messages[1]


# Arguments that the twin refuses, or takes on a GPU only.
WRONG_ARGUMENTS = [
    ("conv", {"padding": "causal"}),
    ("conv", {"strides": 2, "dilation_rate": 2}),
    ("conv", {"kernel_size": 0}),
    ("conv", {"filters": 0}),
    ("conv", {"strides": 0}),
    ("conv", {"activation": "nonsense"}),
    ("conv", {"nonsense": 1}),
    ("conv", {"kernel_size": (1, 2, 3)}),
    ("conv", {"bias_initializer": "nonsense"}),
    ("dense", {"units": 0}),
    ("dense", {"units": 1.5}),
    ("dense", {"nonsense": 1}),
]


@pytest.mark.parametrize("kind, arguments", WRONG_ARGUMENTS, ids=str)
def test_arguments_that_the_twin_refuses(kind, arguments):
    dbf, plain, defaults, _ = KINDS[kind]
    kinds = []
    for layer in (dbf, plain):
        with pytest.raises((ValueError, TypeError)) as caught:
            layer(**{**defaults, **arguments})
        kinds.append(caught.type)
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"groups": 2}, "`groups` must be 1; got 2"),
        ({"data_format": "channels_first"}, "channels_last.*got data_format='channels_first'"),
        ({"kernel_constraint": "unit_norm"}, "alpha_constraint"),
    ],
)
def test_what_a_dbf_layer_cannot_do_is_said(arguments, message):
    layers.Conv2D(8, 4, **arguments)
    with pytest.raises(ValueError, match=message):
        DBFConv2D(8, 4, **arguments)


def test_a_session_of_channels_first():
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        with pytest.raises(ValueError, match="channels_last"):
            DBFConv2D(8, 4)
        assert DBFConv2D(8, 4, data_format="channels_last").data_format == "channels_last"
    finally:
        keras.config.set_image_data_format(before)


@ratios
@pytest.mark.parametrize("dilation", [2, (1, 3)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_dilation(ratio, dilation, padding):
    layer = DBFConv2D(8, 2, dilation_rate=dilation, padding=padding, ratio=ratio)
    twin = layers.Conv2D(8, 2, dilation_rate=dilation, padding=padding)
    x = images(2, 8, 8, 4)
    layer.build(x.shape), twin.build(x.shape)
    alike(layer, twin)
    np.testing.assert_allclose(numpy(layer(x)), numpy(twin(x)), rtol=0, atol=1e-5)


def test_kernels_larger_than_the_image_are_refused_as_by_the_twin():
    messages = []
    for layer in (DBFConv2D, layers.Conv2D):
        with pytest.raises(ValueError) as caught:
            layer(4, 4, name="layer").build((None, 3, 3, 4))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@both_kinds
def test_shapes_are_the_twin_s(kind):
    shape = (None, *KINDS[kind][3])
    ours, theirs = pair(kind, ratio=0.25)
    assert ours.compute_output_shape(shape) == theirs.compute_output_shape(shape)
    symbolic = keras.KerasTensor((3, *KINDS[kind][3]))
    assert ours.compute_output_spec(symbolic).shape == theirs.compute_output_spec(symbolic).shape
    assert ours.supports_masking == theirs.supports_masking
    assert ours.twin_shape == tuple(theirs.kernel.shape)


def test_counts_and_summary():
    ours, theirs = networks()
    assert ours.count_params() == theirs.count_params()
    quarter = networks(ratio=0.25)[0]
    taps = [4 * 4 * 4, 4 * 4 * 8, 16]
    filters = [8, 16, 4]
    assert quarter.count_params() == sum(t // 4 * k + k for t, k in zip(taps, filters, strict=True))
    lines = []
    quarter.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "DBFConv2D" in text and f"{quarter.count_params():,}" in text
    assert [layer.count_params() for layer in ours.layers] == [layer.count_params() for layer in theirs.layers]


@both_kinds
def test_gradients_by_tape(kind):
    tf = pytest.importorskip("tensorflow", reason="the tape is TensorFlow's")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the tape is TensorFlow's")
    layer, twin = pair(kind)
    x = tf.constant(inputs(kind))
    found = []
    for each in (layer, twin):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(each(x)))
        found.append(tape.gradient(loss, [x, *each.trainable_variables]))
    for ours, theirs in zip(found[0][::2], found[1][::2], strict=True):  # Input and bias have the same gradients.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    # Orthonormal codes turn the gradient only.
    np.testing.assert_allclose(np.linalg.norm(found[0][1]), np.linalg.norm(found[1][1]), rtol=1e-5)


@both_kinds
def test_layers_without_bias(kind):
    for layer in pair_without_bias(kind):
        assert layer.bias is None and len(layer.weights) == 1


def pair_without_bias(kind):
    dbf, plain, arguments, shape = KINDS[kind]
    for layer in (dbf(**arguments, use_bias=False), plain(**arguments, use_bias=False)):
        layer.build((None, *shape))
        yield layer


def test_masks_pass_a_dense_layer_as_they_pass_the_twin():
    x = np.array([[1, 2, 0], [3, 0, 0]])
    masks = []
    for layer in (DBFDense(4), layers.Dense(4)):
        model = keras.Sequential([layers.Embedding(5, 8, mask_zero=True), layer])
        masks.append(numpy(keras.src.backend.get_keras_mask(model(x))) if hasattr(keras, "src") else None)
    np.testing.assert_array_equal(*masks)


def test_the_layer_is_of_the_twin_s_class():
    assert isinstance(DBFConv2D(1, 1), layers.Conv2D) and isinstance(DBFDense(1), layers.Dense)
