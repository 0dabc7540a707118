"""Tests of the native op: its C tests under sanitizers, and the built library inside a TFLite interpreter."""

import importlib.util
import os
import pathlib
import shutil
import subprocess

import flatbuffers
import numpy as np
import pytest
from flatbuffers import flexbuffers

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

EXPORT = pathlib.Path(__file__).parents[1] / "export"
SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)


def library():
    """The built library, or skips the test."""
    spec = importlib.util.find_spec("dbf_keras._dbf_op")
    if spec is None:
        pytest.skip("the native op is not built: pip install -e .")
    return spec.origin


def parity(a, b):
    """(-1)^popcount(a & b) for arrays of small integers."""
    return 1 - 2 * (np.bitwise_count(np.asarray(a)[:, None] & np.asarray(b)[None, :]) & 1).astype(np.float64)


def filters(alpha, codes, kernel, channels):
    """The filters [kh, kw, C, K] that coefficients [K, n] of sorted grid codes stand for."""
    kh, kw = kernel
    grid = np.zeros((len(alpha), kh * kw * channels))
    grid[:, codes] = alpha
    grid = grid.reshape(-1, kh, kw, channels)
    h = [parity(range(size), range(size)) for size in (kh, kw, channels)]
    return np.einsum("kuvw,uy,vx,wc->yxck", grid, *h, optimize=True)


def code_blob(codes, size):
    bits = np.zeros(-(-size // 8) * 8, np.uint8)
    bits[codes] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def flexbuffer(options):
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, value in options.items():
            if isinstance(value, bytes):
                builder.Key(key)
                builder.Blob(value)
            else:
                builder.Add(key, value)
    return bytes(builder.Finish())


class Conv:
    """A DBFConv2D node with random coefficients."""

    name = b"DBFConv2D"

    def __init__(self, channels, filters=5, kernel=(3, 3), ratio=0.3, bias=True, int8=None, seed=0, codes=None,
                 strides=(1, 1), dilation=(1, 1), padding=SAME, activation=NONE):
        rng = np.random.default_rng(seed)
        self.kernel, self.channels, self.filters = kernel, channels, filters
        self.grid = kernel[0] * kernel[1] * channels
        if codes is None:
            codes = rng.choice(self.grid, max(1, round(ratio * self.grid)), replace=False)
        self.codes = np.sort(np.asarray(codes))
        self.alpha = (rng.standard_normal((filters, len(self.codes))) / np.sqrt(self.grid * len(self.codes))).astype("f")
        self.bias = rng.standard_normal(filters).astype("f") if bias else None
        self.scales = None
        if int8 is not None:
            axis = 1 if int8 == "per-filter" else None
            self.scales = np.atleast_1d(np.abs(self.alpha).max(axis=axis)).astype("f") / 127
            self.alpha = np.round(self.alpha / self.scales.reshape(-1, 1)).astype(np.int8)
        self.strides, self.dilation, self.padding, self.activation = strides, dilation, padding, activation
        self.options = self.default_options()
        self.raw_options = None

    def default_options(self):
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.strides, self.dilation
        return dict(version=1, channels=self.channels, activation=self.activation,
                    codes=code_blob(self.codes, self.grid), kernel_h=kh, kernel_w=kw, stride_h=sh, stride_w=sw,
                    dilation_h=dh, dilation_w=dw, padding=self.padding)

    def activate(self, y):
        low, high = {NONE: (-np.inf, np.inf), RELU: (0, np.inf), RELU_N1_TO_1: (-1, 1), RELU6: (0, 6)}[self.activation]
        return np.clip(y, low, high)

    def weights(self):
        alpha = self.alpha.astype(np.float64)
        if self.scales is not None:
            alpha = alpha * self.scales.astype(np.float64).reshape(-1, 1)
        return filters(alpha, self.codes, self.kernel, self.channels)

    def reference(self, x):
        weights = self.weights()
        out, padded = [], []
        for size, k, s, d in zip(x.shape[1:3], self.kernel, self.strides, self.dilation):
            extent = (k - 1) * d + 1
            n = -(-size // s) if self.padding == SAME else (size - extent) // s + 1
            total = max(0, (n - 1) * s + extent - size) if self.padding == SAME else 0
            out.append(n)
            padded.append((total // 2, total - total // 2))
        x = np.pad(x.astype(np.float64), [(0, 0), *padded, (0, 0)])
        y = np.zeros((len(x), *out, self.filters))
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                top, left = i * self.dilation[0], j * self.dilation[1]
                window = x[:, top:top + (out[0] - 1) * self.strides[0] + 1:self.strides[0],
                           left:left + (out[1] - 1) * self.strides[1] + 1:self.strides[1]]
                y += window @ weights[i, j]
        return self.activate(y + (0 if self.bias is None else self.bias))


class Dense(Conv):
    """A DBFDense node with random coefficients."""

    name = b"DBFDense"

    def __init__(self, channels, filters=5, keep_num_dims=0, **kwargs):
        self.keep_num_dims = keep_num_dims
        super().__init__(channels, filters, kernel=(1, 1), **kwargs)

    def default_options(self):
        return dict(version=1, channels=self.channels, activation=self.activation,
                    codes=code_blob(self.codes, self.grid), keep_num_dims=self.keep_num_dims)

    def reference(self, x):
        y = x.reshape(-1, self.channels).astype(np.float64) @ self.weights()[0, 0]
        y = self.activate(y + (0 if self.bias is None else self.bias))
        return y.reshape(*x.shape[:-1], self.filters) if self.keep_num_dims else y


def model(nodes, input_shape, signature=None, absent_bias="-1"):
    """The bytes of a .tflite file that runs `nodes` one after the other."""
    m, graph = schema.ModelT(), schema.SubGraphT()
    m.version, m.buffers, m.operatorCodes, m.subgraphs = 3, [schema.BufferT()], [], [graph]
    graph.tensors, graph.operators, graph.name = [], [], b"main"

    def tensor(shape, value=None, scales=None):
        t = schema.TensorT()
        t.shape, t.type, t.name, t.buffer = list(shape), schema.TensorType.FLOAT32, b"t%d" % len(graph.tensors), 0
        if value is not None:
            b = schema.BufferT()
            b.data = np.frombuffer(value.tobytes(), np.uint8)
            m.buffers.append(b)
            t.buffer = len(m.buffers) - 1
            t.type = schema.TensorType.INT8 if value.dtype == np.int8 else schema.TensorType.FLOAT32
        if scales is not None:
            t.quantization = schema.QuantizationParametersT()
            t.quantization.scale, t.quantization.zeroPoint = scales, np.zeros(len(scales), np.int64)
            t.quantization.quantizedDimension = 0
        graph.tensors.append(t)
        return len(graph.tensors) - 1

    last = tensor(input_shape)
    graph.inputs = [last]
    if signature is not None:
        graph.tensors[last].shapeSignature = list(signature)
    x = np.zeros(input_shape)
    for node in nodes:
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode, code.version = node.name, 1
        m.operatorCodes.append(code)
        op.opcodeIndex = len(m.operatorCodes) - 1
        inputs = [last, tensor(node.alpha.shape, node.alpha, node.scales)]
        if node.bias is not None:
            inputs.append(tensor(node.bias.shape, node.bias))
        elif absent_bias == "-1":
            inputs.append(-1)
        x = node.reference(x)
        last = tensor(x.shape)
        op.inputs, op.outputs = inputs, [last]
        options = flexbuffer(node.options) if node.raw_options is None else node.raw_options
        op.customOptions = np.frombuffer(options, np.uint8) if options else None
        op.customOptionsFormat = schema.CustomOptionsFormat.FLEXBUFFERS
        graph.operators.append(op)
    graph.outputs = [last]
    builder = flatbuffers.Builder(1024)
    builder.Finish(m.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def runtimes():
    """The (Interpreter, load_delegate) of each TFLite runtime that is installed, by name."""
    found = {}
    for module in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite"):
        if importlib.util.find_spec(module.split(".")[0]) is not None:
            found[module.split(".")[0]] = module
    return found


@pytest.fixture(params=sorted(runtimes()))
def interpreter(request):
    """A function that makes an interpreter, with the op, of each runtime in turn."""
    module = pytest.importorskip(runtimes()[request.param])
    load = getattr(module, "load_delegate", None) or module.experimental.load_delegate

    def make(content, num_threads=1, isa=None):
        delegate = load(library(), {"isa": isa} if isa else {})
        return module.Interpreter(model_content=content, num_threads=num_threads, experimental_delegates=[delegate])

    return make


def run(it, x, resize=False):
    index = it.get_input_details()[0]["index"]
    if resize:
        it.resize_tensor_input(index, x.shape)
    it.allocate_tensors()
    it.set_tensor(index, x)
    it.invoke()
    return it.get_tensor(it.get_output_details()[0]["index"])


def random(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype("f")
