"""What the tests of the exporter share: small models, a look into files, and a decoder of ``export/FORMAT.md``.

The decoder is written from the format's text alone: it turns our ops back into standard ones, filter by filter from the
definition of a code. What it computes is what the C library must compute, and needs no C library.
"""

import math

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from dbf_keras import runtime
from dbf_keras.backend import keras

from . import coded_format

layers = keras.layers

needs_library = pytest.mark.skipif(runtime.library_path() is None, reason="the op's C library is not built")

# Float32 on both sides: what is left is the order of additions.
TOLERANCE = 1e-5


def randomize(model, seed=0):
    """Makes biases and BatchNorm random, so that no bias is zero and no BatchNorm the identity or only positive."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if hasattr(layer, "layers"):
            randomize(layer, seed + 1)
        elif isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = (random.standard_normal(w.shape) for w in layer.get_weights())
            layer.set_weights([gamma, beta, mean, np.abs(variance) + 0.5])
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(random.standard_normal(layer.bias.shape))
    return model


def load(data):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def ops(data):
    """The names of the ops of the main graph, in order."""
    model = load(data)
    builtins = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in model.subgraphs[0].operators]
    return [code.customCode.decode() if code.customCode else builtins[code.builtinCode] for code in codes]


_GEOMETRY = ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "padding")


def options(operator):
    """A custom op's options; those of version 2 by the names of version 1, and ``filters``."""
    given = flexbuffers.Loads(bytes(operator.customOptions))
    if isinstance(given, dict):
        return given
    kind = _GEOMETRY if len(given) > 6 else ("keep_num_dims",)
    names = ("version", "filters", "channels", "activation", *kind, "part")
    return dict(zip(names, given, strict=True))


def coded_layer(model, graph, operator):
    """The coded layer of an op of version 2."""
    given, tensor = options(operator), graph.tensors[operator.inputs[1]]
    assert given["version"] == 2 and len(operator.inputs) == 2 and tensor.type == schema.TensorType.UINT8
    assert len(tensor.shape) == 1 and tensor.quantization is None
    kernel = given.get("kernel_h", 1), given.get("kernel_w", 1)
    part = coded_format.part(model.buffers[tensor.buffer].data, given["part"])
    return coded_format.read(part, *kernel, given["channels"], given["filters"])


def bitmap(kept, taps):
    """Kept codes as version 1's option ``codes``."""
    return sum(1 << g for g in kept).to_bytes(-(-taps // 8), "little")


def values(model, tensor):
    """The real values of a constant tensor."""
    floats = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}
    if tensor.type in floats:
        return model.buffers[tensor.buffer].data.view(floats[tensor.type]).reshape(tensor.shape).astype(np.float32)
    assert tensor.type in (schema.TensorType.INT8, schema.TensorType.INT4)
    assert not np.any(tensor.quantization.zeroPoint) and tensor.quantization.quantizedDimension == 0
    return integers(model, tensor) * np.float32(tensor.quantization.scale)[:, None]


def filters(alpha, codes, kh, kw, channels):
    """The filters [K, kh, kw, C] of the format: from α [K, n], the bitmap of codes and the definition of a code."""
    kept = [g for g in range(kh * kw * channels) if codes[g >> 3] >> (g & 7) & 1]
    assert alpha.shape[1] == len(kept) and len(codes) == -(-kh * kw * channels // 8)
    popcount = np.bitwise_count
    y, x, c = np.indices((kh, kw, channels))
    result = np.zeros((len(alpha), kh, kw, channels))
    for column, g in enumerate(kept):
        u, v, w = g // channels // kw, g // channels % kw, g % channels
        result += alpha[:, column, None, None, None] * (-1.0) ** (popcount(u & y) + popcount(v & x) + popcount(w & c))
    return result.astype(np.float32)


def expand(data):
    """A file with our ops replaced by the standard ones that compute the same."""
    model = load(data)
    codes = {}

    def builtin(code):
        if code not in codes:
            added = schema.OperatorCodeT()
            added.builtinCode = added.deprecatedBuiltinCode = code
            model.operatorCodes.append(added)
            codes[code] = len(model.operatorCodes) - 1
        return codes[code]

    def add(graph, name, numbers):
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = numbers.ravel().view(np.uint8)
        model.buffers.append(buffer)
        tensor.name, tensor.buffer, tensor.shape = name, len(model.buffers) - 1, list(numbers.shape)
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    for graph in model.subgraphs:
        for operator in graph.operators:
            custom = model.operatorCodes[operator.opcodeIndex].customCode
            if custom not in (b"DBFConv2D", b"DBFDense"):
                continue
            given = options(operator)
            dense = custom == b"DBFDense"
            inputs = list(operator.inputs)
            shape = (
                [1, 1, given.pop("channels")] if dense else [given.pop(k) for k in ("kernel_h", "kernel_w", "channels")]
            )
            if given["version"] == 2:
                held = coded_layer(model, graph, operator)
                alpha = np.multiply(held.levels, np.array(held.steps)[:, None])
                kept = bitmap(held.kept, int(np.prod(shape)))
                bias = np.zeros(given["filters"]) if held.bias is None else held.bias
                inputs = [inputs[0], None, add(graph, "bias", bias.astype(np.float32))]
            else:
                alpha, kept = values(model, graph.tensors[inputs[1]]), given.pop("codes")
            assert given.pop("version") in (1, 2)
            weights = filters(alpha, kept, *shape)
            inputs[1] = add(graph, "filters", weights.reshape(-1, shape[2]) if dense else weights)
            operator.inputs = inputs
            standard = schema.FullyConnectedOptionsT() if dense else schema.Conv2DOptionsT()
            standard.fusedActivationFunction = given.pop("activation")
            if dense:
                standard.keepNumDims = bool(given.pop("keep_num_dims"))
                operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
                operator.opcodeIndex = builtin(schema.BuiltinOperator.FULLY_CONNECTED)
            else:
                standard.padding = given.pop("padding")
                standard.strideH, standard.strideW = given.pop("stride_h"), given.pop("stride_w")
                standard.dilationHFactor, standard.dilationWFactor = given.pop("dilation_h"), given.pop("dilation_w")
                operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
                operator.opcodeIndex = builtin(schema.BuiltinOperator.CONV_2D)
            for key in ("filters", "part"):
                given.pop(key, None)
            assert not given, f"keys that the format does not have: {given}"
            operator.builtinOptions, operator.customOptions = standard, None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# The int8 ops, by definition: from the section "Int8 ops" of the format's text alone, all in int64.


def _sign(index, position):
    return 1 - 2 * (np.bitwise_count(index & position).astype(np.int64) & 1)


def _code_numbers(q, wanted, group):
    """p_w of pixels [..., C] for the wanted channel codes, in groups of ``group`` channels if that is not 0."""
    channels = q.shape[-1]
    if group:
        return np.stack([q[..., first : first + group].sum(-1) for first in wanted], -1)
    if channels <= 256:
        return np.stack([(q * _sign(w, np.arange(channels))).sum(-1) for w in wanted], -1)
    length = 1 << (channels - 1).bit_length()
    p = np.concatenate([q, np.zeros((*q.shape[:-1], length - channels), np.int64)], -1)
    for bit in range(length.bit_length() - 1):
        lower = np.array([c for c in range(length) if not c >> bit & 1])
        a, b = p[..., lower], p[..., lower + (1 << bit)]
        if bit >= 8:
            a, b = a >> 1, b >> 1
        p = p.copy()
        p[..., lower], p[..., lower + (1 << bit)] = a + b, a - b
    return p[..., wanted]


def _feature(p, shift, zero_point):
    rounding = (1 << shift) >> 1
    return np.clip(np.clip(p + rounding + zero_point * 2**shift, -32768, 32767) >> shift, -128, 127)


def multiply_by_quantized_multiplier(acc, real):
    """TFLite's reference requantisation, rounding twice, of int64 accumulators by a real multiplier."""
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        multiplier = shift = 0
    product = (acc << max(shift, 0)) * multiplier
    product += np.where(product >= 0, 2**30, 1 - 2**30)
    high = np.sign(product) * (np.abs(product) >> 31)  # Division that truncates.
    right = max(-shift, 0)
    remainder = high & ((1 << right) - 1)
    return (high >> right) + (remainder > (((1 << right) - 1) >> 1) + (high < 0))


def _windows(p, outside, given):
    """What each tap of each output pixel sees: [N, Ho, Wo, kh, kw, |W|]."""
    kernel, padded, outputs = (given["kernel_h"], given["kernel_w"]), [(0, 0)], []
    for axis, side in enumerate("hw"):
        size, stride = p.shape[1 + axis], given[f"stride_{side}"]
        span = (kernel[axis] - 1) * given[f"dilation_{side}"] + 1
        same = given["padding"] == 0
        outputs.append(-(-size // stride) if same else (size - span) // stride + 1)
        total = max((outputs[axis] - 1) * stride + span - size, 0) if same else 0
        padded.append((total // 2, total - total // 2))
    canvas = np.empty((len(p), *(p.shape[1 + a] + sum(padded[1 + a]) for a in (0, 1)), p.shape[-1]), np.int64)
    canvas[...] = outside
    canvas[:, padded[1][0] :, padded[2][0] :][:, : p.shape[1], : p.shape[2]] = p
    result = np.empty((len(p), *outputs, *kernel, p.shape[-1]), np.int64)
    for y, x in np.ndindex(*kernel):
        top, left = y * given["dilation_h"], x * given["dilation_w"]
        rows = top + np.arange(outputs[0]) * given["stride_h"]
        columns = left + np.arange(outputs[1]) * given["stride_w"]
        result[:, :, :, y, x] = canvas[:, rows][:, :, columns]
    return result


def _pool(windows, kept, zero_point, scale, rounding):
    """Windows of the pooled sums, and codes, size, zero point and scale of what is left over them."""
    *rest, kh, kw, channels = windows.shape
    taps = [divmod(g // channels, kw) for g in kept]
    vertical, horizontal = (
        math.gcd(side, *numbers, 1 << 10) for side, numbers in zip((kh, kw), zip(*taps, strict=True), strict=True)
    )
    assert 1 < vertical * horizontal <= 128
    shift, zero = rounding
    assert 0 <= shift <= 8
    grid = windows.reshape(*rest, kh // vertical, vertical, kw // horizontal, horizontal, channels)
    sums = (grid - zero_point).sum((-4, -2))
    kh, kw = kh // vertical, kw // horizontal
    left = [
        (u // vertical * kw + v // horizontal) * channels + g % channels for (u, v), g in zip(taps, kept, strict=True)
    ]
    numbers = np.clip(zero + ((sums + ((1 << shift) >> 1)) >> shift), -128, 127)
    return numbers, left, kh, kw, zero, float(scale) * 2**shift


def _int8_coefficients(layer, kept, shape, full, group, shifts):
    """c [K, n] of a coded layer, from the section "What levels mean": whole numbers until the last division."""
    kh, kw, channels = shape
    taps = [(g // channels // kw, g // channels % kw, g % channels) for g in kept]
    result = np.zeros((len(layer.levels), len(kept)), np.int64)
    for k, row in enumerate(layer.levels):
        d = []
        for (y, x, w), whole, level, shift in zip(taps, full, row, shifts, strict=True):
            if whole:
                level = 0
                for (u, v, other), each in zip(taps, row, strict=True):
                    if other == w or group:
                        sign = _sign(u, np.int64(y)) * _sign(v, np.int64(x))
                        level += int(each * sign * (_sign(other // group, np.int64(w // group)) if group else 1))
            d.append(level * 2.0**shift)
        largest = max(map(abs, d))
        peak = 127 if layer.peaks is None else layer.peaks[k]
        result[k] = [round(peak * number / largest) if largest else 0 for number in d]
    return result


def _int8_op(model, graph, operator, x):
    given, dense = options(operator), model.operatorCodes[operator.opcodeIndex].customCode == b"DBFDense"
    source, target = (graph.tensors[indices[0]].quantization for indices in (operator.inputs, operator.outputs))
    [s_x], [z_x], [s_y], [z_y] = source.scale, source.zeroPoint, target.scale, target.zeroPoint
    channels, shape = given["channels"], x.shape
    if dense:
        x = x.reshape(-1, 1, 1, channels)
        given = dict.fromkeys(("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"), 1) | given
        given["padding"] = 0
    kh, kw = given["kernel_h"], given["kernel_w"]
    layer = None
    if given["version"] == 2:
        layer = coded_layer(model, graph, operator)
        given |= {"codes": bitmap(layer.kept, kh * kw * channels), "features": layer.features}
        given |= {} if layer.sums is None else {"sums": layer.sums}
    kept = [g for g in range(kh * kw * channels) if given["codes"][g >> 3] >> (g & 7) & 1]
    x = _windows(x.astype(np.int64), z_x, given)
    if "sums" in given:
        x, kept, kh, kw, z_x, s_x = _pool(x, kept, z_x, s_x, np.frombuffer(given["sums"], np.int8).tolist())
    wanted = sorted({g % channels for g in kept})
    full = {w: sum(g % channels == w for g in kept) == kh * kw for w in wanted}
    group = 1
    while all(w % (2 * group) == 0 for w in wanted) and group < channels:
        group *= 2
    if not all(full.values()) or wanted != list(range(0, channels, group)):
        group = 0

    # The option's roundings: by channel code or, for partial ones, by code.
    roundings = np.frombuffer(given["features"], np.int8).astype(np.int64).reshape(-1, 3).tolist()
    if group:
        [one] = roundings
        by_channel = dict.fromkeys(wanted, one)
    else:
        by_channel = {w: roundings.pop(0) for w in wanted}
    by_code = {g: by_channel[g % channels] if full[g % channels] else roundings.pop(0) for g in kept}
    assert group or not roundings

    outside = _code_numbers(np.full(channels, z_x, np.int64), wanted, group)
    p = _code_numbers(x, wanted, group) - outside
    bound = 32767 // (kh * kw)
    features = []
    for g in kept:
        u, v, w = g // channels // kw, g // channels % kw, g % channels
        column, (shift, zero_point, exponent) = p[..., wanted.index(w)], by_code[g]
        assert 0 <= shift <= (16 if group else 8) and 0 <= exponent <= 15
        if group:
            half = (1 << shift) >> 1
            f = np.clip((column[..., u, v] + half + zero_point * 2**shift) >> shift, -128, 127)
        elif full[w]:
            f = _feature(column[..., u, v], shift, zero_point)
        else:
            a, *rest = by_channel[w]
            assert 0 <= a <= 8 and rest == [0, 0]
            t = np.clip(np.clip(column + ((1 << a) >> 1), -32768, 32767) >> a, -bound, bound)
            signs = _sign(u, np.arange(kh))[:, None] * _sign(v, np.arange(kw))
            f = _feature((signs * t).sum((-2, -1)), shift, zero_point)
        features.append((f - zero_point) * 2**exponent)
    if layer is not None:
        staged = {w: 0 if full[w] else by_channel[w][0] for w in wanted}
        shifts = [by_code[g][0] - by_code[g][2] + staged[g % channels] for g in kept]
        held = _int8_coefficients(layer, kept, (kh, kw, channels), [full[g % channels] for g in kept], group, shifts)
        scales, bias = layer.steps, np.zeros(len(held), np.int64) if layer.bias is None else layer.bias
    else:
        alpha = graph.tensors[operator.inputs[1]]
        scales = np.broadcast_to(np.asarray(alpha.quantization.scale, np.float64), alpha.shape[0])
        held = integers(model, alpha)
        bias = np.zeros(len(held), np.int64)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = integers(model, graph.tensors[operator.inputs[2]])
    largest = np.array([255 * 2 ** by_code[g][2] for g in kept])
    assert np.all(np.abs(bias) + np.abs(held) @ largest < 2**31)
    acc = np.stack(features, -1) @ held.T + bias

    low, high = -128, 127
    ranges = {0: None, 1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}
    if (limits := ranges[given["activation"]]) is not None:
        # Half away from zero, of a float32 quotient.
        ends = [np.float32(end) / np.float32(s_y) for end in limits]
        ends = [z_y + np.sign(end) * np.floor(np.abs(end) + np.float32(0.5)) for end in ends]
        low, high = max(low, ends[0]), min(high, ends[1])
    result = np.empty(acc.shape, np.int8)
    for k, scale in enumerate(scales):
        real = float(s_x) * scale / float(s_y)
        assert real < 1
        result[..., k] = np.clip(z_y + multiply_by_quantized_multiplier(acc[..., k], real), low, high)
    if dense:
        return result.reshape(*shape[:-1], -1) if given["keep_num_dims"] else result.reshape(-1, len(held))
    return result


def int8_reference(data, x):
    """What the op of a file computes.

    Args:
        data: a file with one op of ours, int8; a QUANTIZE before and a DEQUANTIZE after it are left out.
        x: the op's input, int8.

    Returns:
        The op's output, int8.
    """
    model = load(data)
    graph = model.subgraphs[0]
    [operator] = [operator for operator in graph.operators if operator.customOptions is not None]
    return _int8_op(model, graph, operator, x)


def integers(model, tensor):
    """The int64 values of a constant int4, int8 or int32 tensor."""
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    if tensor.type == schema.TensorType.INT4:
        data = np.stack([data << 4, data], 1).ravel()[: np.prod(tensor.shape)].view(np.int8) >> 4
    else:
        data = data.view({schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}[tensor.type])
    return data.astype(np.int64).reshape(tensor.shape)
