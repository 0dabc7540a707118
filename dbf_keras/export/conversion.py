"""Export: choose a form for each layer, convert, rewrite, quantise, verify."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import all_layers, keras, ops, own_variables
from dbf_keras.export import (
    calibration,
    converter,
    description,
    flatfile,
    quantization,
    rate_distortion,
    rewrite,
    verify,
)
from dbf_keras.export.filters import Filters
from dbf_keras.export.level_search import Levels
from dbf_keras.export.records import LayerRecord, choose, settle
from dbf_keras.export.report import ExportResult, LayerReport
from dbf_keras.forms import ABSENT, EXPLICIT, FOLDED, INT8, ONTHEFLY, ORDINARY, Form
from dbf_keras.layers import DBFConv2D, DBFDense

_CHECKED = 32  # Representative examples on which an int8 file is held against Keras.


def to_tflite(  # More than eight parameters, most of them given by name and by few.
    model: keras.Model,
    mode: str = "onthefly",
    quantize: str | None = None,
    coding: bool = False,
    *,
    representative_data: Any = None,
    io_type: str = "float32",
    max_loss: float | None = None,
    max_kb: float | None = None,
    labels: Sequence[str] | None = None,
    normalization: description.Normalization | None = None,
    training: Mapping[str, Any] | None = None,
) -> bytes:
    """Exports a Keras model as a TFLite file. BatchNorm is folded and ReLU fused in every mode.

    Does not run the file; `convert` does, and says more.

    Args:
        model: functional or sequential, DBF and ordinary layers mixed as you like. A batch size of None stays dynamic.
        mode: ``"explicit"``, ``"folded"`` or ``"onthefly"``; see `dbf_keras.forms`.
        quantize: None for float32; ``"float16"`` for float16 weights; ``"weights"`` for int8 weights with one scale a
            filter; ``"int4"`` for the same with int4 coefficients in our ops (``mode="onthefly"`` only); ``"int8"`` to
            compute in int8 throughout; ``"int8_int4"`` for the same with int4 coefficients in our ops.
        coding: entropy-code the coefficients in our ops, whole multiples of steps: those that a layer was trained to
            (`alpha_step`, `alpha_bits`), or else of int8's step; ``max_loss`` or ``max_kb`` choose others.
        representative_data: for ``"int8"``, and for a limit of coding, some hundred typical inputs (for the latter, a
            thousand or more, with labels if there are any): an array, an iterable of batches such as a
            ``tf.data.Dataset`` or ``keras.utils.PyDataset``, or a function without arguments that returns or yields
            such. A batch is what the model takes: an array; a list, or a dictionary by name, of the arrays of several
            inputs; or any of these with labels, ``(inputs, labels)``.
        io_type: for ``"int8"``, the type of the file's inputs and outputs: ``"float32"`` or ``"int8"``.
        max_loss: with ``coding``, how many points of accuracy it may cost on the representative data.
        max_kb: with ``coding``, how many kB (1,000 bytes) the file may have.
        labels: names of the classes. With this or one of the following, even if empty, the file gets metadata, see
            `dbf_keras.export.metadata`.
        normalization: mean and standard deviation, by channel or one for all, that the model wants pixels normalised
            with; by default none if it normalises them itself, or else nothing is said of it.
        training: how the model was trained, for JSON; `dbf_keras.keras_file.training` reads it from a file.

    Returns:
        The file. A layer that cannot be written as asked is explicit in it, with a warning that names the reason.

    Raises:
        ValueError: an argument is not one of those, or the model cannot be converted.
    """
    result = convert(
        model,
        mode,
        quantize,
        coding,
        representative_data=representative_data,
        io_type=io_type,
        max_loss=max_loss,
        max_kb=max_kb,
        labels=labels,
        normalization=normalization,
        training=training,
        check=False,
    )
    for layer in result.layers:
        if layer.failed:
            warnings.warn(f"Layer {layer.name!r} is written as {layer.form}: {layer.reason}.", stacklevel=2)
    return result.data


def convert(  # As `to_tflite`.
    model: keras.Model,
    mode: str = "onthefly",
    quantize: str | None = None,
    coding: bool = False,
    *,
    representative_data: Any = None,
    io_type: str = "float32",
    max_loss: float | None = None,
    max_kb: float | None = None,
    labels: Sequence[str] | None = None,
    normalization: description.Normalization | None = None,
    training: Mapping[str, Any] | None = None,
    ordinary_coding: bool = True,
    strict: bool = False,
    check: bool = True,
    inputs: list[np.ndarray] | None = None,
) -> ExportResult:
    """Exports a Keras model and reports on every DBF layer.

    Args:
        model: as for `to_tflite`.
        mode: as for `to_tflite`.
        quantize: as for `to_tflite`.
        coding: as for `to_tflite`.
        representative_data: as for `to_tflite`.
        io_type: as for `to_tflite`.
        max_loss: as for `to_tflite`.
        max_kb: as for `to_tflite`.
        labels: as for `to_tflite`.
        normalization: as for `to_tflite`.
        training: as for `to_tflite`.
        ordinary_coding: with ``coding``, whether ordinary layers are coded, too, and computed by our ops of every code;
            else they stay standard ops.
        strict: raise if a layer cannot be written as asked, instead of writing it as explicit.
        check: hold the file against Keras and against the size of the explicit file.
        inputs: what to run for the check, one array for each input; by default random, see `verify.random_inputs`, or
            the first of ``representative_data``.

    Returns:
        The file and its report.

    Raises:
        ValueError: an argument is not one of those, the model cannot be converted, or ``strict`` and a layer cannot be
            written as asked.
        RuntimeError: the file needs our C library for the check, and it is not built.
    """
    form = Form(mode, quantize, coding)
    limits = [limit for limit in (max_loss, max_kb) if limit is not None]
    form.check(representative_data is not None, io_type, len(limits))
    converter.require_inputs(model)
    layers = all_layers(model)
    records = choose(layers, mode)
    samples = truth = None
    if representative_data is not None:
        samples, truth = calibration.to_labelled_samples(model, representative_data)
    if coding:
        _set_levels(records)
    described = any(given is not None for given in (labels, normalization, training))

    def write() -> _Written:
        own = samples if quantize in INT8 else None
        file = _write(model, form, records, own, io_type, check, coding and ordinary_coding)
        if not described:
            return file
        data = description.describe(file.data, model, form, records, labels, normalization, training or {})
        return file._replace(data=data)

    file = write()
    if samples is not None and limits:
        file = _within_limit(model, records, samples, truth, file, write, max_loss, max_kb)
    _raise_if_strict(strict, records, mode)

    result = ExportResult(file.data, form, _reports(records, quantize), _ordinary(layers, records, file, quantize))
    return _checked(result, model, file.explicit, samples, inputs) if check else result


def _within_limit(
    model: keras.Model,
    records: list[LayerRecord],
    samples: list[list[np.ndarray]],
    labels: np.ndarray | None,
    file: _Written,
    write: Callable[[], _Written],
    max_loss: float | None,
    max_kb: float | None,
) -> _Written:
    """Chooses levels that keep a limit, and writes the file again.

    Args:
        model: the model.
        records: its DBF layers, with the levels of ``file``.
        samples: typical inputs.
        labels: their classes, if they are known.
        file: as written so far, which tells what is not coefficients.
        write: writes the file anew.
        max_loss: as for `to_tflite`.
        max_kb: as for `to_tflite`.

    Raises:
        ValueError: no levels keep the limit; says what takes the bytes.
    """
    coded = [record for record in records if record.coded_bytes is not None]
    if not coded:
        raise ValueError(
            "`max_loss` and `max_kb` choose coefficients of on-the-fly ops, and the file has none: the model has no "
            "DBF layers, or none that can be written so."
        )
    layers = [record.layer for record in coded]
    choose_levels = functools.partial(rate_distortion.choose, model, layers, samples)
    if max_kb is None:
        _set_all(coded, choose_levels(max_loss=max_loss, labels=labels))
        return write()
    most = 1000 * max_kb
    for _ in range(3):  # Alignment moves a few bytes.
        rest = len(file.data) - sum(rate_distortion.coded_bytes(record.filters, record.levels) for record in coded)
        if rest >= most:
            raise ValueError(
                f"A file of {max_kb:g} kB is too small for this model: what is not coefficients takes "
                f"{rest / 1000:.1f} kB."
            )
        _set_all(coded, choose_levels(max_kb=(most - rest) / 1000))
        file = write()
        if len(file.data) <= most:
            return file
        most -= len(file.data) - most
    raise ValueError(
        f"No file of {max_kb:g} kB was found for this model; the smallest that was has {len(file.data)} bytes."
    )


def _set_all(records: list[LayerRecord], levels: list[Levels]) -> None:
    for record, chosen in zip(records, levels, strict=True):
        record.set_levels(chosen)


class _Written(NamedTuple):
    """A file and what there is to say of it.

    Attributes:
        data: the file.
        explicit: the explicit float32 file; empty if nobody wants it.
        used: the ids of the layers in use.
        coded: bytes of ordinary layers that are coded, by id.
    """

    data: bytes
    explicit: bytes
    used: Container[int]
    coded: Mapping[int, int]


def _write(
    model: keras.Model,
    form: Form,
    records: list[LayerRecord],
    samples: list[list[np.ndarray]] | None,
    io_type: str,
    check: bool,
    ordinary_coding: bool,
) -> _Written:
    """Writes a file, and notes in the records what became of the layers.

    Args:
        model: the model.
        form: the file's.
        records: the DBF layers.
        samples: typical inputs, for an int8 file.
        io_type: as for `to_tflite`.
        check: whether the explicit float32 file is wanted in any case.
        ordinary_coding: whether ordinary layers are coded.
    """
    data, used = converter.convert(model, map(_call, records), samples, io_type)
    settle(records, used)
    explicit = data
    if samples is not None or any(record.form == FOLDED for record in records):
        needed = check or form.mode == ONTHEFLY
        explicit = converter.to_flatbuffer(model, map(_explicit_call, records)) if needed else b""
    file = flatfile.load(data)
    coded = {}
    if form.mode == ONTHEFLY:
        coded = _write_on_the_fly(file, records, model, data, explicit, samples, form, ordinary_coding)
    small = form.quantize if form.quantize in ("float16", "weights", "int4") else None
    if small is not None:
        quantization.quantize_weights(file, small)
    if form.mode != EXPLICIT or small is not None or not flatfile.is_tidy(file):
        data = flatfile.dump(file, terse=form.mode == ONTHEFLY)
    return _Written(data, explicit, used, coded)


def _set_levels(records: list[LayerRecord]) -> None:
    """Makes layers of whole multiples of steps: those that they were trained to, or else of int8's."""
    for record in records:
        if record.form == ONTHEFLY:
            record.set_levels(rate_distortion.trained(record.layer) or rate_distortion.plain(record.filters))


def _checked(
    result: ExportResult,
    model: keras.Model,
    explicit: bytes,
    samples: list[list[np.ndarray]] | None,
    inputs: list[np.ndarray] | None,
) -> ExportResult:
    """The result with its file held against Keras and against the size of the explicit float32 file."""
    if inputs is None:
        inputs = verify.random_inputs(model) if samples is None else _first(model, samples)
    reference = [np.asarray(output) for output in converter.run(model, inputs)]
    outputs = verify.run_file(model, result.data, inputs)
    absolute, relative = verify.difference(reference, outputs)
    return dataclasses.replace(
        result,
        bytes_explicit=len(explicit),
        difference=absolute,
        relative_difference=relative,
        noise=verify.noise(reference, outputs),
    )


def _first(model: keras.Model, samples: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The first examples, as one batch where the model leaves the batch size open and they are of one shape."""
    alike = [sample for sample in samples[:_CHECKED] if all(map(_same_shape, sample, samples[0]))]
    if any(tensor.shape[0] is not None for tensor in model.inputs):
        return samples[0]
    return [np.concatenate(arrays) for arrays in zip(*alike, strict=True)]


def _same_shape(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape


def _call(record: LayerRecord) -> converter.LayerCall:
    """A layer's computation in the file of the standard converter."""
    folding = record.folding
    if folding is None:
        return _explicit_call(record)
    kernel = _twin_kernel(record, folding.filters(record.filters.alpha))
    return converter.plain_call(record.layer, kernel, folding, record.note_open_margins)


def _explicit_call(record: LayerRecord) -> converter.LayerCall:
    return converter.plain_call(record.layer, _twin_kernel(record, record.filters.explicit))


def _twin_kernel(record: LayerRecord, filters: np.ndarray) -> np.ndarray:
    """Filters [K, kh, kw, C] as the kernel of the plain twin: [kh, kw, C, K], or [C, K] for a dense layer."""
    kernel = np.moveaxis(filters, 0, -1).astype(np.float32)
    return kernel[0, 0] if isinstance(record.layer, DBFDense) else kernel


def _write_on_the_fly(
    file: Any,
    records: list[LayerRecord],
    model: keras.Model,
    data: bytes,
    explicit: bytes,
    samples: list[list[np.ndarray]] | None,
    form: Form,
    ordinary_coding: bool,
) -> dict[int, int]:
    """Rewrites a file's ops to ours; the records of layers without such an op become explicit.

    Args:
        file: ``ModelT`` of ``data``; changed in place.
        records: the DBF layers.
        model: that the file was made of.
        data: the explicit file.
        explicit: the same in float32.
        samples: typical inputs, for an int8 file.
        form: the file's.
        ordinary_coding: whether ordinary layers are coded.

    Returns:
        By id, bytes of ordinary layers that are coded.
    """
    wanted = [record for record in records if record.form == ONTHEFLY]
    plain = [layer for layer in all_layers(model) if _has_plain_filters(layer)]
    filters: list[Filters | rewrite.Ordinary] = [record.filters for record in wanted]
    filters += [_coded_plain(layer) if ordinary_coding else _plain(layer) for layer in plain]
    if samples is None:
        found = rewrite.to_ops(file, filters, half_bias=form.quantize is not None)
    else:
        draw = functools.partial(calibration.draw_windows, model, data, samples=samples)
        found = rewrite.to_int8_ops(file, flatfile.load(explicit), filters, draw, form.quantize == "int8_int4")
    missing = rewrite.Outcome("no op of the converted file has these filters times a scale")
    for position, record in enumerate(wanted):
        outcome = found.get(position, missing)
        record.coded_bytes = outcome.coded_bytes
        if outcome.reason:
            record.make_explicit(outcome.reason, failed=True)
    outcomes = {id(layer): found.get(position, missing) for position, layer in enumerate(plain, len(wanted))}
    return {key: outcome.coded_bytes for key, outcome in outcomes.items() if outcome.coded_bytes is not None}


def _has_plain_filters(layer: keras.layers.Layer) -> bool:
    """Whether a layer is an ordinary one that the standard converter writes as an op that ours could stand in for."""
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return isinstance(layer, kinds) and not isinstance(layer, DBFConv2D | DBFDense) and layer.built


def _plain(layer: keras.layers.Layer) -> rewrite.Ordinary:
    kernel = np.asarray(ops.convert_to_numpy(layer.kernel), np.float32)
    kernel = kernel if kernel.ndim == 4 else kernel[None, None]
    return rewrite.Ordinary(layer.name, np.moveaxis(kernel, -1, 0))


def _coded_plain(layer: keras.layers.Layer) -> Filters:
    """An ordinary layer as one that keeps every code, to be coded as others are: our op computes it, and as fast."""
    filters = _plain(layer).explicit
    kernel, size = filters.shape[1:], math.prod(filters.shape[1:])
    codes = np.arange(size)
    strides, dilations = (tuple(getattr(layer, name, (1, 1))) for name in ("strides", "dilation_rate"))
    alpha = dbf_codes.fit(filters.astype(np.float64), codes, kernel)
    exact = Filters(layer.name, kernel, strides, dilations, alpha, codes)
    levels = rate_distortion.plain(exact)
    # α stays as it is, by which the layer is found in the converted file.
    return dataclasses.replace(exact, levels=levels.levels, steps=levels.steps)


def _raise_if_strict(strict: bool, records: list[LayerRecord], mode: str) -> None:
    failed = [f"{record.filters.name}: {record.reason}" for record in records if record.failed]
    if strict and failed:
        raise ValueError(
            f"Not every layer can be written as {mode}:\n  " + "\n  ".join(failed) + "\n"
            "Without `strict` these layers are written as explicit."
        )


def _reports(records: list[LayerRecord], quantize: str | None) -> tuple[LayerReport, ...]:
    """Reports on the DBF layers."""
    return tuple(
        LayerReport(
            record.filters.name,
            record.form,
            bytes_explicit=0 if record.form == ABSENT else 4 * record.filters.taps * len(record.filters.alpha),
            bytes_file=_stored_bytes(record, quantize),
            kept=record.filters.alpha.shape[1],
            codes=record.filters.taps,
            reason=record.reason,
            failed=record.failed,
        )
        for record in records
    )


def _stored_bytes(record: LayerRecord, quantize: str | None) -> int:
    """Bytes of a layer's weights in a file."""
    stored = functools.partial(quantization.stored_bytes, quantize=quantize)
    filters, folding = record.filters, record.folding
    count = len(filters.alpha)
    if record.form == ABSENT:
        return 0
    if record.form == ONTHEFLY:
        return record.coded_bytes or stored(filters.alpha.size, count, direct=True)
    if folding is None:
        return stored(filters.taps * count, count, direct=False)
    channels = len(folding.channels)
    size = stored(math.prod(folding.kernel_size) * channels * count, count, direct=False)
    if folding.projected:
        size += stored(filters.shape[2] * channels, channels, direct=False)
    if folding.pooled:
        ones = folding.pool_size[0] * folding.pool_size[1] * channels
        size += stored(ones, channels, direct=False)
    return size


def _ordinary(
    layers: list[keras.layers.Layer], records: list[LayerRecord], file: _Written, quantize: str | None
) -> tuple[LayerReport, ...]:
    """Reports on the layers with weights of two axes or more that are no DBF layers."""
    reports = []
    for layer in layers:
        own = [variable for variable in own_variables(layer) if len(variable.shape) > 1]
        if own and not any(record.layer is layer for record in records):
            if id(layer) not in file.used:
                reports.append(LayerReport(layer.name, ABSENT, 0, 0, reason="no output of the model depends on it"))
                continue
            sizes = [(int(np.prod(variable.shape)), int(variable.shape[-1])) for variable in own]
            stored = file.coded.get(id(layer)) or sum(
                quantization.stored_bytes(*size, quantize, direct=False) for size in sizes
            )
            reports.append(LayerReport(layer.name, ORDINARY, 4 * sum(size for size, _ in sizes), stored))
    return tuple(reports)
