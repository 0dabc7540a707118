"""What the exporter knows of a model, put into the file's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dbf_keras.backend import keras
from dbf_keras.export import metadata, verify
from dbf_keras.export.records import LayerRecord
from dbf_keras.forms import ABSENT, Form
from dbf_keras.version import __version__

# Mean and standard deviation of pixels, by channel or one for all.
Normalization = tuple[Sequence[float], Sequence[float]]


class _Pixels(NamedTuple):
    """How a model takes pixels.

    Attributes:
        words: the same in words.
        mean: what is subtracted from them before; None if nobody knows.
        std: what they are then divided by.
        value_range: the smallest and largest number that goes in, if that is known.
    """

    words: str
    mean: Sequence[float] | None = None
    std: Sequence[float] = (1.0,)
    value_range: tuple[float, float] | None = None


def describe(
    data: bytes,
    model: keras.Model,
    form: Form,
    records: Sequence[LayerRecord],
    labels: Sequence[str] | None,
    normalization: Normalization | None,
    training: Mapping[str, Any],
) -> bytes:
    """Writes metadata into a file; the arguments are those of `conversion.to_tflite` and what it made of them."""
    pixels = _pixels(model, normalization)
    layers = [record.filters for record in records if record.form != ABSENT]
    details = {
        "dbf_keras": __version__,
        "mode": form.mode,
        "quantize": form.quantize,
        "coding": form.coding,
        "ratio": _ratio(sum(layer.alpha.size for layer in layers), sum(layer.explicit.size for layer in layers)),
        "ratios": {layer.name: _ratio(layer.alpha.shape[1], layer.taps) for layer in layers},
        "training": training,
    }
    return metadata.describe(
        data,
        name=model.name,
        description=f"Takes {pixels.words}. Exported by dbf_keras {__version__}: {form.title}.",
        labels=labels,
        mean=pixels.mean,
        std=pixels.std,
        value_range=pixels.value_range,
        version=__version__,
        details={key: value for key, value in details.items() if value},
    )


def _ratio(kept: int, every: int) -> float | None:
    return round(kept / every, 4) if every else None


def _pixels(model: keras.Model, normalization: Normalization | None) -> _Pixels:
    if normalization is not None:
        mean, std = (np.atleast_1d(np.asarray(values, np.float64)) for values in normalization)
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError(f"`normalization` is a mean and a standard deviation above 0; got {normalization!r}.")
        ends = float((-mean / std).min()), float(((255 - mean) / std).max())
        words = "pixels from 0 to 255, less a mean and divided by a standard deviation"
        return _Pixels(words, mean.tolist(), std.tolist(), ends)
    integers = all(np.dtype(getattr(tensor.dtype, "name", tensor.dtype)).kind in "iu" for tensor in model.inputs)
    if integers or verify.takes_pixels(model):
        return _Pixels("raw pixels from 0 to 255, which it normalises itself", (0.0,), (1.0,), (0.0, 255.0))
    return _Pixels("inputs as it was trained on them")
