import numpy as np
import pytest

import dbf_keras
from dbf_keras import networks
from dbf_keras.backend import keras
from dbf_keras.networks.cost import multiply_adds

layers = keras.layers


def test_a_residual_network():
    """Counted by hand: 32² pixels in stage 1, a quarter and a sixteenth after; 1×1 shortcuts; the classifier."""
    spatial = [32 * 32, 16 * 16, 8 * 8]
    stem = spatial[0] * 9 * 3 * 16
    sizes = [9 * a * b for a, b in ((16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64))]
    convolutions = sum(spatial[index // 2] * size for index, size in enumerate(sizes))
    rest = stem + spatial[1] * 16 * 32 + spatial[2] * 32 * 64 + 640
    assert multiply_adds(networks.build("resnet8", kernel_size=3, plain=True)) == convolutions + rest
    assert multiply_adds(networks.build("resnet8", kernel_size=3, ratio=0.25)) == convolutions // 4 + rest


@pytest.mark.parametrize(
    "shape, layer, expected",
    [
        ((8, 8, 4), layers.Conv2D(6, (3, 2), padding="same"), 64 * 6 * 4 * 6),
        ((8, 8, 4), layers.Conv2D(6, 3, strides=2), 9 * 9 * 4 * 6),
        ((8, 8, 4), layers.Conv2D(6, 3, padding="same", dilation_rate=2), 64 * 9 * 4 * 6),
        ((8, 8, 4), layers.Conv2D(6, 3, padding="same", groups=2), 64 * 9 * 2 * 6),
        ((8, 8, 4), layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), 64 * 9 * 4 * 2),
        ((8, 8, 4), layers.DepthwiseConv2D(3, strides=2), 9 * 9 * 4),
        ((8, 8, 4), layers.SeparableConv2D(6, 3, depth_multiplier=2), 36 * (9 * 4 * 2 + 8 * 6)),
        ((8, 8, 4), layers.Conv2DTranspose(6, 3, strides=2, padding="same"), 64 * 9 * 4 * 6),
        ((10, 4), layers.Conv1D(6, 3), 8 * 3 * 4 * 6),
        ((10, 4), layers.DepthwiseConv1D(3), 8 * 3 * 4),
        ((10, 4), layers.SeparableConv1D(6, 3), 8 * (3 * 4 + 4 * 6)),
        ((10, 4), layers.Conv1DTranspose(6, 3), 10 * 3 * 4 * 6),
        ((5, 5, 5, 2), layers.Conv3D(3, 2), 64 * 8 * 2 * 3),
        ((2, 2, 2, 2), layers.Conv3DTranspose(3, 2), 8 * 8 * 2 * 3),
        ((12,), layers.Dense(5), 60),
        ((7, 12), layers.Dense(5), 7 * 60),
        ((7, 12), layers.EinsumDense("abc,cd->abd", output_shape=(None, 5)), 7 * 60),
        ((7, 12), layers.EinsumDense("...x,xy->...y", output_shape=5), 7 * 60),
        ((7, 3, 4), layers.EinsumDense("abcd,cde->abe", output_shape=(None, 5)), 7 * 60),
        ((8, 8, 4), dbf_keras.DBFConv2D(8, 4, padding="same", ratio=0.25), 64 * 16 * 8),
        ((16,), dbf_keras.DBFDense(5, ratio=0.5), 40),
        ((8, 8, 4), layers.BatchNormalization(), 0),
        ((8, 8, 4), layers.PReLU(), 0),
        ((8, 8, 4), layers.LayerNormalization(axis=(-2, -1)), 0),
        ((8, 8, 4), layers.Normalization(mean=np.ones(4), variance=np.ones(4)), 0),
        ((5,), layers.Embedding(10, 4), 0),
    ],
)
def test_layers_as_counted_by_hand(shape, layer, expected):
    inputs = keras.Input(shape)
    assert multiply_adds(keras.Model(inputs, layer(inputs))) == expected


def test_channels_first():
    inputs = keras.Input((4, 8, 10))
    layer = layers.Conv2D(6, 3, padding="same", data_format="channels_first")
    layer.compute_output_spec(inputs)  # Symbolic: TensorFlow on CPUs computes it channels-last only.
    assert multiply_adds(keras.Model(inputs, layer(inputs))) == 80 * 9 * 4 * 6


def test_nested_models_and_layers_that_are_called_twice():
    shared = layers.Conv2D(4, 3, padding="same")
    inner = keras.Sequential([keras.Input((None, None, 4)), layers.Conv2D(4, 1), layers.ReLU()])
    twice = keras.Input((8, 8, 4))
    block = keras.Model(twice, layers.Add()([inner(shared(twice)), shared(twice)]))
    inputs = keras.Input((8, 8, 4))
    large, small = block(inputs), inner(layers.MaxPooling2D()(inputs))
    joined = layers.Concatenate()([layers.GlobalAveragePooling2D()(part) for part in (large, small)])
    expected = 2 * 64 * 9 * 16 + 64 * 16 + 16 * 16
    assert multiply_adds(keras.Model(inputs, joined)) == expected
    assert multiply_adds(keras.Sequential([keras.Input((8, 8, 4)), block, layers.Flatten(), layers.Dense(2)])) == (
        2 * 64 * 9 * 16 + 64 * 16 + 512
    )


def test_a_network_of_keras():
    """MobileNet's 569 million, as its paper counts (Howard et al., 2017, table 4: 569)."""
    model = keras.applications.MobileNet(weights=None)
    assert multiply_adds(model) == pytest.approx(569e6, rel=0.002)


@pytest.mark.parametrize(
    "shape, make, name",
    [
        ((5, 4), lambda x: layers.LSTM(3, name="odd")(x), "'odd', LSTM"),
        ((5, 4), lambda x: layers.TimeDistributed(layers.Dense(3), name="odd")(x), "'odd', TimeDistributed"),
        ((5, 4), lambda x: layers.MultiHeadAttention(2, 2, name="odd")(x, x), "'odd', MultiHeadAttention"),
        ((5, 4), lambda x: layers.Attention(name="odd")([x, x]), "'odd', Attention"),
        ((5, 4), lambda x: layers.Dot(1, name="odd")([x, x]), "'odd', Dot"),
        ((5, 5), lambda x: keras.ops.matmul(x, x), "Matmul, are"),
        ((None, None, 4), lambda x: layers.Conv2D(3, 3, name="odd")(x), "size of 'odd' is open"),
    ],
)
def test_what_is_not_known_is_refused(shape, make, name):
    inputs = keras.Input(shape)
    with pytest.raises(ValueError, match=name):
        multiply_adds(keras.Model(inputs, make(inputs)))


def test_models_of_another_kind_are_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="neither functional nor Sequential"):
        multiply_adds(keras.Sequential([inputs, Own()]))
