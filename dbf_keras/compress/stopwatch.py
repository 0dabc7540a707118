"""How long single layers take on this machine: the op on the fly, and the standard op of the same layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.benchmark.timing import prepare, time_interleaved
from dbf_keras.export import flatfile, rewrite
from dbf_keras.export.filters import Filters
from dbf_keras.runtime import Interpreter

# Seconds of timing of a file, and files that are timed in turn.
_SECONDS, _TOGETHER = 0.06, 12

# The scale and zero point of int8 inputs and outputs.
_SCALE, _ZERO = 0.05, -3
_WINDOWS = 64


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What the time of a layer depends on, besides its codes.

    Attributes:
        shape: (kh, kw, C) of its filters.
        filters: K.
        inputs: (height, width) of its input; of a dense layer (rows, 1).
        strides: by axis.
        dilations: by axis.
        padding: ``"same"`` or ``"valid"``.
        dense: whether it is a dense layer.
    """

    shape: dbf_codes.KernelShape
    filters: int
    inputs: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "same"
    dense: bool = False

    @property
    def outputs(self) -> tuple[int, int]:
        """(height, width) of its output."""
        sizes = []
        for size, taps, stride, step in zip(self.inputs, self.shape[:2], self.strides, self.dilations, strict=True):
            less = 0 if self.padding == "same" else (taps - 1) * step
            sizes.append(-(-(size - less) // stride))
        return sizes[0], sizes[1]


# Codes that a layer keeps, ascending; None for the standard op.
Codes = np.ndarray | None


class Stopwatch:
    """Times layers, each kind once.

    Args:
        int8: whether they compute in int8, or else in float32.
        measure: takes files and returns the seconds of an inference of each; by default on this machine.
    """

    def __init__(self, int8: bool, measure: Callable[[list[bytes]], list[float]] | None = None):
        self._int8 = int8
        self._measure = measure or _on_this_machine
        self._known: dict[tuple[Geometry, bytes | None], float] = {}
        nothing = Geometry((1, 1, 1), 1, (1, 1))
        (self._least,) = self._measure([layer_file(nothing, None, int8)])

    def seconds(self, file: bytes) -> float:
        """Seconds of an inference of a whole file."""
        return self._measure([file])[0]

    def times(self, layers: Mapping[Any, Iterable[tuple[Geometry, Codes]]]) -> dict[Any, list[float]]:
        """Times layers with some choices of codes each.

        Args:
            layers: by any key, geometries with codes. Codes whose numbers are arranged alike take as long.

        Returns:
            Seconds, without what a runtime takes for any op, by key in the same order.
        """
        wanted = {(geometry, _pattern(geometry, codes)): codes for row in layers.values() for geometry, codes in row}
        missing = [key for key in wanted if key not in self._known]
        missing.sort(key=lambda key: hash(key[0]))  # Those to compare in turn.
        for start in range(0, len(missing), _TOGETHER):
            keys = missing[start : start + _TOGETHER]
            files = [layer_file(geometry, wanted[geometry, pattern], self._int8) for geometry, pattern in keys]
            self._known.update(zip(keys, self._measure(files), strict=True))
        return {
            key: [max(self._known[geometry, _pattern(geometry, codes)] - self._least, 0.0) for geometry, codes in row]
            for key, row in layers.items()
        }


def _on_this_machine(files: list[bytes]) -> list[float]:
    sides = [prepare(Interpreter(model_content=file)) for file in files]
    return [float(np.median(times)) for times in time_interleaved(sides, _SECONDS)]


def _pattern(geometry: Geometry, codes: Codes) -> bytes | None:
    """What tells sets of codes apart that take different times: how many there are, if they are separable."""
    if codes is None:
        return None
    separable = dbf_codes.separable(codes, geometry.shape)
    if separable is None:
        return codes.tobytes()
    channels = separable.channels
    group = int(np.bitwise_or.reduce(channels)) if len(channels) > 1 else 0
    return repr((separable.pool_size, len(channels), group & -group)).encode()


def layer_file(geometry: Geometry, codes: Codes, int8: bool) -> bytes:
    """A TFLite file of one layer with random coefficients, or filters."""
    random = np.random.default_rng(0)
    kept = np.arange(int(np.prod(geometry.shape))) if codes is None else codes
    alpha = random.standard_normal((geometry.filters, len(kept))) / np.prod(geometry.shape)
    layer = Filters("layer", geometry.shape, geometry.strides, geometry.dilations, alpha, kept)
    plain = _standard(geometry, layer.explicit.astype(np.float32), int8=False)
    if int8:
        model = _standard(geometry, layer.explicit.astype(np.float32), int8=True)
        if codes is not None:
            rewrite.to_int8_ops(model, plain, [layer], lambda sites: [_windows(geometry, random) for _ in sites])
    else:
        model = plain
        if codes is not None:
            rewrite.to_ops(model, [layer])
    return flatfile.dump(model)


def _windows(geometry: Geometry, random: np.random.Generator) -> np.ndarray:
    kh, kw, channels = geometry.shape
    return random.integers(-100, 100, (_WINDOWS, kh * kw, channels)).astype(np.int8)


def _standard(geometry: Geometry, filters: np.ndarray, int8: bool) -> Any:
    """``ModelT`` of a CONV_2D or FULLY_CONNECTED."""
    schema = flatfile.schema()
    model, graph, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    empty = schema.BufferT()
    empty.data = None
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [empty], []
    model.metadata, model.signatureDefs, model.description = [], [], b"layer"
    graph.tensors, graph.operators, graph.name = [], [operator], b"main"
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    if geometry.dense:
        rows, channels = geometry.inputs[0], geometry.shape[2]
        filters = filters.reshape(-1, channels)
        shapes = (rows, channels), (rows, geometry.filters)
        code, version = schema.BuiltinOperator.FULLY_CONNECTED, 4 if int8 else 1
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    else:
        shapes = (1, *geometry.inputs, geometry.shape[2]), (1, *geometry.outputs, geometry.filters)
        code, version = schema.BuiltinOperator.CONV_2D, 3 if int8 else 1
        options = operator.builtinOptions = schema.Conv2DOptionsT()
        operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
        options.padding = schema.Padding.SAME if geometry.padding == "same" else schema.Padding.VALID
        options.strideH, options.strideW = geometry.strides
        options.dilationHFactor, options.dilationWFactor = geometry.dilations
    operator.opcodeIndex = flatfile.operator_code(model, code, version)
    source, target = (_activations(model, graph, name, shape, int8) for name, shape in zip("xy", shapes, strict=True))
    bias = np.zeros(geometry.filters)
    if int8:
        largest = np.abs(filters).reshape(len(filters), -1).max(axis=1)
        scales = np.maximum(largest / 127, 1e-9)
        each = scales.reshape(-1, *[1] * (filters.ndim - 1))
        held = flatfile.add_constant(model, graph, b"w", np.rint(filters / each).astype(np.int8), scales)
        zeros = flatfile.add_constant(model, graph, b"b", bias.astype(np.int32), scales * _SCALE)
    else:
        held = flatfile.add_constant(model, graph, b"w", filters)
        zeros = flatfile.add_constant(model, graph, b"b", bias.astype(np.float32))
    operator.inputs, operator.outputs = [source, held, zeros], [target]
    graph.inputs, graph.outputs = [source], [target]
    return model


def _activations(model: Any, graph: Any, name: str, shape: tuple[int, ...], int8: bool) -> int:
    """Adds a tensor for an input or output and returns its index."""
    schema = flatfile.schema()
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name.encode(), list(shape), 0
    tensor.type = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
    if int8:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([_SCALE], np.float32)
        tensor.quantization.zeroPoint = np.array([_ZERO], np.int64)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
