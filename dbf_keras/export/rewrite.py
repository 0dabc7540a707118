"""On-the-fly files: replaces convolutions and dense layers of an explicit file by the ops of ``export/FORMAT.md``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from dbf_keras.export import calibration, coded, flatfile, int8_op
from dbf_keras.export.filters import Filters

# Versions of the format: α as it is, and coded. Both are version 1 of the op, as a runtime counts.
VERSION, _CODED_VERSION = 1, 2
_ACTIVATIONS = 4  # The ops know the first activations: NONE, RELU, RELU_N1_TO_1 and RELU6.

# The converter multiplies float32 filters by the scale of a BatchNorm: a rounding or two for each tap.
_TOLERANCE = 1e-6

# Rounding to int8, which the converter does in float32.
_HALF_STEP = 0.501


@dataclasses.dataclass(frozen=True)
class Ordinary:
    """An ordinary layer, whose op stays as it is even if a DBF layer has its filters.

    Attributes:
        name: its name.
        explicit: its filters [K, kh, kw, C].
    """

    name: str
    explicit: np.ndarray

    def scaled(self, scales: np.ndarray) -> Ordinary:
        """The same with filters times one scale [K] each."""
        return dataclasses.replace(self, explicit=self.explicit * scales[:, None, None, None])


_Layer = Filters | Ordinary


class Outcome(NamedTuple):
    """What became of a layer's op.

    Attributes:
        reason: why it was not replaced; empty if it was.
        coded_bytes: of a coded layer, the bytes that the file holds it in.
    """

    reason: str = ""
    coded_bytes: int | None = None


def to_ops(model: Any, layers: Iterable[Filters | Ordinary], half_bias: bool = False) -> dict[int, Outcome]:
    """Replaces every op whose filters are those of a given layer, each scaled by any number (a folded BatchNorm).

    Ops are found by their numbers and not by their names, so a match cannot be wrong: whatever matches computes what
    was there before.

    Args:
        model: ``ModelT`` of an explicit float32 file; changed in place.
        layers: DBF layers on the code grid (``codes`` is not None), and the ordinary layers of the model.
        half_bias: coded layers hold their biases in half precision.

    Returns:
        The outcomes by position in ``layers``, for those that were found.
    """
    candidates = _candidates(layers)
    found = _Found()
    for subgraph in model.subgraphs:
        # Weights of one layer used in several places stay one tensor.
        matches: dict[int, list[_Match]] = {}
        written: dict[tuple[int, int], int] = {}
        parts = _Parts(model, subgraph)
        for operator in subgraph.operators:
            weights = _weights(model, subgraph, operator)
            if weights is None:
                continue
            source = int(operator.inputs[1])
            if source not in matches:
                matches[source] = _matches(weights, candidates)
            if not matches[source]:
                continue
            match = found.choose(matches[source], _names(subgraph, operator))
            layer, key = match.layer, (source, match.index)
            if isinstance(layer, Ordinary):
                continue
            if layer.levels is not None:
                bias = _constant_bias(model, subgraph, operator, np.float32)
                held = _coded(layer.scaled(match.scales), bias, half_bias)
                size = _replace_coded(model, operator, parts, held)
                found.note(match, matches[source], Outcome(coded_bytes=size))
                continue
            if key not in written:
                alpha = (layer.alpha * match.scales[:, None]).astype(np.float32)
                written[key] = flatfile.add_constant(model, subgraph, f"{layer.name}/alpha", alpha)
            _replace(model, operator, [operator.inputs[0], written[key], *operator.inputs[2:]], layer)
            found.note(match, matches[source], Outcome())
        parts.write()
    return found.outcomes()


def to_int8_ops(
    model: Any,
    reference: Any,
    layers: Iterable[Filters | Ordinary],
    draw: Callable[[list[calibration.Site]], list[np.ndarray]],
    int4: bool = False,
) -> dict[int, Outcome]:
    """Replaces ops of an int8 file as `to_ops` does those of a float32 file.

    Args:
        model: ``ModelT`` of an explicit int8 file; changed in place.
        reference: ``ModelT`` of the explicit float32 file, where the scales folded into the filters are found exactly.
        layers: as for `to_ops`.
        draw: typical windows of the inputs of given operators; see `calibration.draw_windows`.
        int4: write coefficients that are not coded in int4.

    Returns:
        The outcomes by position in ``layers``, for those that were found.
    """
    scaled = _scaled_layers(reference, _candidates(layers))
    graph, found = model.subgraphs[0], _Found()
    chosen: list[tuple[Any, Filters, _Match, list[_Match]]] = []
    sites = []
    for operator in graph.operators:
        weights = _weights(model, graph, operator, np.int8)
        if weights is None:
            continue
        step = np.float32(graph.tensors[operator.inputs[1]].quantization.scale).reshape(-1, 1, 1, 1)
        matches = _int8_matches(weights * step, step, scaled)
        if matches:
            match = found.choose(matches, _names(graph, operator))
            if isinstance(match.layer, Ordinary):
                continue
            chosen.append((operator, match.layer, match, matches))
            found.note(match, matches, Outcome())
            sites.append(calibration.Site.of(graph, operator))
    parts = _Parts(model, graph)
    for (operator, layer, match, matches), windows in zip(chosen, draw(sites), strict=True):
        try:
            size = _replace_int8(model, graph, operator, parts, layer, windows, int4)
            found.note(match, matches, Outcome(coded_bytes=size))
        except int8_op.CannotQuantize as error:
            found.note(match, matches, Outcome(str(error)))
    parts.write()
    return found.outcomes()


@dataclasses.dataclass(frozen=True)
class _Match:
    """A layer whose filters, times one scale each, are an op's.

    Attributes:
        index: the layer's position in the list of all.
        layer: the layer; of an int8 file, with the scales in its coefficients.
        scales: [K].
        certain: whether no filter of the layer is scaled by zero, as filters of any layer of that shape can be.
    """

    index: int
    layer: _Layer
    scales: np.ndarray
    certain: bool


class _Found:
    """Which layers were found in a file; of layers with equal filters, which of them an op stands for."""

    def __init__(self) -> None:
        self._own: dict[int, Outcome] = {}
        self._equal: dict[int, Outcome] = {}

    def choose(self, matches: list[_Match], names: str) -> _Match:
        """The layer that an op stands for: if possible one that its names tell, and that no other op stands for."""
        return min(matches, key=lambda match: (match.layer.name not in names, match.index in self._own))

    def note(self, match: _Match, matches: list[_Match], outcome: Outcome) -> None:
        """Notes that an op stands for a layer, and what became of it; of several ops, what went wrong."""
        before = self._own.get(match.index, Outcome())
        self._own[match.index] = before if before.reason else outcome
        # The converter merges ops that compute the same of the same, and so equal layers.
        self._equal.update((other.index, outcome) for other in matches if other.certain)

    def outcomes(self) -> dict[int, Outcome]:
        """By position, for layers that were found."""
        return self._equal | self._own


def _names(graph: Any, operator: Any) -> str:
    """The converter's names for an op's weights and output, which join those of layers that went into it."""
    tensors = [graph.tensors[operator.inputs[1]], graph.tensors[operator.outputs[0]]]
    return " ".join(tensor.name.decode() for tensor in tensors)


def _candidates(layers: Iterable[_Layer]) -> list[tuple[int, _Layer, np.ndarray]]:
    """All layers with their positions and the filters to match them by."""
    return [(index, layer, layer.explicit.astype(np.float32)) for index, layer in enumerate(layers)]


def _scaled_layers(model: Any, candidates: list[tuple[int, _Layer, np.ndarray]]) -> list[_Match]:
    """The layers that a float32 file holds, with what was folded into them."""
    scaled: list[_Match] = []
    seen, graph = set(), model.subgraphs[0]
    for operator in graph.operators:
        weights = _weights(model, graph, operator)
        if weights is None or (source := int(operator.inputs[1])) in seen:
            continue
        seen.add(source)
        for match in _matches(weights, candidates):
            scaled.append(dataclasses.replace(match, layer=match.layer.scaled(match.scales)))
    return scaled


def _int8_matches(weights: np.ndarray, step: np.ndarray, scaled: list[_Match]) -> list[_Match]:
    """The layers nearest to filters that were rounded to multiples of ``step``, or none if no layer is that near."""
    errors = [
        np.abs((weights - match.layer.explicit) / step).max() if match.layer.explicit.shape == weights.shape else np.inf
        for match in scaled
    ]
    nearest = min(errors, default=np.inf)
    if nearest > _HALF_STEP:
        return []
    # Filters of up to 127 steps, equal but for roundings of float32.
    alike = nearest + 127 * 2 * _TOLERANCE
    return [match for match, error in zip(scaled, errors, strict=True) if error <= alike]


def _replace_int8(
    model: Any, graph: Any, operator: Any, parts: _Parts, layer: Filters, windows: np.ndarray, int4: bool
) -> int | None:
    """Replaces an op; returns the bytes of a coded layer."""
    source, target = (graph.tensors[indices[0]].quantization for indices in (operator.inputs, operator.outputs))
    bias = np.zeros(len(layer.alpha))
    if (units := _constant_bias(model, graph, operator, np.int32)) is not None:
        bias = units * np.float64(graph.tensors[operator.inputs[2]].quantization.scale)
    source, target = (int8_op.Quantization(float(held.scale[0]), int(held.zeroPoint[0])) for held in (source, target))
    integers = int8_op.quantize(layer, bias, source, target, windows, int4)
    if layer.levels is not None:
        held = coded.CodedLayer(
            layer.shape,
            layer.grid_codes,
            layer.levels,
            integers.scales.astype(np.float64),
            integers.bias if integers.bias.any() else None,
            integers.peaks,
            **integers.options,
        )
        return _replace_coded(model, operator, parts, held)
    add = functools.partial(flatfile.add_constant, model, graph)
    inputs = [
        operator.inputs[0],
        add(f"{layer.name}/alpha", integers.coefficients, integers.scales, int4=int4),
        add(f"{layer.name}/bias", integers.bias, integers.bias_scales),
    ]
    _replace(model, operator, inputs, layer, **integers.options)
    return None


def _constant_bias(model: Any, graph: Any, operator: Any, dtype: type) -> np.ndarray | None:
    """The bias of an op, or None if it has none."""
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return None
    bias = flatfile.constant(model, graph.tensors[operator.inputs[2]], dtype)
    assert bias is not None, "the standard converter writes biases as constants"
    return bias


def _weights(model: Any, subgraph: Any, operator: Any, dtype: type = np.float32) -> np.ndarray | None:
    """The constant filters [K, kh, kw, C] of an op that ours can stand in for, or None."""
    builtin = flatfile.schema().BuiltinOperator
    code = flatfile.code_of(model, operator)
    if code not in (builtin.CONV_2D, builtin.FULLY_CONNECTED):
        return None
    if operator.builtinOptions.fusedActivationFunction >= _ACTIVATIONS:
        return None
    weights = flatfile.constant(model, subgraph.tensors[operator.inputs[1]], dtype)
    # [..., C] with the filters' C: a grouped convolution and a flattening FULLY_CONNECTED have other inputs.
    if weights is None or subgraph.tensors[operator.inputs[0]].shape[-1] != weights.shape[-1]:
        return None
    return weights if weights.ndim == 4 else weights[:, None, None, :]


def _matches(weights: np.ndarray, candidates: list[tuple[int, _Layer, np.ndarray]]) -> list[_Match]:
    """The candidates whose filters times one scale [K] each are ``weights``."""
    matches = []
    for index, layer, filters in candidates:
        if filters.shape != weights.shape:
            continue
        flat, target = (array.reshape(len(array), -1) for array in (filters, weights))
        energy = np.einsum("kp,kp->k", flat, flat, dtype=np.float64)
        products = np.einsum("kp,kp->k", flat, target, dtype=np.float64)
        scales = products / np.maximum(energy, np.finfo(np.float64).tiny)
        error = np.abs(flat * scales[:, None] - target).max(1)
        if np.all(error <= _TOLERANCE * np.abs(target).max(1)):
            matches.append(_Match(index, layer, scales, bool(np.all((scales != 0) | (energy == 0)))))
    return matches


def _coded(layer: Filters, bias: np.ndarray | None, half_bias: bool) -> coded.CodedLayer:
    """A layer of a float op to be coded."""
    assert layer.levels is not None and layer.steps is not None
    if bias is not None and half_bias and np.abs(bias).max() <= np.finfo(np.float16).max:
        bias = bias.astype(np.float16)
    return coded.CodedLayer(layer.shape, layer.grid_codes, layer.levels, coded.short(layer.steps), bias)


def _replace_coded(model: Any, operator: Any, parts: _Parts, layer: coded.CodedLayer) -> int:
    """Replaces an op by ours with a coded layer; returns its bytes."""
    data = coded.encode(layer)
    if not np.array_equal(coded.decode(data, layer.shape, len(layer.levels)).levels, layer.levels):
        raise AssertionError("a coded layer that is not read as it was written")
    custom, options = _geometry(operator, layer.shape)
    tensor, part = parts.add(data)
    # The order of these is the format's.
    numbers = [_CODED_VERSION, len(layer.levels), *options.values(), part]
    _set_op(model, operator, custom, [operator.inputs[0], tensor])
    _set_options(operator, _flexbuffer(numbers))
    return len(data)


class _Parts:
    """The tensor of a graph's coded layers."""

    def __init__(self, model: Any, graph: Any) -> None:
        self._model, self._graph = model, graph
        self._parts: dict[bytes, int] = {}
        self._tensor: int | None = None

    def add(self, data: bytes) -> tuple[int, int]:
        """Adds a layer, equal ones once; returns the index of the tensor and the number of the part."""
        if self._tensor is None:
            self._tensor = flatfile.add_constant(self._model, self._graph, "coded", np.zeros(0, np.uint8))
        return self._tensor, self._parts.setdefault(data, len(self._parts))

    def write(self) -> None:
        """Writes the tensor, if there are layers."""
        if self._tensor is not None:
            sizes = np.array([4 * len(self._parts), *map(len, self._parts)])
            data = np.cumsum(sizes)[:-1].astype("<u4").tobytes() + b"".join(self._parts)
            tensor = self._graph.tensors[self._tensor]
            tensor.shape = [len(data)]
            self._model.buffers[tensor.buffer].data = np.frombuffer(data, np.uint8)


def _replace(model: Any, operator: Any, inputs: list[int], layer: Filters, **more: bytes) -> None:
    """Replaces an op by ours whose coefficients are a tensor."""
    custom, options = _geometry(operator, layer.shape)
    _set_op(model, operator, custom, inputs)
    codes = bitmap(layer.grid_codes, layer.taps)
    _set_options(operator, _flexbuffer({"version": VERSION, **options, "codes": codes, **more}))


def _geometry(operator: Any, shape: tuple[int, int, int]) -> tuple[str, dict[str, int]]:
    """The custom op that stands in for an op with filters of a shape, and its options, in the order of version 2."""
    old = operator.builtinOptions
    options = {"channels": shape[2], "activation": int(old.fusedActivationFunction)}
    if not isinstance(old, flatfile.schema().Conv2DOptionsT):
        return "DBFDense", {**options, "keep_num_dims": int(old.keepNumDims)}
    return "DBFConv2D", {
        **options,
        "kernel_h": shape[0],
        "kernel_w": shape[1],
        "stride_h": int(old.strideH),
        "stride_w": int(old.strideW),
        "dilation_h": int(old.dilationHFactor),
        "dilation_w": int(old.dilationWFactor),
        "padding": int(old.padding),
    }


def _set_op(model: Any, operator: Any, custom: str, inputs: list[int]) -> None:
    schema = flatfile.schema()
    operator.opcodeIndex = flatfile.operator_code(model, schema.BuiltinOperator.CUSTOM, VERSION, custom)
    operator.inputs = inputs
    operator.builtinOptions, operator.builtinOptionsType = None, schema.BuiltinOptions.NONE


def _set_options(operator: Any, options: bytes) -> None:
    operator.customOptions = np.frombuffer(options, np.uint8)
    operator.customOptionsFormat = flatfile.schema().CustomOptionsFormat.FLEXBUFFERS


def bitmap(codes: np.ndarray, taps: int) -> bytes:
    """The set of codes as ⌈P / 8⌉ bytes: bit g & 7 of byte g >> 3 says whether code g is kept."""
    kept = np.zeros(taps, np.uint8)
    kept[codes] = 1
    return np.packbits(kept, bitorder="little").tobytes()


def _flexbuffer(options: dict[str, int | bytes] | list[int]) -> bytes:
    """Options as a map, or as a vector."""
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    if isinstance(options, list):
        builder.TypedVectorFromElements(options)
        return bytes(builder.Finish())
    with builder.Map():
        for key in sorted(options):  # As the format of a map demands.
            (builder.Blob if isinstance(options[key], bytes) else builder.Int)(key, options[key])
    return bytes(builder.Finish())
