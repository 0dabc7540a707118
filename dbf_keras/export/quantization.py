"""Weights of fewer bits: float16, or int8 and int4 with one symmetric scale a filter; activations stay float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from dbf_keras.export import flatfile
from dbf_keras.forms import INT8

# A scale for each filter (zero points are shared); a DEQUANTIZE op, its second tensor and both names.
_BYTES_PER_FILTER = 4
_BYTES_PER_DEQUANTIZE = 256
_WORTHWHILE = 512

# How far from a whole number a multiple of a step may be that float32 rounded: 127 times its precision, and some more.
_WHOLE = 1e-4

# The first versions of DEQUANTIZE of float16, and with one scale a channel.
_DEQUANTIZE_VERSIONS = {"float16": 3, "weights": 5, "int4": 5}


def stored_bytes(size: int, filters: int, quantize: str | None, direct: bool) -> int:
    """Bytes that weights take in a file.

    Args:
        size: how many numbers.
        filters: K.
        quantize: as for `dbf_keras.export.to_tflite`.
        direct: whether the op reads such numbers (ours do) instead of through a DEQUANTIZE op.
    """
    if quantize is None or (quantize not in INT8 and not _pays(size, filters, quantize, direct)):
        return 4 * size
    if quantize == "float16":
        return 2 * size
    return (-(-size // 2) if quantize in ("int4", "int8_int4") and direct else size) + _BYTES_PER_FILTER * filters


def _pays(size: int, filters: int, quantize: str, direct: bool) -> bool:
    added = 0 if direct else _BYTES_PER_DEQUANTIZE
    if quantize == "float16":
        return 2 * size > added
    return 3 * size - _BYTES_PER_FILTER * filters - added >= _WORTHWHILE


def to_int8(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantises weights, symmetric about zero, with one scale for each index of an axis.

    Args:
        weights: float32.
        axis: the axis of the filters.

    Returns:
        int8 values of the same shape in −127…127, and float32 scales [weights.shape[axis]].
    """
    others = tuple(other for other in range(weights.ndim) if other != axis)
    largest = np.abs(weights).max(others)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    if np.all(np.abs(weights) == 1):  # The folded projection is exact.
        scales = np.ones_like(scales)
    flat = np.moveaxis(weights, axis, 0).reshape(len(scales), -1)
    scales = _steps(flat, np.where(largest > 0, largest, 1), 127, scales)
    return np.rint(weights / np.expand_dims(scales, others)).astype(np.int8), scales


def _steps(weights: np.ndarray, largest: np.ndarray, most: int, scales: np.ndarray) -> np.ndarray:
    """The scales [K], but the steps of filters [K, n] that are whole multiples of one, up to float32's rounding.

    Coefficients of layers with an `alpha_step` are: a file then holds the very numbers that were trained.

    Args:
        weights: float32 [K, n].
        largest: the largest magnitude of each filter, 1 for a filter of zeros.
        most: the largest multiple.
        scales: float32 [K].
    """
    scales, left = scales.copy(), np.arange(len(weights))
    for level in range(1, most + 1):  # What the largest magnitude may be.
        steps = (largest[left] / level).astype(np.float32)
        multiples = weights[left] / steps[:, None]
        whole = (np.abs(multiples - np.rint(multiples)) < _WHOLE).all(axis=1)
        scales[left[whole]] = steps[whole]
        left = left[~whole]
    return scales


def to_int4(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantises coefficients [K, n] to −7…7, symmetric about zero, with the scale of least squared error a filter.

    Returns:
        int8 values of the same shape, and float32 scales [K].
    """
    largest = np.abs(weights).max(1)
    largest = np.where(largest > 0, largest, 7)
    best, scales = np.full(len(weights), np.inf), np.ones(len(weights), np.float32)
    for share in np.linspace(0.3, 1, 36):  # Coefficients over this share of the largest are clipped.
        trial = (share * largest / 7).astype(np.float32)
        error = np.square(_int4(weights, trial) * trial[:, None] - weights).sum(1)
        scales = np.where(error < best, trial, scales)
        best = np.minimum(error, best)
    scales = _steps(weights, largest, 7, scales)
    return _int4(weights, scales), scales


def _int4(weights: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weights / scales[:, None]), -7, 7).astype(np.int8)


def quantize_weights(model: Any, quantize: str) -> None:
    """Makes the constant weights of convolutions and dense layers smaller, in place, where that saves bytes.

    Our ops read float16 and integer coefficients directly. Standard ops get theirs through DEQUANTIZE, which every
    runtime evaluates once, when it loads the model, so that they run as fast as in float32. (Given int8 weights
    directly they would quantise activations too.)

    Args:
        model: ``ModelT`` of a float32 file.
        quantize: ``"float16"``, ``"weights"`` for int8, or ``"int4"`` for int8 and int4 coefficients of our ops.
    """
    schema = flatfile.schema()
    for subgraph in model.subgraphs:
        seen, dequantize = set(), []
        for operator in subgraph.operators:
            axis, direct = _weights_axis(model, operator)
            if axis is None or int(operator.inputs[1]) in seen:
                continue
            source = int(operator.inputs[1])
            seen.add(source)
            tensor = subgraph.tensors[source]
            weights = flatfile.constant(model, tensor)
            if weights is None or not _pays(weights.size, weights.shape[axis], quantize, direct):
                continue
            int4 = quantize == "int4" and direct
            if quantize == "float16":
                if np.abs(weights).max() > np.finfo(np.float16).max:
                    continue
                values, scales = weights.astype(np.float16), None
            else:
                values, scales = to_int4(weights) if int4 else to_int8(weights, axis)
            name = tensor.name if direct else tensor.name.split(b";")[0] + f"/{values.dtype}".encode()
            target = flatfile.add_constant(model, subgraph, name, values, scales, axis, int4)
            if direct:
                subgraph.tensors[source] = subgraph.tensors[target]
            else:
                tensor.buffer = 0
                new = schema.OperatorT()
                version = _DEQUANTIZE_VERSIONS[quantize]
                new.opcodeIndex = flatfile.operator_code(model, schema.BuiltinOperator.DEQUANTIZE, version)
                new.inputs, new.outputs = [target], [source]
                dequantize.append(new)
        subgraph.operators = dequantize + list(subgraph.operators)


def _weights_axis(model: Any, operator: Any) -> tuple[int | None, bool]:
    """The axis of the filters in input 1 of an op (None for one without weights), and whether it reads small types."""
    builtin = flatfile.schema().BuiltinOperator
    code = flatfile.code_of(model, operator)
    if code == builtin.CUSTOM:
        custom = model.operatorCodes[operator.opcodeIndex].customCode
        return (0 if custom in (b"DBFConv2D", b"DBFDense") else None), True
    axes = {builtin.CONV_2D: 0, builtin.FULLY_CONNECTED: 0, builtin.DEPTHWISE_CONV_2D: 3}
    return axes.get(code), False
