"""Export: choose a form for each layer, convert, rewrite, quantise, verify."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from dbf_keras.backend import keras
from dbf_keras.export import flatfile, quantization, rewrite, trace, verify
from dbf_keras.export.filters import Filters
from dbf_keras.export.report import ExportResult, LayerReport
from dbf_keras.layers import DBFConv2D, DBFDense

MODES = ("explicit", "folded", "onthefly")
QUANTIZE = (None, "weights")


def to_tflite(model: keras.Model, mode: str = "onthefly", quantize: str | None = None) -> bytes:
    """Exports a Keras model as a TFLite file. BatchNorm is folded and ReLU fused in every mode.

    Does not run the file; `convert` does, and says more.

    Args:
        model: functional or sequential, DBF and ordinary layers mixed as you like. A batch size of None stays dynamic.
        mode: ``"explicit"``, ``"folded"`` or ``"onthefly"``; see `dbf_keras.export`.
        quantize: None for float32, ``"weights"`` for int8 weights with one scale a filter.

    Returns:
        The file. A layer that cannot be written as asked is explicit in it, with a warning that names the reason.

    Raises:
        ValueError: an argument is not one of those, or the model cannot be converted.
    """
    result = convert(model, mode, quantize, check=False)
    for layer in result.layers:
        if layer.failed:
            warnings.warn(f"Layer {layer.name!r} is written as {layer.form}: {layer.reason}.", stacklevel=2)
    return result.data


def convert(
    model: keras.Model,
    mode: str = "onthefly",
    quantize: str | None = None,
    *,
    strict: bool = False,
    check: bool = True,
    inputs: list[np.ndarray] | None = None,
) -> ExportResult:
    """Exports a Keras model and reports on every DBF layer.

    Args:
        model: as for `to_tflite`.
        mode: as for `to_tflite`.
        quantize: as for `to_tflite`.
        strict: raise if a layer cannot be written as asked, instead of writing it as explicit.
        check: hold the file against Keras and against the size of the explicit file.
        inputs: what to run for the check, one array for each input; random by default.

    Returns:
        The file and its report.

    Raises:
        ValueError: an argument is not one of those, the model cannot be converted, or ``strict`` and a layer cannot be
            written as asked.
        RuntimeError: the file needs our C library for the check, and it is not built.
    """
    if mode not in MODES:
        raise ValueError(f"`mode` is one of {', '.join(MODES)}; got {mode!r}.")
    if quantize not in QUANTIZE:
        raise ValueError(f"`quantize` is None or 'weights'; got {quantize!r}.")
    layers = {id(layer): layer for layer in trace.all_layers(model) if isinstance(layer, DBFConv2D | DBFDense)}
    filters = {key: Filters.of(layer) for key, layer in layers.items()}
    explicit = {
        key: trace.plain_call(layer, _twin_kernel(layer, filters[key].explicit)) for key, layer in layers.items()
    }
    reasons = {}  # By id: the reason why a layer is explicit, and whether it had to be.
    if mode == "folded":
        reasons = {key: reason for key in layers if (reason := filters[key].not_folded())}
        _raise_if_strict(strict, mode, filters, reasons)
        calls = {key: explicit[key] if key in reasons else _folded_call(layers[key], filters[key]) for key in layers}
        data = trace.to_flatbuffer(model, calls)
        bytes_explicit = len(trace.to_flatbuffer(model, explicit)) if check else None
    else:
        data = trace.to_flatbuffer(model, explicit)
        bytes_explicit = len(data)
    if mode == "onthefly" or quantize:
        file = flatfile.load(data)
        if mode == "onthefly":
            reasons = _write_on_the_fly(file, filters)
            _raise_if_strict(strict, mode, filters, reasons)
        if quantize:
            quantization.quantize_weights(file)
        data = flatfile.dump(file)

    reports = []
    for key, layer in filters.items():
        reason, failed = reasons.get(key, ("", False))
        reports.append(_report(layer, "explicit" if reason else mode, reason, failed, bool(quantize)))
    result = ExportResult(data, mode, quantize, tuple(reports))
    if not check:
        return result
    inputs = verify.random_inputs(model) if inputs is None else inputs
    reference = [np.asarray(output) for output in trace.run(model, inputs)]
    absolute, relative = verify.difference(reference, verify.run_file(model, data, inputs))
    return dataclasses.replace(result, bytes_explicit=bytes_explicit, difference=absolute, relative_difference=relative)


def _twin_kernel(layer: keras.layers.Layer, filters: np.ndarray) -> np.ndarray:
    """Filters [K, kh, kw, C] as the kernel of the plain twin: [kh, kw, C, K], or [C, K] for a dense layer."""
    kernel = np.moveaxis(filters, 0, -1).astype(np.float32)
    return kernel[0, 0] if isinstance(layer, DBFDense) else kernel


def _folded_call(layer: keras.layers.Layer, filters: Filters) -> Callable:
    projection, smaller = filters.folded()
    return trace.plain_call(layer, _twin_kernel(layer, smaller), projection.astype(np.float32))


def _write_on_the_fly(file: Any, filters: dict[int, Filters]) -> dict[int, tuple[str, bool]]:
    """Rewrites a file and returns, by id, why a layer could not be: see `Filters.not_folded`."""
    gridded = {key: layer for key, layer in filters.items() if layer.codes is not None}
    found = rewrite.to_ops(file, gridded.values())
    reasons = {key: ("sp_ovsf keeps flat codes, which the op does not know", True) for key in filters.keys() - gridded}
    for position, key in enumerate(gridded):
        if position not in found:
            reasons[key] = ("no op of the converted file has these filters times a scale", True)
    return reasons


def _raise_if_strict(
    strict: bool, mode: str, filters: dict[int, Filters], reasons: dict[int, tuple[str, bool]]
) -> None:
    failed = [f"{filters[key].name}: {reason}" for key, (reason, failed) in reasons.items() if failed]
    if strict and failed:
        raise ValueError(
            f"Not every layer can be written as {mode}:\n  " + "\n  ".join(failed) + "\n"
            "Without `strict` these layers are written as explicit."
        )


def _report(layer: Filters, form: str, reason: str, failed: bool, quantized: bool) -> LayerReport:
    count, kept = layer.alpha.shape
    stored = functools.partial(quantization.stored_bytes, quantized=quantized)
    if form == "onthefly":
        size = stored(layer.alpha.size, count, direct=True)
    elif form == "folded":
        projection, smaller = layer.folded()
        size = stored(projection.size, projection.shape[1], direct=False) + stored(smaller.size, count, direct=False)
    else:
        size = stored(layer.taps * count, count, direct=False)
    return LayerReport(layer.name, kept, layer.taps, form, reason, failed, 4 * layer.taps * count, size)
