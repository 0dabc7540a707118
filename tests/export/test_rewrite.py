import dataclasses

import numpy as np
import pytest

from dbf_keras.backend import keras
from dbf_keras.export import converter, flatfile, rewrite, verify
from dbf_keras.export.conversion import to_tflite
from dbf_keras.export.filters import Filters
from dbf_keras.layers import DBFConv2D, DBFDense

from .tools import TOLERANCE, expand, filters, layers, load, needs_library, ops, options, randomize


def mixed():
    """DBF layers of every order and shape of op, BatchNorm with negative scales, ordinary layers in between."""
    inputs = keras.Input((12, 12, 5))
    x = DBFConv2D(8, (3, 2), strides=(2, 1), padding="same", ratio=0.3, selection="sequency", name="strided")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, activation="relu", name="ordinary")(x)
    x = DBFConv2D(6, 2, dilation_rate=(1, 2), ratio=0.5, selection="random", use_bias=False, name="dilated")(x)
    x = layers.BatchNormalization()(x)
    x = DBFDense(7, ratio=0.5, activation="relu6", name="pixels")(x)
    x = layers.DepthwiseConv2D(3)(x)
    x = DBFDense(4, ratio=0.4, name="head")(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, x))


@pytest.fixture(scope="module")
def model():
    return mixed()


@pytest.fixture(scope="module")
def data(model):
    return to_tflite(model)


def custom_ops(data):
    file = load(data)
    graph = file.subgraphs[0]
    return [
        (options(operator), [graph.tensors[i] for i in operator.inputs if i >= 0])
        for operator in graph.operators
        if operator.customOptions is not None
    ]


def test_dbf_layers_become_our_ops_and_others_stay(data):
    assert ops(data) == ["DBFConv2D", "CONV_2D", "DBFConv2D", "DBFDense", "DEPTHWISE_CONV_2D", "MEAN", "DBFDense"]
    names = [tensors[1].name for _, tensors in custom_ops(data)]
    assert names == [b"0w", b"2w", b"3w", b"6w"]  # The ops that the layers became.


def test_options_say_what_the_format_demands(data):
    strided, dilated, pixels, head = (given for given, _ in custom_ops(data))
    sizes = {"kernel_h": 3, "kernel_w": 2, "stride_h": 2, "stride_w": 1, "dilation_h": 1, "dilation_w": 1}
    assert {key: strided[key] for key in strided if key != "codes"} == {
        "version": 1,
        "channels": 5,
        "activation": 1,
        "padding": 0,
        **sizes,
    }
    sizes = {"kernel_h": 2, "kernel_w": 2, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 2}
    assert {key: dilated[key] for key in dilated if key != "codes"} == {
        "version": 1,
        "channels": 8,
        "activation": 0,
        "padding": 1,
        **sizes,
    }
    assert {key: pixels[key] for key in pixels if key != "codes"} == {
        "version": 1,
        "channels": 6,
        "activation": 3,
        "keep_num_dims": 1,
    }
    assert head["keep_num_dims"] == 0


def test_the_decoded_file_computes_what_keras_does(model, data):
    inputs = verify.random_inputs(model)
    reference = [np.asarray(output) for output in converter.run(model, inputs)]
    _, relative = verify.difference(reference, verify.run_file(model, expand(data), inputs))
    assert relative < TOLERANCE


@needs_library
def test_the_library_computes_what_keras_does(model, data):
    inputs = verify.random_inputs(model)
    reference = [np.asarray(output) for output in converter.run(model, inputs)]
    _, relative = verify.difference(reference, verify.run_file(model, data, inputs))
    assert relative < TOLERANCE


def test_no_filter_is_left_in_the_file():
    inputs = keras.Input((8, 8, 32))
    model = keras.Model(inputs, DBFConv2D(32, 3, ratio=0.25)(inputs))
    file = load(to_tflite(model))
    alpha = 4 * 32 * 72
    sizes = sorted(len(buffer.data) for buffer in file.buffers if buffer.data is not None)
    assert sizes[-1] == alpha and sum(sizes[:-1]) < 512
    assert [code.customCode for code in file.operatorCodes] == [b"DBFConv2D"]


def test_one_layer_used_twice_stores_its_coefficients_once():
    inputs = keras.Input((8, 8, 8))
    layer = DBFConv2D(8, 3, padding="same", ratio=0.5)
    data = to_tflite(randomize(keras.Model(inputs, layer(layer(inputs)))))
    operators = load(data).subgraphs[0].operators
    assert ops(data) == ["DBFConv2D", "DBFConv2D"]
    assert operators[0].inputs[1] == operators[1].inputs[1]


@pytest.mark.parametrize("taps", [1, 7, 8, 9, 45])
def test_bitmap(taps):
    codes = np.arange(0, taps, 2)
    packed = rewrite.bitmap(codes, taps)
    assert len(packed) == -(-taps // 8)
    assert [g for g in range(8 * len(packed)) if packed[g >> 3] >> (g & 7) & 1] == codes.tolist()


def test_the_decoder_agrees_with_the_layer():
    # Two derivations of the filters: the format's text, and the layer.
    layer = DBFConv2D(4, (2, 3), ratio=0.6, selection="sequency")
    layer.build((None, 8, 8, 5))
    held = Filters.of(layer)
    decoded = filters(held.alpha, rewrite.bitmap(held.codes, held.taps), 2, 3, 5)
    np.testing.assert_allclose(decoded, held.explicit, rtol=0, atol=1e-6)


def _file_and_layer():
    inputs = keras.Input((8, 8, 8))
    layer = DBFConv2D(4, 3, ratio=0.5)
    model = keras.Model(inputs, layer(inputs))
    held = Filters.of(layer)
    kernel = np.moveaxis(held.explicit, 0, -1).astype(np.float32)
    return flatfile.load(converter.to_flatbuffer(model, [converter.plain_call(layer, kernel)])), held


def test_filters_that_are_no_multiple_are_not_replaced():
    file, held = _file_and_layer()
    alpha = held.alpha.copy()
    alpha[2, 5] += 1e-4 * np.abs(alpha).max()
    assert rewrite.to_ops(file, [dataclasses.replace(held, alpha=alpha)]) == {}
    assert ops(flatfile.dump(file)) == ["CONV_2D"]


def test_scales_go_into_the_coefficients():
    file, held = _file_and_layer()
    scales = np.array([2.0, -0.5, 1e-3, -8.0])
    assert rewrite.to_ops(file, [dataclasses.replace(held, alpha=held.alpha / scales[:, None])]) == {
        0: rewrite.Outcome()
    }
    [(_, tensors)] = custom_ops(data := flatfile.dump(file))
    written = flatfile.constant(load(data), tensors[1])
    np.testing.assert_allclose(written, held.alpha, rtol=1e-6, atol=1e-7)


def test_filters_of_zeros_stay_zeros():
    inputs = keras.Input((8, 8, 8))
    model = keras.Model(inputs, DBFConv2D(4, 3, ratio=0.5, alpha_initializer="zeros")(inputs))
    data = to_tflite(model)
    assert ops(data) == ["DBFConv2D"]
    [(_, tensors)] = custom_ops(data)
    assert not np.any(flatfile.constant(load(data), tensors[1]))
