"""Representative data: checks it, and draws from it what the layers of a file get to see."""

from __future__ import annotations

import dataclasses
import inspect
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

_FORMS = (
    "`representative_data` is an array, an iterable of batches, a tf.data.Dataset, or a function without arguments "
    "that returns or yields such"
)


def to_samples(model: keras.Model, data: Any) -> list[list[np.ndarray]]:
    """Checks representative data and divides it into single examples where the model leaves the batch size open.

    Args:
        model: the model.
        data: batches, as `dbf_keras.export.to_tflite` takes them.

    Returns:
        For each example one array for each input of the model.

    Raises:
        ValueError: there is no batch, or one that the model does not take.
    """
    return to_labelled_samples(model, data)[0]


def to_labelled_samples(model: keras.Model, data: Any) -> tuple[list[list[np.ndarray]], np.ndarray | None]:
    """`to_samples`, and the numbers of the classes of all examples [N] if every batch has them.

    Raises:
        ValueError: as `to_samples`.
    """
    converter.require_inputs(model)
    inputs = _Inputs(model)
    samples, labels = [], []
    for number, batch in enumerate(_batches(data, inputs)):
        arrays, given = inputs.arrays(batch, number)
        labels.append(to_classes(given, len(arrays[0])))
        if all(shape[0] is None for shape in inputs.shapes):
            samples += [[array[i : i + 1] for array in arrays] for i in range(len(arrays[0]))]
        else:
            samples.append(arrays)
    if not samples:
        raise ValueError("`representative_data` is empty; give some hundred typical inputs, as an iterable of batches.")
    known = [some for some in labels if some is not None]
    return samples, np.concatenate(known) if len(known) == len(labels) else None


def to_classes(labels: Any, count: int) -> np.ndarray | None:
    """Labels of a batch as numbers of classes [count], also from one-hot ones; None if they are no such."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] > 1:
        array = array.argmax(axis=1)
    array = array.reshape(-1)
    whole = array.dtype.kind in "iuf" and len(array) == count and np.array_equal(array, np.rint(array))
    return array.astype(np.int64) if whole else None


class _Inputs:
    """What a model takes.

    Attributes:
        shapes: of the inputs, the batch first.
        names: for each input those that it is known by: its own, that in the file, its key in a dictionary of inputs.
    """

    def __init__(self, model: keras.Model):
        self.shapes = [tuple(tensor.shape) for tensor in model.inputs]
        self._dtypes = [np.dtype(getattr(tensor.dtype, "name", tensor.dtype)) for tensor in model.inputs]
        structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        keys = sorted(structure) if isinstance(structure, dict) else [None] * len(self.shapes)
        if len(keys) != len(self.shapes):  # A dictionary of more than tensors.
            keys = [None] * len(self.shapes)
        own = (str(tensor.name) for tensor in model.inputs)
        self.names = list(zip(own, converter.input_names(model), keys, strict=True))

    def arrays(self, batch: Any, number: int) -> tuple[list[np.ndarray], Any]:
        """The arrays of a batch, in the order of the inputs, and its labels, if it has some.

        Raises:
            ValueError: the model does not take it; ``number`` says which batch it is.
        """
        labelled = isinstance(batch, list | tuple) and len(batch) in (2, 3)  # (inputs, labels[, weights]), perhaps.
        labels = None
        if labelled and isinstance(batch[0], dict):
            batch, labels, labelled = batch[0], batch[1], False
        given = self._flat(batch, number)
        if labelled and not self._fits(given):
            inputs = self._flat(batch[0], number)
            if self._fits(inputs):
                given, labels = inputs, batch[1]
        if not self._fits(given):
            shapes = [array.shape for array in given]
            raise ValueError(
                f"`representative_data` is an iterable of batches as the model takes them, {_listed(self.shapes)}; "
                f"batch {number} is {_listed(shapes) if shapes else repr(batch)[:60]}.{self._advice(shapes)}"
            )
        if len({len(array) for array in given}) > 1:
            raise ValueError(f"`representative_data`: batch {number} has inputs of several batch sizes.")
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in given):
            raise ValueError(f"`representative_data`: batch {number} has numbers that are not finite.")
        return [array.astype(dtype) for array, dtype in zip(given, self._dtypes, strict=True)], labels

    def _flat(self, batch: Any, number: int) -> list[np.ndarray]:
        """The arrays of inputs by position or name, nested or not."""
        if isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[0], str):
            batch = batch[1]  # (signature, inputs), as the standard converter takes it.
        if isinstance(batch, dict):
            return self._by_name(batch, number)
        if isinstance(batch, list | tuple):
            return [array for part in batch for array in self._flat(part, number)]
        array = np.asarray(batch)
        return [array] if array.dtype.kind in "biuf" or array.dtype.name == "bfloat16" else []

    def _by_name(self, batch: dict, number: int) -> list[np.ndarray]:
        found = [next((name for name in names if name in batch), None) for names in self.names]
        if None in found or len(batch) > len(found):
            wanted = ", ".join(repr(names[2] or names[0]) for names in self.names)
            raise ValueError(
                f"`representative_data`: batch {number} has the names {', '.join(map(repr, batch))}; the model takes "
                f"{wanted}."
            )
        return [array for name in found for array in self._flat(batch[name], number)]

    def _fits(self, arrays: list[np.ndarray]) -> bool:
        return len(arrays) == len(self.shapes) and all(
            len(array.shape) == len(shape)
            and all(size in (None, got) for got, size in zip(array.shape, shape, strict=True))
            for array, shape in zip(arrays, self.shapes, strict=True)
        )

    def _advice(self, shapes: list[tuple]) -> str:
        if len(shapes) == len(self.shapes) and all(
            len(given) + 1 == len(shape) for given, shape in zip(shapes, self.shapes, strict=True)
        ):
            return " Give examples in batches: array[None], or dataset.batch(1)."
        return ""


def _batches(data: Any, inputs: _Inputs) -> Iterable[Any]:
    """The batches of representative data in any form.

    Raises:
        ValueError: it has none of the forms, or never ends.
    """
    data = getattr(data, "input_gen", data)  # tf.lite.RepresentativeDataset
    if callable(data) and not hasattr(data, "__iter__"):
        try:
            inspect.signature(data).bind()
        except TypeError:
            raise ValueError(
                "`representative_data` is a function with arguments; give one without, that returns or yields batches."
            ) from None
        except ValueError:  # A function in C has no signature.
            pass
        data = data()
    if isinstance(data, dict):
        return [data]
    if isinstance(data, str | bytes) or data is None:
        raise ValueError(f"{_FORMS}; got {data!r}.")
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        return _divided(np.asarray(data), inputs)
    if hasattr(data, "__getitem__") and hasattr(data, "on_epoch_end"):  # keras.utils.PyDataset, which never ends.
        return (data[index] for index in range(len(data)))
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise ValueError("`representative_data` never ends; give some hundred typical inputs, as dataset.take(100).")
    try:
        return iter(data)
    except TypeError:
        raise ValueError(f"{_FORMS}; got {data!r}.") from None


def _divided(array: np.ndarray, inputs: _Inputs) -> Iterable[np.ndarray]:
    """The batches of one array: of many examples, or of batches along another axis."""
    [shape, *others] = inputs.shapes
    if array.ndim != len(shape):
        return array if array.ndim else [array]
    if others or not shape[0] or len(array) < shape[0]:
        return [array]
    return [array[start : start + shape[0]] for start in range(0, len(array) - shape[0] + 1, shape[0])]


def _listed(shapes: list[tuple]) -> str:
    listed = [str(shape) for shape in shapes]
    return " and ".join(listed if len(listed) < 9 else [*listed[:8], f"{len(listed) - 8} more"])


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
