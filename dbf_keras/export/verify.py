"""Holds a file against the Keras model that it came from."""

from __future__ import annotations

import numpy as np

from dbf_keras import runtime
from dbf_keras.backend import keras
from dbf_keras.export import trace


def takes_pixels(model: keras.Model) -> bool:
    """Whether a model does its own preprocessing, so that its inputs are raw pixels 0…255."""
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    return any(isinstance(layer, kinds) for layer in trace.all_layers(model))


def random_inputs(model: keras.Model, batch: int = 2, seed: int = 0, pixels: bool | None = None) -> list[np.ndarray]:
    """Inputs for a model.

    Args:
        model: the model; axes of unknown length other than the batch get 32.
        batch: batch size where the model leaves it open.
        seed: seed of the random numbers.
        pixels: integers 0…255 instead of normal numbers; by default where `takes_pixels`. Inputs of an integer type
            are integers 0…255 in any case (0…127 if they are int8).

    Returns:
        One array for each input of the model.
    """
    random = np.random.default_rng(seed)
    pixels = takes_pixels(model) if pixels is None else pixels
    inputs = []
    for tensor in model.inputs:
        first, *rest = tensor.shape
        shape = [first or batch, *(size or 32 for size in rest)]
        dtype = np.dtype(getattr(tensor.dtype, "name", tensor.dtype))
        if pixels or dtype.kind in "iu":
            inputs.append(random.integers(0, 128 if dtype == np.int8 else 256, shape).astype(dtype))
        else:
            inputs.append(random.standard_normal(shape).astype(dtype))
    return inputs


def run_file(model: keras.Model, data: bytes, inputs: list[np.ndarray], **interpreter: object) -> list[np.ndarray]:
    """The outputs of a file that `trace.to_flatbuffer` made of a model, in the order of the model's.

    Args:
        model: the model.
        data: the file.
        inputs: one array for each input of the model.
        **interpreter: arguments of `dbf_keras.runtime.Interpreter`.

    Raises:
        RuntimeError: the file has our ops and the C library is not built; says what to do.
    """
    loaded = runtime.Interpreter(model_content=data, **interpreter)
    loaded.allocate_tensors()  # The runner would do so too, but says less if the C library is missing.
    outputs = loaded.get_signature_runner(trace.SIGNATURE)(**dict(zip(trace.input_names(model), inputs, strict=True)))
    return [outputs[f"output_{index}"] for index in range(len(outputs))]


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
        relative = np.maximum(relative, largest / max(float(np.abs(expected).max()), np.finfo(np.float32).tiny))
    return float(absolute), float(relative)
