"""Holds a file against the Keras model that it came from."""

from __future__ import annotations

from typing import Any

import numpy as np

from dbf_keras import runtime
from dbf_keras.backend import all_layers, keras
from dbf_keras.export import converter

# Lengths to try for open axes.
_SIDES = (32, 64, 128, 256, 512)


def takes_pixels(model: keras.Model) -> bool:
    """Whether a model does its own preprocessing, so that its inputs are raw pixels 0…255."""
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    return any(isinstance(layer, kinds) for layer in all_layers(model))


def leaves_size_open(model: keras.Model) -> bool:
    """Whether an input of a model has an axis of unknown length besides the batch."""
    return any(None in tensor.shape[1:] for tensor in model.inputs)


def _open_size(model: keras.Model) -> tuple[int, int]:
    """A side of images that a model takes: 32 pixels, or as often twice that as its layers need."""
    side = _SIDES[0]
    if leaves_size_open(model):
        side = next((side for side in _SIDES if takes_size(model, (side, side))), side)
    return side, side


def takes_size(model: keras.Model, size: tuple[int, int]) -> bool:
    """Whether a model takes inputs of this (height, width) where it leaves them open, as far as its layers can tell."""
    shapes = [_with_size(tuple(tensor.shape), 1, size) for tensor in model.inputs]
    try:
        model.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])
    except ValueError:
        return False
    except Exception:  # noqa: BLE001 - a layer that cannot tell shapes without inputs
        return True
    return True


def _with_size(shape: tuple[int | None, ...], batch: int, size: tuple[int, int]) -> tuple[int, ...]:
    """A shape whose batch and first two axes get these lengths where they are unknown, and further ones 32."""
    lengths = [batch, *size, *[_SIDES[0]] * len(shape)]
    return tuple(length if known is None else known for known, length in zip(shape, lengths, strict=False))


def random_inputs(
    model: keras.Model,
    batch: int = 2,
    seed: int = 0,
    pixels: bool | None = None,
    size: tuple[int, int] | None = None,
) -> list[np.ndarray]:
    """Inputs for a model.

    Args:
        model: the model.
        batch: batch size where the model leaves it open.
        seed: seed of the random numbers.
        pixels: integers 0…255 instead of normal numbers; by default where `takes_pixels`. Inputs of an integer type
            are integers 0…255 in any case (0…127 if they are int8).
        size: (height, width) where the model leaves them open; by default 32 pixels, or as many more as its layers
            need.

    Returns:
        One array for each input of the model.
    """
    random = np.random.default_rng(seed)
    pixels = takes_pixels(model) if pixels is None else pixels
    size = size or _open_size(model)
    inputs = []
    for tensor in model.inputs:
        shape = _with_size(tuple(tensor.shape), batch, size)
        dtype = np.dtype(getattr(tensor.dtype, "name", tensor.dtype))
        if pixels or dtype.kind in "iu":
            inputs.append(random.integers(0, 128 if dtype == np.int8 else 256, shape).astype(dtype))
        else:
            inputs.append(random.standard_normal(shape).astype(dtype))
    return inputs


def run_file(model: keras.Model, data: bytes, inputs: list[np.ndarray], **interpreter: Any) -> list[np.ndarray]:
    """The outputs of a file that `converter.to_flatbuffer` made of a model, in the order of the model's.

    Real numbers go in and come out, also where the file's inputs or outputs are int8.

    Args:
        model: the model.
        data: the file.
        inputs: one array for each input of the model.
        **interpreter: arguments of `dbf_keras.runtime.Interpreter`.

    Raises:
        RuntimeError: the file has our ops and the C library is not built; says what to do.
    """
    loaded = runtime.Interpreter(model_content=data, **interpreter)
    named = dict(zip(converter.input_names(model), inputs, strict=True))
    for name, detail in loaded.get_signature_runner(converter.SIGNATURE).get_input_details().items():
        loaded.resize_tensor_input(detail["index"], named[name].shape)  # Before, as 1 pixel may be too small.
    loaded.allocate_tensors()  # The runner would do so too, but says less if the C library is missing.
    return run_signature(loaded, named, converter.output_names(model))


def run_signature(interpreter: Any, inputs: dict[str, np.ndarray], names: list[str] | None = None) -> list[np.ndarray]:
    """Runs the signature of a file.

    Args:
        interpreter: has the file.
        inputs: real numbers by name.
        names: the outputs' names; by default all, in the order of numbers at their ends.

    Returns:
        The outputs of these names as real numbers.
    """
    runner = interpreter.get_signature_runner(converter.SIGNATURE)
    sources, targets = runner.get_input_details(), runner.get_output_details()
    outputs = runner(**{name: _quantize(values, sources[name]) for name, values in inputs.items()})
    if names is None:
        names = sorted(outputs, key=lambda name: (len(name), name))
    return [_dequantize(outputs[name], targets[name]) for name in names]


def _quantize(values: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if not scale or values.dtype.kind != "f":
        return values
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])


def _dequantize(values: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    return np.float32(scale) * (values.astype(np.int32) - zero_point) if scale else values


def noise(reference: list[np.ndarray], outputs: list[np.ndarray]) -> float:
    """The root mean square of the difference between two lists of outputs, relative to that of the reference."""
    pairs = list(zip(reference, outputs, strict=True))
    error = sum(np.square(expected.astype(np.float64) - actual).sum() for expected, actual in pairs)
    energy = sum(np.square(expected, dtype=np.float64).sum() for expected, _ in pairs)
    return float(np.sqrt(error / max(energy, np.finfo(np.float64).tiny)))


def difference(reference: list[np.ndarray], outputs: list[np.ndarray]) -> tuple[float, float]:
    """The largest difference between two lists of outputs: absolute, and relative to the largest |reference| of each.

    Raises:
        ValueError: an output has another shape than its reference.
    """
    absolute = relative = 0.0  # By np.maximum below: the built-in max would lose a NaN.
    for expected, actual in zip(reference, outputs, strict=True):
        if expected.shape != actual.shape:
            raise ValueError(f"The file computes an output of shape {actual.shape}, Keras one of {expected.shape}.")
        if not expected.size:
            continue
        largest = float(np.abs(expected.astype(np.float64) - actual).max())
        absolute = np.maximum(absolute, largest)
        scale, tiny = float(np.abs(expected).max()), np.finfo(np.float32).tiny
        relative = np.maximum(relative, largest / (tiny if tiny > scale else scale))
    return float(absolute), float(relative)
