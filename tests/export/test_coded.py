import dataclasses
import itertools
import pathlib
import re

import numpy as np
import pytest

from dbf_keras.backend import keras, ops
from dbf_keras.export import coded, converter, int8_op, verify
from dbf_keras.export.conversion import convert, to_tflite
from dbf_keras.export.filters import Filters
from dbf_keras.layers import DBFConv2D, DBFDense

from . import coded_format
from .tools import (
    TOLERANCE,
    _int8_coefficients,
    coded_layer,
    expand,
    int8_reference,
    layers,
    load,
    needs_library,
    options,
    randomize,
)

BIASES = {
    "none": lambda random, filters: None,
    "half": lambda random, filters: random.standard_normal(filters).astype(np.float16),
    "float32": lambda random, filters: random.standard_normal(filters).astype(np.float32),
    "three bytes": lambda random, filters: random.integers(-(1 << 23) + 1, 1 << 23, filters).astype(np.int32),
    "int32": lambda random, filters: random.integers(-(2**31), 2**31, filters).astype(np.int32),
}


def kept_codes(random, kind, shape):
    kh, kw, channels = shape
    if kind == "every":
        return np.arange(np.prod(shape))
    if kind == "product":
        spatial = random.choice(kh * kw, random.integers(1, kh * kw + 1), replace=False)
        channel = random.choice(channels, random.integers(1, channels + 1), replace=False)
        return np.sort(np.add.outer(spatial * channels, channel).ravel())
    taps = int(np.prod(shape))
    return np.sort(random.choice(taps, random.integers(1, taps + 1), replace=False))


def draw_levels(random, kind, size):
    if kind == "zeros":
        return np.zeros(size, np.int8)
    scale = {"few": 0.4, "some": 3, "many": 60}[kind]
    return np.clip(np.rint(scale * random.standard_t(2, size)), -127, 127).astype(np.int8)


def random_layer(seed, codes="any", kind="some", bias="none"):
    random = np.random.default_rng(seed)
    shape, filters = tuple(int(size) for size in random.integers(1, [5, 5, 14])), int(random.integers(1, 9))
    kept = kept_codes(random, codes, shape)
    steps = coded.short(random.standard_normal(1 if seed % 3 == 0 else filters) * 10.0 ** random.integers(-6, 6))
    int8 = bias in ("three bytes", "int32")
    return coded.CodedLayer(
        shape,
        kept,
        draw_levels(random, kind, (filters, len(kept))),
        np.broadcast_to(steps, filters),
        BIASES[bias](random, filters),
        random.integers(0, 128, filters).astype(np.uint8) if int8 and seed % 2 else None,
        random.bytes(3 * int(random.integers(1, 100))) if int8 else None,
        random.bytes(2) if int8 and seed % 4 < 2 else None,
    )


@pytest.mark.parametrize("codes", ["every", "product", "any"])
@pytest.mark.parametrize("kind", ["zeros", "few", "some", "many"])
@pytest.mark.parametrize("bias", BIASES)
def test_two_readers_read_what_was_written(codes, kind, bias):
    for seed in range(3):
        layer = random_layer(seed, codes, kind, bias)
        data = coded.encode(layer)
        own, others = (
            coded.decode(data, layer.shape, len(layer.levels)),
            coded_format.read(data, *layer.shape, len(layer.levels)),
        )
        np.testing.assert_array_equal(own.codes, layer.codes)
        assert others.kept == layer.codes.tolist()
        for name in ("levels", "steps", "bias", "peaks"):
            expected, given, text = (getattr(held, name) for held in (layer, own, others))
            if expected is None:
                assert given is None and text is None
            else:
                np.testing.assert_array_equal(given, expected)
                np.testing.assert_array_equal(text, expected)
        assert (layer.features, layer.sums) == (own.features, own.sums) == (others.features, others.sums)


def test_the_estimate_is_what_is_written():
    for seed, kind in itertools.product(range(6), ("zeros", "few", "some", "many")):
        layer = random_layer(seed, "every", kind)
        header = 2 + 2 * (1 if len(set(layer.steps)) == 1 else len(layer.steps))
        size = len(coded.encode(layer)) - header
        assert abs(coded.coded_bytes(layer.shape, layer.codes, layer.levels) - size) <= 2


def test_the_stream_is_as_short_as_the_entropy():
    random = np.random.default_rng(0)
    levels = np.rint(1.3 * random.laplace(size=(64, 1024))).astype(np.int8)
    counts = np.unique(levels, return_counts=True)[1]
    entropy = -(counts @ np.log2(counts / levels.size)) / 8
    size = coded.coded_bytes((1, 1, 1024), np.arange(1024), levels)
    assert entropy < size < 1.004 * entropy + 40


def test_spatial_codes_of_other_spread_get_tables_of_their_own():
    random = np.random.default_rng(0)
    spread = np.repeat([5.0, 0.1, 0.1, 0.1], 256)
    levels = np.rint(spread * random.laplace(size=(32, 1024))).clip(-127, 127).astype(np.int8)
    apart = coded.coded_bytes((2, 2, 256), np.arange(1024), levels)
    together = coded.coded_bytes((1, 1, 1024), np.arange(1024), levels)
    assert apart < 0.8 * together


def test_zeros_are_nearly_free():
    assert coded.coded_bytes((4, 4, 64), np.arange(1024), np.zeros((64, 1024), np.int8)) == 6
    one = np.zeros((64, 1024), np.int8)
    one[3, 700] = -2
    assert coded.coded_bytes((4, 4, 64), np.arange(1024), one) < 40


def test_steps_of_more_bits_are_refused():
    layer = dataclasses.replace(random_layer(1), steps=np.array([1 + 2**-12]))
    with pytest.raises(ValueError, match="11 significant bits"):
        coded.encode(dataclasses.replace(layer, levels=layer.levels[:1]))


def test_short_is_near_and_stays():
    random = np.random.default_rng(0)
    steps = random.lognormal(-8, 3, 1000)
    held = coded.short(steps)
    normal = steps > steps.max() * 2.0**-28
    np.testing.assert_allclose(held[normal], steps[normal], rtol=2.0**-11)
    np.testing.assert_array_equal(coded.short(held), held)


def test_damaged_layers_are_refused_or_are_other_layers():
    random = np.random.default_rng(0)
    refused = 0
    for seed in range(300):
        layer = random_layer(seed % 10, ("every", "product", "any")[seed % 3], "some", list(BIASES)[seed % 5])
        data = bytearray(coded.encode(layer))
        match seed % 3:
            case 0:
                data[random.integers(len(data))] ^= 1 << random.integers(8)
            case 1:
                del data[random.integers(len(data)) :]
            case _:
                data += random.bytes(2)
        expected = None
        try:
            expected = coded_format.read(bytes(data), *layer.shape, len(layer.levels))
        except (AssertionError, ValueError):
            pass
        if expected is None or not np.isfinite(expected.steps).all():
            refused += 1
            with pytest.raises(coded.DamagedError):
                coded.decode(bytes(data), layer.shape, len(layer.levels))
        else:
            np.testing.assert_array_equal(
                coded.decode(bytes(data), layer.shape, len(layer.levels)).levels, expected.levels
            )
    assert refused > 200


def network(**options):
    """Layers of each kind of op and set, BatchNorm with negative scales, a layer that is used twice."""
    inputs = keras.Input((12, 12, 8))
    x = DBFConv2D(8, (3, 2), strides=(2, 1), padding="same", ratio=0.3, selection="sequency", **options)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    twice = DBFConv2D(8, 4, padding="same", ratio=0.25, name="twice", **options)
    x = twice(layers.BatchNormalization()(twice(x)))
    x = DBFConv2D(6, 2, dilation_rate=(1, 2), ratio=1, use_bias=False, activation="relu6", **options)(x)
    x = DBFDense(7, ratio=0.5, activation="relu", **options)(x)
    x = layers.Conv2D(12, 3)(x)
    x = DBFDense(4, ratio=0.4, **options)(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, x))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.mark.parametrize("quantize", [None, "float16", "weights"])
@needs_library
def test_a_coded_file_computes_what_its_text_says(model, quantize):
    inputs = verify.random_inputs(model)
    data = to_tflite(model, "onthefly", quantize, True)
    decoded, outputs = (verify.run_file(model, file, inputs) for file in (expand(data), data))
    assert verify.difference(decoded, outputs)[1] < TOLERANCE
    reference = [np.asarray(output) for output in converter.run(model, inputs)]
    assert 0 < verify.difference(reference, outputs)[1] < 0.03


@needs_library
def test_trained_levels_are_in_the_file_to_the_bit():
    inputs = keras.Input((8, 8, 16))
    outputs = DBFConv2D(12, 4, ratio=0.5, alpha_step=0.7, bias_initializer="normal", name="first")(inputs)
    outputs = DBFDense(5, alpha_bits=4, name="second")(outputs)
    model = keras.Model(inputs, outputs)
    for layer in model.layers[1:]:
        layer.fix_rounding()
    data = to_tflite(model, "onthefly", None, True)
    file = load(data)
    graph = file.subgraphs[0]
    for operator, layer in zip(graph.operators, model.layers[1:], strict=True):
        held = coded_layer(file, graph, operator)
        alpha = ops.convert_to_numpy(layer.rounded_coefficients).T[:, np.argsort(layer.codes)]
        written = np.multiply(held.levels, np.array(held.steps)[:, None])
        if layer.name == "first":
            np.testing.assert_array_equal(written.astype(np.float32), alpha)
        else:  # Scales of `alpha_bits` have 24 significant bits.
            np.testing.assert_allclose(written, alpha, rtol=2.0**-11)
        np.testing.assert_array_equal(held.bias if held.bias is not None else 0 * layer.bias, layer.bias)
    values = verify.random_inputs(model)
    reference = [np.asarray(output) for output in converter.run(model, values)]
    assert verify.difference(reference, verify.run_file(model, data, values))[1] < 2.0**-10


@needs_library
@pytest.mark.parametrize("ratio, selection", [(1, "ovsf"), (0.25, "ovsf"), (0.5, "random"), (0.25, "spatial_tree")])
@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_int8_ops_compute_what_the_text_says(kernel, ratio, selection):
    inputs = keras.Input((9, 7, 16))
    model = randomize(
        keras.Model(inputs, DBFConv2D(6, kernel, padding="same", ratio=ratio, selection=selection)(inputs))
    )
    random = np.random.default_rng(0)
    samples = random.standard_normal((20, 9, 7, 16)).astype(np.float32)
    result = convert(model, "onthefly", "int8", True, representative_data=samples, io_type="int8")
    file = load(result.data)
    source, target = (
        file.subgraphs[0].tensors[index[0]] for index in (file.subgraphs[0].inputs, file.subgraphs[0].outputs)
    )
    numbers = random.integers(-128, 128, (3, 9, 7, 16)).astype(np.int8)
    expected = int8_reference(result.data, numbers)
    real = np.float32(source.quantization.scale[0]) * (numbers - np.float32(source.quantization.zeroPoint[0]))
    [outputs] = verify.run_file(model, result.data, [real])
    scale, zero = target.quantization.scale[0], target.quantization.zeroPoint[0]
    np.testing.assert_array_equal(np.rint(outputs / np.float32(scale)) + zero, expected)
    assert result.noise < 0.05


@pytest.mark.parametrize("kernel, ratio", [((3, 3), 1), ((4, 4), 0.25), ((1, 1), 0.5)])
def test_int8_coefficients_follow_from_levels(kernel, ratio):
    from dbf_keras import codes

    random = np.random.default_rng(0)
    shape = (*kernel, 12)
    kept = np.sort(codes.select(shape, ratio, "ovsf"))
    levels = random.integers(-9, 10, (5, len(kept))).astype(np.int8)
    levels[3] = 0
    steps = random.uniform(0.1, 1, 5)
    layer = Filters("layer", shape, (1, 1), (1, 1), levels * steps[:, None], kept).with_levels(levels, steps)
    windows = random.integers(-60, 120, (200, int(np.prod(kernel)), 12)).astype(np.int8)
    bias = random.standard_normal(5)
    integers = int8_op.quantize(layer, bias, int8_op.Quantization(0.05), int8_op.Quantization(0.1), windows)
    features = int8_op._Features(layer)
    if "sums" in integers.options:
        pytest.skip("the test's text of coefficients is about layers without pools")
    roundings = np.frombuffer(integers.options["features"], np.int8).reshape(-1, 3).astype(int)
    full = features.absorbed.tolist()
    assert features.group or all(full)
    shift, _, exponent = roundings[features.rounding].T
    held = coded_format.Coded(kept.tolist(), levels.tolist(), integers.scales, peaks=integers.peaks)
    expected = _int8_coefficients(held, kept.tolist(), shape, full, features.group or 0, (shift - exponent).tolist())
    np.testing.assert_array_equal(integers.coefficients, expected)
    assert not integers.coefficients[3].any() and np.abs(integers.coefficients).max() == 127
    # Levels count, and not an α that they are only near: that of an ordinary layer.
    near = dataclasses.replace(layer, alpha=layer.alpha + random.uniform(-0.4, 0.4, levels.shape) * steps[:, None])
    other = int8_op.quantize(near, bias, int8_op.Quantization(0.05), int8_op.Quantization(0.1), windows)
    np.testing.assert_array_equal(other.scales, integers.scales)
    np.testing.assert_array_equal(other.coefficients, integers.coefficients)
    np.testing.assert_array_equal(other.bias, integers.bias)


def test_options_are_a_vector(model):
    data = to_tflite(model, "onthefly", "weights", True)
    graph = load(data).subgraphs[0]
    given = [options(operator) for operator in graph.operators if operator.customOptions is not None]
    assert [entry["version"] for entry in given] == [2] * 7  # An ordinary layer is coded, too.
    assert given[0] | {} == {
        "version": 2,
        "filters": 8,
        "channels": 8,
        "activation": 1,
        "kernel_h": 3,
        "kernel_w": 2,
        "stride_h": 2,
        "stride_w": 1,
        "dilation_h": 1,
        "dilation_w": 1,
        "padding": 0,
        "part": 0,
    }
    assert given[-1] == {
        "version": 2,
        "filters": 4,
        "channels": 12,
        "activation": 0,
        "keep_num_dims": 0,
        "part": len(given) - 1,
    }


@needs_library
def test_ordinary_layers_may_stay_standard_ops(model):
    result = convert(model, "onthefly", "weights", True, ordinary_coding=False)
    custom = [operator.customOptions is not None for operator in load(result.data).subgraphs[0].operators]
    assert sum(custom) == 6 and result.relative_difference < 0.02
    assert {layer.form for layer in result.layers} == {"onthefly"}
    assert [layer.form for layer in result.ordinary] == ["ordinary"]


def test_the_report_counts_coded_bytes(model):
    result = convert(model, "onthefly", "weights", True, check=False)
    file = load(result.data)
    graph = file.subgraphs[0]
    numbers = [operator.inputs[1] for operator in graph.operators if operator.customOptions is not None]
    assert len(set(numbers)) == 1  # All layers in one tensor; the one that is used twice has two biases.
    held = file.buffers[graph.tensors[numbers[0]].buffer].data
    sizes = {len(coded_format.part(held, part)) for part in range(7)}
    reports = [*result.layers, *result.ordinary]
    assert {layer.bytes_file for layer in reports} <= sizes and "ordinary" in {layer.form for layer in reports}
    assert result.form.role == "onthefly_int8_weights_coded"


def test_the_worked_example():
    text = (pathlib.Path(__file__).parents[2] / "export" / "FORMAT.md").read_text(encoding="utf-8")
    data = bytes.fromhex(re.search(r"22 bytes:\n\n {4}([0-9a-f ]+)\n", text)[1])
    layer = coded.CodedLayer(
        (2, 2, 2),
        np.array([0, 1, 4, 5]),
        np.array([[2, 0, 0, -1], [1, 0, 5, 0]], np.int8),
        np.array([0.5, 0.375]),
        np.array([1, -2], np.float16),
    )
    assert coded.encode(layer) == data
    assert coded_format.read(data, 2, 2, 2, 2).levels == layer.levels.tolist()


def test_layers_of_zeros_have_bytes_enough_for_the_reader():
    kept, shape = np.arange(9 * 512), (3, 3, 512)
    layer = coded.CodedLayer(shape, kept, np.zeros((512, len(kept)), np.int8), np.ones(512))
    data = coded.encode(layer)
    assert max(512, 16) * len(kept) * (3 + 3 + 6) <= len(data) << 16
    assert coded.decode(data, shape, 512).steps.tolist() == [1] * 512
    few = dataclasses.replace(
        layer, shape=(1, 1, 1 << 20), codes=np.arange(1 << 20), levels=np.zeros((4, 1 << 20), np.int8)
    )
    with pytest.raises(ValueError, match="all but a few are zero"):
        coded.encode(dataclasses.replace(few, steps=np.ones(4)))


def classifier():
    inputs = keras.Input((6, 6, 8), name="image")
    x = DBFConv2D(16, 4, padding="same", ratio=1)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, DBFDense(4, activation="softmax")(x))


@pytest.mark.parametrize("quantize", ["weights", "int8"])
def test_a_file_has_no_more_bytes_than_it_may(quantize):
    model = classifier()
    random = np.random.default_rng(0)
    samples = random.standard_normal((64, 6, 6, 8)).astype(np.float32)
    limited = {"representative_data": [(samples, random.integers(4, size=64))], "labels": list("abcd")}
    free = limited if quantize == "int8" else {"labels": list("abcd")}
    whole = len(to_tflite(model, "onthefly", quantize, True, **free))
    kb = 0.85 * whole / 1000
    assert 0.9 * kb < len(to_tflite(model, "onthefly", quantize, True, max_kb=kb, **limited)) / 1000 <= kb
    with pytest.raises(ValueError, match="A file of 1 kB is too small for this model: what is not coefficients takes"):
        to_tflite(model, "onthefly", quantize, True, max_kb=1, **limited)


def test_limits_need_layers_to_choose_for():
    inputs = keras.Input((6, 6, 8))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(inputs))
    samples = np.zeros((4, 6, 6, 8), np.float32)
    with pytest.raises(ValueError, match="the model has no DBF layers"):
        to_tflite(model, "onthefly", None, True, max_loss=1, representative_data=samples)
