"""Representative data: checks it, and draws from it what the layers of a file get to see."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from dbf_keras import runtime
from dbf_keras.backend import keras
from dbf_keras.export import converter, flatfile, verify

# Bounds on what is drawn for one layer: examples, pixels and numbers.
_SAMPLES = 256
_PIXELS = 1 << 14
_NUMBERS = 1 << 23


def to_samples(model: keras.Model, batches: Iterable[Any]) -> list[list[np.ndarray]]:
    """Checks representative data and divides it into single examples where the model leaves the batch size open.

    Args:
        model: the model.
        batches: batches as the model takes them: arrays, or lists of arrays for a model of several inputs.

    Returns:
        For each example one array for each input of the model.

    Raises:
        ValueError: there is no batch, or one that the model does not take.
    """
    converter.require_inputs(model)
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    dtypes = [np.dtype(getattr(tensor.dtype, "name", tensor.dtype)) for tensor in model.inputs]
    samples = []
    for number, batch in enumerate(batches):
        arrays = [np.asarray(array) for array in (batch if isinstance(batch, list | tuple) else [batch])]
        given = [array.shape for array in arrays]
        if len(given) != len(shapes) or not all(map(_fits, given, shapes)):
            raise ValueError(
                f"`representative_data` is an iterable of batches as the model takes them, {_listed(shapes)}; "
                f"batch {number} is {_listed(given)}."
            )
        arrays = [array.astype(dtype) for array, dtype in zip(arrays, dtypes, strict=True)]
        if all(shape[0] is None for shape in shapes):
            samples += [[array[i : i + 1] for array in arrays] for i in range(min(map(len, arrays)))]
        else:
            samples.append(arrays)
    if not samples:
        raise ValueError("`representative_data` is empty; give some hundred typical inputs, as an iterable of batches.")
    return samples


def _fits(given: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(given) == len(shape) and all(size in (None, got) for got, size in zip(given, shape, strict=True))


def _listed(shapes: list[tuple]) -> str:
    return " and ".join(str(shape) for shape in shapes)


@dataclasses.dataclass(frozen=True)
class Site:
    """What an operator of the main graph takes its windows from.

    Attributes:
        tensor: index of its input.
        kernel: (kh, kw); (1, 1) for a dense layer.
        strides: by axis.
        dilations: by axis.
        same: whether the input is padded.
        zero_point: what it is padded with.
    """

    tensor: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    same: bool
    zero_point: int

    @classmethod
    def of(cls, graph: Any, operator: Any) -> Site:
        """Reads an int8 CONV_2D or FULLY_CONNECTED."""
        tensor, weights = (graph.tensors[operator.inputs[index]] for index in (0, 1))
        zero_point, options = int(tensor.quantization.zeroPoint[0]), operator.builtinOptions
        if not isinstance(options, flatfile.schema().Conv2DOptionsT):
            return cls(int(operator.inputs[0]), (1, 1), (1, 1), (1, 1), False, zero_point)
        return cls(
            int(operator.inputs[0]),
            (int(weights.shape[1]), int(weights.shape[2])),
            (options.strideH, options.strideW),
            (options.dilationHFactor, options.dilationWFactor),
            options.padding == flatfile.schema().Padding.SAME,
            zero_point,
        )

    def draw(self, values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
        """Draws windows [≤ count, kh·kw, C] of distinct output pixels from an input [N, H, W, C] or [..., C]."""
        if self.kernel == self.strides == (1, 1):
            values = values.reshape(-1, 1, 1, values.shape[-1])
        spans = [(size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True)]
        outputs, taps = [], []
        for size, span, stride in zip(values.shape[1:3], spans, self.strides, strict=True):
            outputs.append(-(-size // stride) if self.same else (size - span) // stride + 1)
        sizes = (len(values), *outputs)
        total = int(np.prod(sizes))
        batch, *pixels = np.unravel_index(random.choice(total, min(count, total), replace=False), sizes)
        for axis, pixel in enumerate(pixels):
            size, stride, step = values.shape[1 + axis], self.strides[axis], self.dilations[axis]
            before = max((outputs[axis] - 1) * stride + spans[axis] - size, 0) // 2 if self.same else 0
            taps.append(pixel[:, None] * stride - before + np.arange(self.kernel[axis]) * step)
        (rows, columns), (height, width) = taps, values.shape[1:3]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        windows = values[
            batch[:, None, None], rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :]
        ]
        windows[~inside] = self.zero_point
        return windows.reshape(len(batch), -1, values.shape[-1])


def draw_windows(
    model: keras.Model, data: bytes, sites: list[Site], samples: list[list[np.ndarray]], seed: int = 0
) -> list[np.ndarray]:
    """Runs an int8 file on examples, one by one, and draws windows of the inputs of some of its operators.

    Args:
        model: the Keras model that the file was made of.
        data: the file; standard ops only.
        sites: where to draw.
        samples: as `to_samples` returns them.
        seed: seed of the draw.

    Returns:
        For each site int8 windows [N, kh·kw, C].
    """
    import tensorflow as tf

    interpreter = runtime.Interpreter(
        model_content=data,
        runtime="tf",
        experimental_preserve_all_tensors=True,
        # Tensors inside of a delegate cannot be seen.
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    random = np.random.default_rng(seed)
    samples = samples[:: -(-len(samples) // _SAMPLES)]
    names = converter.input_names(model)
    drawn: list[list[np.ndarray]] = [[] for _ in sites]
    for sample in samples:
        verify.run_signature(interpreter, dict(zip(names, sample, strict=True)))
        for site, windows in zip(sites, drawn, strict=True):
            values = interpreter.get_tensor(site.tensor)
            taps = int(np.prod(site.kernel))
            count = min(_PIXELS // taps, _NUMBERS // (taps * values.shape[-1]))
            windows.append(site.draw(values, -(-count // len(samples)), random))
    return [np.concatenate(windows) for windows in drawn]
