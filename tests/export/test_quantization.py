import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from dbf_keras import networks
from dbf_keras.backend import keras
from dbf_keras.export import flatfile, quantization, verify
from dbf_keras.export.conversion import convert, to_tflite
from dbf_keras.layers import DBFConv2D, DBFDense

from .tools import TOLERANCE, expand, integers, layers, load, needs_library, ops, randomize, values


def network():
    inputs = keras.Input((8, 8, 16))
    x = DBFConv2D(32, 3, ratio=0.25, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=4)(x)
    x = layers.Conv2D(24, 1)(x)
    x = DBFDense(16, ratio=0.25)(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, layers.Dense(64)(x)))


@pytest.fixture(scope="module")
def model():
    return network()


def dequantized(data):
    """The same file in float32: int8 constants times their scales, and no DEQUANTIZE."""
    model = flatfile.load(data)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type == schema.TensorType.INT8:
                axis, scales = tensor.quantization.quantizedDimension, np.float32(tensor.quantization.scale)
                stored = model.buffers[tensor.buffer].data.view(np.int8).reshape(tensor.shape)
                shape = [-1 if index == axis else 1 for index in range(stored.ndim)]
                model.buffers[tensor.buffer].data = (stored * scales.reshape(shape)).ravel().view(np.uint8)
                tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
        renamed = {}
        kept = []
        for operator in graph.operators:
            if flatfile.code_of(model, operator) == schema.BuiltinOperator.DEQUANTIZE:
                renamed[int(operator.outputs[0])] = int(operator.inputs[0])
            else:
                operator.inputs = [renamed.get(int(index), int(index)) for index in operator.inputs]
                kept.append(operator)
        graph.operators = kept
    return flatfile.dump(model)


@pytest.mark.parametrize("axis", [0, 3])
def test_int8_is_symmetric_with_one_scale_a_filter(axis):
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 5)).astype(np.float32)
    values, scales = quantization.to_int8(weights, axis)
    assert values.dtype == np.int8 and scales.dtype == np.float32 and scales.shape == (weights.shape[axis],)
    moved, restored = np.moveaxis(weights, axis, 0), np.moveaxis(values, axis, 0)
    assert all(np.abs(filters).max() == 127 for filters in restored)
    error = np.abs(restored * scales[:, None, None, None] - moved).reshape(len(scales), -1).max(1)
    assert np.all(error <= scales * 0.5001)


def test_int8_of_zeros_and_of_signs_is_exact():
    values, scales = quantization.to_int8(np.array([[0, 0], [2.5, -1.003]], np.float32), 0)
    assert values.tolist() == [[0, 0], [127, -51]] and scales[0] == 1
    values, scales = quantization.to_int8(np.array([[1, -1], [-1, -1]], np.float32), 0)
    assert values.tolist() == [[1, -1], [-1, -1]] and scales.tolist() == [1, 1]


def test_int4_has_the_scale_of_least_error():
    weights = np.random.default_rng(0).standard_normal((5, 400)).astype(np.float32)
    weights[2], weights[3] = 0, np.arange(400) % 15 - 7
    held, scales = quantization.to_int4(weights)
    assert held.dtype == np.int8 and np.abs(held).max() == 7
    error = np.square(held * scales[:, None] - weights).mean(1)
    assert error[2] == error[3] == 0
    # The best uniform quantiser of 16 levels leaves 0.0115 of a normal number's variance; the largest number as
    # the end of the range leaves more than twice that.
    assert np.all(error < 0.016)


@pytest.mark.parametrize("filters", [15, 16])
def test_int4_is_packed_and_decodes_to_what_it_was(filters):
    inputs = keras.Input((8, 8, 12))
    model = keras.Model(inputs, DBFConv2D(filters, 3, ratio=83 / 108, use_bias=False)(inputs))
    result = convert(model, "onthefly", "int4", check=False)
    file = load(result.data)
    graph = file.subgraphs[0]
    alpha = graph.tensors[graph.operators[0].inputs[1]]
    assert alpha.type == schema.TensorType.INT4 and alpha.shape.tolist() == [filters, 83]
    float_file = load(to_tflite(model))
    given = values(float_file, float_file.subgraphs[0].tensors[float_file.subgraphs[0].operators[0].inputs[1]])
    held, scales = quantization.to_int4(given)
    np.testing.assert_array_equal(integers(file, alpha), held)
    np.testing.assert_allclose(values(file, alpha), held * scales[:, None], rtol=1e-6)
    stored = len(file.buffers[alpha.buffer].data)
    assert stored == -(-filters * 83 // 2)
    assert result.layers[0].bytes_file == stored + 4 * filters


@pytest.mark.parametrize("selection", ["ovsf", "sequency"])
def test_layers_trained_with_int4_keep_their_values(selection):
    inputs = keras.Input((8, 8, 16))
    x = DBFConv2D(32, 3, ratio=0.5, selection=selection, alpha_bits=4, use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = DBFDense(16, ratio=0.25, alpha_bits=4, selection=selection)(layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(inputs, x))
    data = to_tflite(model, "onthefly", "int4")
    reference = verify.random_inputs(model)
    expected = np.asarray(model(reference[0]))
    _, relative = verify.difference([expected], verify.run_file(model, expand(data), reference))
    assert relative < TOLERANCE
    file = load(data)
    alpha = file.subgraphs[0].tensors[file.subgraphs[0].operators[0].inputs[1]]
    rounded = np.asarray(model.get_layer("conv").rounded_coefficients)
    levels = rounded / np.abs(rounded).max(0) * 7 * np.sign(np.asarray(model.get_layer("norm").gamma))
    columns = np.argsort(model.get_layer("conv").codes)
    np.testing.assert_array_equal(integers(file, alpha), np.rint(levels[columns].T))


@pytest.mark.parametrize("quantize, bits", [("int4", 4), ("weights", None)])
def test_files_hold_the_levels_of_layers_with_steps(quantize, bits):
    inputs = keras.Input((8, 8, 16))
    x = DBFConv2D(32, 3, ratio=0.5, alpha_bits=bits, alpha_step=0.6, use_bias=False, name="conv")(inputs)
    model = keras.Model(inputs, layers.ReLU()(layers.BatchNormalization(name="norm")(x)))
    model.get_layer("norm").gamma.assign(np.random.default_rng(0).standard_normal(32))
    data = to_tflite(model, "onthefly", quantize)
    file = load(data)
    alpha = file.subgraphs[0].tensors[file.subgraphs[0].operators[0].inputs[1]]
    layer = model.get_layer("conv")
    held = np.asarray(layer.coefficients) / np.asarray(layer.steps)
    stored = integers(file, alpha).T[np.argsort(np.argsort(layer.codes))]
    signs = np.sign(np.asarray(model.get_layer("norm").gamma))
    assert np.abs(stored * signs - held).max() < 0.75  # Half a step, and 3 % of a rounded step.
    expected = np.asarray(model(verify.random_inputs(model)[0]))
    _, relative = verify.difference([expected], verify.run_file(model, expand(data), verify.random_inputs(model)))
    assert relative < TOLERANCE


def test_steps_are_found_exactly_or_not_at_all():
    rng = np.random.default_rng(0)
    levels = rng.integers(-9, 10, (40, 30)).astype(np.int8)
    levels[3] = 0
    scales = rng.uniform(0.01, 3, 40).astype(np.float32)
    weights = levels * scales[:, None]
    values, steps = quantization.to_int8(weights, 0)
    multiples = np.abs(levels[:, :, None]).max((1, 2)) / np.maximum(1, np.abs(values).max(1))  # A common divisor.
    np.testing.assert_array_equal(values * multiples[:, None], levels)
    noisy = weights + rng.normal(0, 1e-3, weights.shape).astype(np.float32) * scales[:, None]
    assert np.abs(np.delete(quantization.to_int8(noisy, 0)[0], 3, 0)).max(1).min() == 127


@pytest.mark.parametrize("mode", ["explicit", "folded", "onthefly"])
def test_files_compute_what_their_int8_weights_say(model, mode):
    data = to_tflite(model, mode, "weights")
    standard = expand(data)
    inputs = verify.random_inputs(model)
    reference = verify.run_file(model, expand(dequantized(data)), inputs)
    for runtime in ("litert", "tf"):
        _, relative = verify.difference(reference, verify.run_file(model, standard, inputs, runtime=runtime))
        assert relative < TOLERANCE


@needs_library
@pytest.mark.parametrize("quantize", ["weights", "int4"])
def test_the_library_reads_integer_coefficients(model, quantize):
    data = to_tflite(model, "onthefly", quantize)
    inputs = verify.random_inputs(model)
    reference = verify.run_file(model, expand(data), inputs)
    _, relative = verify.difference(reference, verify.run_file(model, data, inputs))
    assert relative < TOLERANCE


def test_standard_ops_dequantize_and_ours_read_int8(model):
    data = to_tflite(model, "onthefly", "weights")
    assert ops(data) == [
        *["DEQUANTIZE"] * 3,  # DEPTHWISE_CONV_2D, CONV_2D and the last FULLY_CONNECTED.
        "DBFConv2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "MEAN",
        "DBFDense",
        "FULLY_CONNECTED",
    ]
    file = load(data)
    graph = file.subgraphs[0]
    alphas = [graph.tensors[op.inputs[1]] for op in graph.operators if op.customOptions is not None]
    assert [alpha.type for alpha in alphas] == [schema.TensorType.INT8, schema.TensorType.FLOAT32]
    assert len(alphas[0].quantization.scale) == 32


@needs_library
@pytest.mark.parametrize("mode", ["explicit", "folded", "onthefly"])
@pytest.mark.parametrize("runtime", ["litert", "tf"])
def test_float16_is_half_the_bytes_and_the_rounded_weights(mode, runtime):
    model = randomize(networks.build("dbfnet_micro", ratio=0.25, classifier_activation=None))
    single, data = (to_tflite(model, mode, quantize) for quantize in (None, "float16"))
    assert len(data) < 0.62 * len(single)
    file = load(data)
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            if tensor.type == schema.TensorType.FLOAT16:
                assert tensor.quantization is None or tensor.quantization.scale is None
    kinds = [graph.tensors[op.inputs[1]].type for op in graph.operators if op.customOptions is not None]
    assert kinds == [schema.TensorType.FLOAT16] * len(kinds) and bool(kinds) == (mode == "onthefly")
    inputs = verify.random_inputs(model)
    reference = verify.run_file(model, rounded(single), inputs, runtime=runtime)
    _, relative = verify.difference(reference, verify.run_file(model, data, inputs, runtime=runtime))
    assert relative < TOLERANCE


def rounded(data):
    """A float32 file whose weights, but no small ones of standard ops, are rounded to float16."""
    model = flatfile.load(data)
    for graph in model.subgraphs:
        for operator in graph.operators:
            tensor = graph.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
            values = None if tensor is None else flatfile.constant(model, tensor)
            is_ours = operator.customOptions is not None
            if values is not None and operator.builtinOptionsType in WITH_WEIGHTS and (is_ours or values.size > 128):
                buffer = schema.BufferT()
                buffer.data = values.astype(np.float16).astype(np.float32).ravel().view(np.uint8)
                model.buffers.append(buffer)
                tensor.buffer = len(model.buffers) - 1
    return flatfile.dump(model)


WITH_WEIGHTS = (
    schema.BuiltinOptions.NONE,
    schema.BuiltinOptions.Conv2DOptions,
    schema.BuiltinOptions.DepthwiseConv2DOptions,
    schema.BuiltinOptions.FullyConnectedOptions,
)


def test_large_networks_are_half_the_bytes_in_float16():
    model = networks.build("resnet18", ratio=0.25)
    for mode in ("explicit", "onthefly", "folded"):
        single = to_tflite(model, mode)
        result = convert(model, mode, "float16", check=False)
        assert 0.5 < len(result.data) / len(single) < 0.53
        stored = sum(
            len(load(result.data).buffers[tensor.buffer].data)
            for tensor in load(result.data).subgraphs[0].tensors
            if tensor.type == schema.TensorType.FLOAT16
        )
        assert stored <= sum(layer.bytes_file for layer in (*result.layers, *result.ordinary)) <= 1.05 * stored


def test_weights_beyond_float16_stay_float32():
    inputs = keras.Input((8, 8, 16))
    layer = DBFConv2D(8, 3, ratio=0.5)
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([1e9 * weights for weights in layer.get_weights()])
    for mode in ("explicit", "onthefly"):
        data = to_tflite(model, mode, "float16")
        assert all(tensor.type != schema.TensorType.FLOAT16 for tensor in load(data).subgraphs[0].tensors)
    assert convert(model, "explicit", "float16").relative_difference < TOLERANCE


def test_the_folded_projection_stays_exact():
    inputs = keras.Input((8, 8, 64))
    model = keras.Model(inputs, DBFConv2D(32, 3, ratio=0.25, selection="ovsf")(inputs))
    file = load(to_tflite(model, "folded", "weights"))
    graph = file.subgraphs[0]
    projection = next(t for t in graph.tensors if t.type == schema.TensorType.INT8 and list(t.shape) == [16, 1, 1, 64])
    assert np.all(np.float32(projection.quantization.scale) == 1)
    stored = file.buffers[projection.buffer].data.view(np.int8)
    assert set(stored.tolist()) == {-1, 1}


def test_weights_that_would_not_get_smaller_stay_float():
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Conv2D(16, 3)(inputs))
    assert to_tflite(model, "explicit", "weights") == flatfile.dump(flatfile.load(to_tflite(model, "explicit")))


def test_weights_used_twice_are_dequantized_once():
    inputs = keras.Input((8, 8, 16))
    layer = layers.Conv2D(16, 3, padding="same")
    data = to_tflite(keras.Model(inputs, layer(layer(inputs))), "explicit", "weights")
    assert ops(data) == ["DEQUANTIZE", "CONV_2D", "CONV_2D"]


@pytest.mark.parametrize("form", ["direct", "standard"])
def test_stored_bytes_is_what_a_tensor_takes(form):
    inputs = keras.Input((8, 8, 32))
    model = keras.Model(inputs, DBFConv2D(32, 3, ratio=1 if form == "standard" else 0.5, use_bias=False)(inputs))
    file = load(to_tflite(model, "explicit" if form == "standard" else "onthefly", "weights"))
    tensor = next(t for t in file.subgraphs[0].tensors if t.type == schema.TensorType.INT8)
    scales = np.asarray(tensor.quantization.scale, np.float32)
    held = len(file.buffers[tensor.buffer].data) + scales.nbytes
    size = int(np.prod(tensor.shape))
    assert held == quantization.stored_bytes(size, 32, "weights", form == "direct")
    assert quantization.stored_bytes(size, 32, None, True) == 4 * size
    if form == "direct":
        assert values(file, tensor).shape == (32, 144)
