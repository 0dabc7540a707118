"""Export: choose a form for each layer, convert, rewrite, quantise, verify."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dbf_keras.backend import keras
from dbf_keras.export import calibration, flatfile, quantization, rewrite, trace, verify
from dbf_keras.export.filters import Filters
from dbf_keras.export.report import ExportResult, LayerReport
from dbf_keras.layers import DBFConv2D, DBFDense

MODES = ("explicit", "folded", "onthefly")
QUANTIZE = (None, "weights", "int4", "int8")
IO_TYPES = ("float32", "int8")

_CHECKED = 32  # Representative examples that an int8 file is held against Keras on.


def to_tflite(
    model: keras.Model,
    mode: str = "onthefly",
    quantize: str | None = None,
    *,
    representative_data: Iterable[Any] | None = None,
    io_type: str = "float32",
) -> bytes:
    """Exports a Keras model as a TFLite file. BatchNorm is folded and ReLU fused in every mode.

    Does not run the file; `convert` does, and says more.

    Args:
        model: functional or sequential, DBF and ordinary layers mixed as you like. A batch size of None stays dynamic.
        mode: ``"explicit"``, ``"folded"`` or ``"onthefly"``; see `dbf_keras.export`.
        quantize: None for float32; ``"weights"`` for int8 weights with one scale a filter; ``"int4"`` for the same with
            int4 coefficients in our ops (``mode="onthefly"`` only); ``"int8"`` to compute in int8 throughout.
        representative_data: for ``"int8"``, some hundred typical inputs, as an iterable of batches that the model
            takes: arrays, or lists of arrays for a model of several inputs.
        io_type: for ``"int8"``, the type of the file's inputs and outputs: ``"float32"`` or ``"int8"``.

    Returns:
        The file. A layer that cannot be written as asked is explicit in it, with a warning that names the reason.

    Raises:
        ValueError: an argument is not one of those, or the model cannot be converted.
    """
    result = convert(model, mode, quantize, representative_data=representative_data, io_type=io_type, check=False)
    for layer in result.layers:
        if layer.failed:
            warnings.warn(f"Layer {layer.name!r} is written as {layer.form}: {layer.reason}.", stacklevel=2)
    return result.data


def convert(
    model: keras.Model,
    mode: str = "onthefly",
    quantize: str | None = None,
    *,
    representative_data: Iterable[Any] | None = None,
    io_type: str = "float32",
    strict: bool = False,
    check: bool = True,
    inputs: list[np.ndarray] | None = None,
) -> ExportResult:
    """Exports a Keras model and reports on every DBF layer.

    Args:
        model: as for `to_tflite`.
        mode: as for `to_tflite`.
        quantize: as for `to_tflite`.
        representative_data: as for `to_tflite`.
        io_type: as for `to_tflite`.
        strict: raise if a layer cannot be written as asked, instead of writing it as explicit.
        check: hold the file against Keras and against the size of the explicit file.
        inputs: what to run for the check, one array for each input; by default random, or the first of
            ``representative_data``.

    Returns:
        The file and its report.

    Raises:
        ValueError: an argument is not one of those, the model cannot be converted, or ``strict`` and a layer cannot be
            written as asked.
        RuntimeError: the file needs our C library for the check, and it is not built.
    """
    _check_arguments(mode, quantize, representative_data, io_type)
    samples = None if representative_data is None else calibration.to_samples(model, representative_data)
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
        data = trace.to_flatbuffer(model, calls, samples, io_type)
        plain = trace.to_flatbuffer(model, explicit) if check else None
    else:
        plain = trace.to_flatbuffer(model, explicit) if samples is None or check or mode == "onthefly" else None
        data = plain if samples is None else trace.to_flatbuffer(model, explicit, samples, io_type)
    if mode == "onthefly" or quantize in ("weights", "int4"):
        file = flatfile.load(data)
        if mode == "onthefly":
            draw = functools.partial(calibration.draw_windows, model, data, samples=samples)
            reasons = _write_on_the_fly(file, filters, None if samples is None else (flatfile.load(plain), draw))
            _raise_if_strict(strict, mode, filters, reasons)
        if quantize in ("weights", "int4"):
            quantization.quantize_weights(file, int4=quantize == "int4")
        data = flatfile.dump(file)

    reports = []
    for key, layer in filters.items():
        reason, failed = reasons.get(key, ("", False))
        reports.append(_report(layer, "explicit" if reason else mode, reason, failed, quantize))
    result = ExportResult(data, mode, quantize, tuple(reports))
    if not check:
        return result
    if inputs is None:
        inputs = verify.random_inputs(model) if samples is None else _first(model, samples)
    reference = [np.asarray(output) for output in trace.run(model, inputs)]
    outputs = verify.run_file(model, data, inputs)
    absolute, relative = verify.difference(reference, outputs)
    return dataclasses.replace(
        result,
        bytes_explicit=len(plain),
        difference=absolute,
        relative_difference=relative,
        noise=verify.noise(reference, outputs),
    )


def _check_arguments(mode: str, quantize: str | None, representative_data: Any, io_type: str) -> None:
    if mode not in MODES:
        raise ValueError(f"`mode` is one of {', '.join(MODES)}; got {mode!r}.")
    if quantize not in QUANTIZE:
        raise ValueError(f"`quantize` is None, 'weights', 'int4' or 'int8'; got {quantize!r}.")
    if io_type not in IO_TYPES:
        raise ValueError(f"`io_type` is 'float32' or 'int8'; got {io_type!r}.")
    if quantize == "int4" and mode != "onthefly":
        raise ValueError(
            f"quantize='int4' is for coefficients, so for mode='onthefly' only; got mode={mode!r}. "
            "There, use quantize='weights' or quantize='int8'."
        )
    if quantize == "int8" and representative_data is None:
        raise ValueError(
            "quantize='int8' needs `representative_data`: some hundred typical inputs, as an iterable of batches. "
            "quantize='weights' needs none."
        )
    if quantize != "int8" and (representative_data is not None or io_type != "float32"):
        given = "representative_data" if representative_data is not None else "io_type"
        raise ValueError(f"`{given}` is for quantize='int8' only; got quantize={quantize!r}.")


def _first(model: keras.Model, samples: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The first examples, as one batch where the model leaves the batch size open and they are of one shape."""
    alike = [sample for sample in samples[:_CHECKED] if all(map(_same_shape, sample, samples[0]))]
    if any(tensor.shape[0] is not None for tensor in model.inputs):
        return samples[0]
    return [np.concatenate(arrays) for arrays in zip(*alike, strict=True)]


def _same_shape(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape


def _twin_kernel(layer: keras.layers.Layer, filters: np.ndarray) -> np.ndarray:
    """Filters [K, kh, kw, C] as the kernel of the plain twin: [kh, kw, C, K], or [C, K] for a dense layer."""
    kernel = np.moveaxis(filters, 0, -1).astype(np.float32)
    return kernel[0, 0] if isinstance(layer, DBFDense) else kernel


def _folded_call(layer: keras.layers.Layer, filters: Filters) -> Callable:
    folded = filters.folded()
    projection = None if folded.projection is None else folded.projection.astype(np.float32)
    return trace.plain_call(layer, _twin_kernel(layer, folded.filters), projection, folded.runs)


def _write_on_the_fly(
    file: Any, filters: dict[int, Filters], int8: tuple[Any, Callable] | None
) -> dict[int, tuple[str, bool]]:
    """Rewrites a file and returns, by id, why a layer could not be: see `Filters.not_folded`.

    Args:
        file: the explicit file.
        filters: the layers.
        int8: for an int8 file, the rest of what `rewrite.to_int8_ops` needs.
    """
    gridded = {key: layer for key, layer in filters.items() if layer.codes is not None}
    if int8:
        found = rewrite.to_int8_ops(file, int8[0], gridded.values(), int8[1])
    else:
        found = dict.fromkeys(rewrite.to_ops(file, gridded.values()), "")
    reasons = {key: ("sp_ovsf keeps flat codes, which the op does not know", True) for key in filters.keys() - gridded}
    for position, key in enumerate(gridded):
        if reason := found.get(position, "no op of the converted file has these filters times a scale"):
            reasons[key] = (reason, True)
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


def _report(layer: Filters, form: str, reason: str, failed: bool, quantize: str | None) -> LayerReport:
    count, kept = layer.alpha.shape
    stored = functools.partial(quantization.stored_bytes, quantize=quantize)
    if form == "onthefly":
        size = stored(layer.alpha.size, count, direct=True)
    elif form == "folded":
        (vertical, horizontal), projection, smaller = layer.folded()
        size = stored(smaller.size, count, direct=False)
        if projection is not None:
            size += stored(projection.size, projection.shape[1], direct=False)
        if vertical * horizontal > 1:
            channels = smaller.shape[3]
            size += stored(vertical * horizontal * channels, channels, direct=False)
    else:
        size = stored(layer.taps * count, count, direct=False)
    return LayerReport(layer.name, kept, layer.taps, form, reason, failed, 4 * layer.taps * count, size)
