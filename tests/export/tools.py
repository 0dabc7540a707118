"""What the tests of the exporter share: small models, a look into files, and a decoder of ``export/FORMAT.md``.

The decoder is written from the format's text alone: it turns our ops back into standard ones, filter by filter from the
definition of a code. What it computes is what the C library must compute, and needs no C library.
"""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from dbf_keras import runtime
from dbf_keras.backend import keras

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


def options(operator):
    """A custom op's options."""
    return flexbuffers.Loads(bytes(operator.customOptions))


def values(model, tensor):
    """The real values of a constant tensor."""
    if tensor.type == schema.TensorType.FLOAT32:
        return model.buffers[tensor.buffer].data.view(np.float32).reshape(tensor.shape)
    assert tensor.type == schema.TensorType.INT8
    assert not np.any(tensor.quantization.zeroPoint) and tensor.quantization.quantizedDimension == 0
    stored = model.buffers[tensor.buffer].data.view(np.int8).reshape(tensor.shape)
    return stored * np.float32(tensor.quantization.scale)[:, None]


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

    for graph in model.subgraphs:
        for operator in graph.operators:
            custom = model.operatorCodes[operator.opcodeIndex].customCode
            if custom not in (b"DBFConv2D", b"DBFDense"):
                continue
            given = options(operator)
            dense = custom == b"DBFDense"
            assert given.pop("version") == 1
            shape = (
                [1, 1, given.pop("channels")] if dense else [given.pop(k) for k in ("kernel_h", "kernel_w", "channels")]
            )
            alpha = values(model, graph.tensors[operator.inputs[1]])
            weights = filters(alpha, given.pop("codes"), *shape)
            buffer, tensor = schema.BufferT(), schema.TensorT()
            buffer.data = weights.ravel().view(np.uint8)
            model.buffers.append(buffer)
            tensor.name, tensor.buffer = "filters", len(model.buffers) - 1
            tensor.shape = [len(alpha), shape[2]] if dense else list(weights.shape)
            graph.tensors.append(tensor)
            operator.inputs = [operator.inputs[0], len(graph.tensors) - 1, *operator.inputs[2:]]
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
            assert not given, f"keys that the format does not have: {given}"
            operator.builtinOptions, operator.customOptions = standard, None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
