"""Whole files in int8: they approximate float32, and the C library computes them bit for bit."""

import functools

import numpy as np
import pytest

from dbf_keras import data, runtime, zoo
from dbf_keras.backend import keras
from dbf_keras.export import rewrite, verify
from dbf_keras.export.conversion import convert, to_tflite
from dbf_keras.export.int8_op import CannotQuantize
from dbf_keras.layers import DBFConv2D, DBFDense

from .test_converter import MODELS
from .tools import (
    int8_reference,
    layers,
    load,
    multiply_by_quantized_multiplier,
    needs_library,
    ops,
    options,
    randomize,
)


def separable(taps, channels, kept):
    chosen = np.random.default_rng(0).permutation(channels)[:kept]
    return {"selection": (np.arange(taps)[:, None] * channels + chosen).ravel().tolist(), "ratio": kept / channels}


LAYERS = {
    "ovsf": (DBFConv2D(24, 3, padding="same", ratio=0.25, selection="ovsf", activation="relu"), (9, 10, 32)),
    "ovsf, half a run": (DBFConv2D(8, 3, ratio=0.25, selection="ovsf"), (8, 8, 22)),
    "runs of taps": (DBFConv2D(24, 4, padding="same", ratio=0.25, selection="spatial_tree"), (9, 10, 32)),
    "runs of taps, strides": (DBFConv2D(24, 4, strides=2, ratio=0.25, selection="spatial_tree"), (9, 10, 32)),
    "sequency": (DBFConv2D(24, 3, padding="same", ratio=0.25, selection="sequency", activation="relu6"), (9, 8, 32)),
    "random": (DBFConv2D(16, 4, ratio=0.2, selection="random"), (9, 9, 12)),
    "separable": (DBFConv2D(16, (3, 2), padding="same", strides=2, **separable(6, 48, 12)), (9, 10, 48)),
    "pointwise": (DBFConv2D(24, 1, strides=2, ratio=0.5, selection="random", activation="relu"), (8, 8, 40)),
    "many channels": (DBFConv2D(8, 3, padding="same", ratio=0.1, selection="sequency"), (5, 5, 300)),
    "many channels, whole": (DBFConv2D(8, 2, dilation_rate=2, **separable(4, 520, 50)), (6, 6, 520)),
    "all": (DBFConv2D(8, 3), (8, 8, 7)),
    "dense": (DBFDense(12, ratio=0.3, selection="random"), (200,)),
    "dense, pixels": (DBFDense(12, ratio=0.5, selection="ovsf", activation="relu"), (5, 4, 30)),
}


@functools.cache
def one_layer(name):
    """A model of one layer, inputs, and its int8 file on the fly."""
    layer, shape = LAYERS[name]
    inputs = keras.Input(shape)
    model = randomize(keras.Model(inputs, layer(inputs)))
    [values] = verify.random_inputs(model, batch=64)
    if "relu" in str(layer.activation):  # As behind another layer of the kind.
        values = np.maximum(values, 0)
    return model, values, to_tflite(model, "onthefly", "int8", representative_data=[values], io_type="int8")


def int8_input(data, values):
    graph = load(data).subgraphs[0]
    quantization = graph.tensors[graph.inputs[0]].quantization
    return np.clip(np.rint(values / quantization.scale[0]) + quantization.zeroPoint[0], -128, 127).astype(np.int8)


@pytest.mark.parametrize("name", LAYERS)
def test_the_format_approximates_the_layer(name):
    model, values, data = one_layer(name)
    assert ops(data) in (["DBFConv2D"], ["DBFDense"])
    assert ("sums" in options(load(data).subgraphs[0].operators[0])) == ("runs of taps" in name)
    outputs = int8_reference(data, int8_input(data, values)).astype(np.float64)
    graph = load(data).subgraphs[0]
    quantization = graph.tensors[graph.outputs[0]].quantization
    reference = np.asarray(model(values)) / quantization.scale[0] + quantization.zeroPoint[0]
    error = np.abs(outputs.reshape(reference.shape) - reference)
    assert error.max() < 9 and np.sqrt(np.square(error).mean()) < 1.3


@needs_library
@pytest.mark.parametrize("name", LAYERS)
def test_the_library_computes_the_format_bit_for_bit(name):
    _, values, data = one_layer(name)
    random = np.random.default_rng(0).integers(-128, 128, values.shape).astype(np.int8)  # Saturates now and then.
    for inputs in (int8_input(data, values), random):
        interpreter = runtime.Interpreter(model_content=data)
        source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        interpreter.resize_tensor_input(source, inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, inputs)
        interpreter.invoke()
        outputs = interpreter.get_tensor(target)
        np.testing.assert_array_equal(outputs, int8_reference(data, inputs).reshape(outputs.shape))


def test_requantisation_rounds_twice():
    numbers = np.array([0, 1, -1, 3, -3, 1000, -1000, 2**31 - 1, 1 - 2**31], np.int64)
    assert multiply_by_quantized_multiplier(numbers, 0.5).tolist() == [0, 1, 0, 2, -1, 500, -500, 2**30, 1 - 2**30]
    assert multiply_by_quantized_multiplier(numbers, 2.0**-12)[5:7].tolist() == [0, 0]
    # 249.5 in the first rounding and 250 in the second: once would give 249.
    assert multiply_by_quantized_multiplier(np.array([998]), 0.24999999).tolist() == [250]
    np.testing.assert_allclose(multiply_by_quantized_multiplier(numbers, 0.3), 0.3 * numbers, rtol=1e-9, atol=1)


def network():
    inputs = keras.Input((8, 8, 16))
    x = layers.ReLU()(layers.BatchNormalization()(DBFConv2D(32, 3, ratio=0.25, selection="ovsf", name="runs")(inputs)))
    shared = DBFConv2D(32, 3, padding="same", ratio=0.25, selection="sequency", name="shared")
    x = layers.Add()([x, shared(layers.ReLU()(shared(x)))])
    x = DBFConv2D(16, 2, ratio=0.5, selection="sp_ovsf", name="flat")(x)
    x = DBFConv2D(16, 1, activation="tanh", name="curved")(x)
    x = DBFDense(10, ratio=0.5, selection="ovsf", name="head")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Softmax()(x))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def batches(model):
    return [verify.random_inputs(model, batch=8, seed=seed)[0] for seed in range(4)]


@pytest.mark.parametrize("mode", ["explicit", "folded", pytest.param("onthefly", marks=needs_library)])
@pytest.mark.parametrize("io_type", ["float32", "int8"])
def test_networks_compute_nearly_what_keras_does(model, batches, mode, io_type):
    result = convert(model, mode, "int8", representative_data=batches, io_type=io_type)
    graph = load(result.data).subgraphs[0]
    types = {graph.tensors[index].type for index in [*graph.inputs, *graph.outputs]}
    assert types == {{"float32": 0, "int8": 9}[io_type]}
    assert all(tensor.type != 0 for index, tensor in enumerate(graph.tensors) if io_type == "int8")
    assert result.relative_difference < 0.06 and result.noise < 0.03
    if mode == "onthefly":
        forms = {layer.name: (layer.form, layer.reason) for layer in result.layers}
        assert forms.pop("flat") == ("explicit", "sp_ovsf keeps flat codes, which the op does not know")
        assert set(forms.values()) == {("onthefly", "")}
        assert ops(result.data).count("DBFConv2D") == 4
        assert {layer.name: layer.bytes_file for layer in result.layers}["runs"] == 32 * 36 + 4 * 32


@needs_library
@pytest.mark.parametrize("make", MODELS)
def test_every_kind_of_model_is_quantised(make):
    model = randomize(make())
    batches = [verify.random_inputs(model, batch=6, seed=seed) for seed in range(5)]
    result = convert(model, "onthefly", "int8", representative_data=batches, io_type="int8")
    assert result.noise < 0.03 and not any(layer.failed for layer in result.layers)


def test_a_layer_without_an_int8_form_stays_explicit(model, batches, monkeypatch):
    quantize = rewrite.int8_op.quantize

    def refuse(layer, *arguments):
        if layer.name == "curved":
            raise CannotQuantize("of a reason")
        return quantize(layer, *arguments)

    monkeypatch.setattr(rewrite.int8_op, "quantize", refuse)
    result = convert(model, "onthefly", "int8", representative_data=batches, check=False)
    assert {layer.name: layer.reason for layer in result.layers if layer.failed}["curved"] == "of a reason"
    assert ops(result.data).count("DBFConv2D") == 3 and ops(result.data).count("CONV_2D") == 2


@pytest.mark.parametrize("mode", ["explicit", "folded", pytest.param("onthefly", marks=needs_library)])
def test_the_default_zoo_model_keeps_its_accuracy(mode):
    digits, model = data.load("digits"), zoo.load_zoo("digits")
    images = digits.x_test.astype(np.float32)
    file = to_tflite(model, mode, "int8", representative_data=[digits.x_train[:200]])
    [scores] = verify.run_file(model, file, [images])
    shares = [np.mean(np.argmax(s, -1) == digits.y_test) for s in (np.asarray(model(images)), scores)]
    assert shares[1] > shares[0] - 0.01
