"""What a network costs: multiply-adds of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dbf_keras.backend import keras

_layers = keras.layers
_CONVOLUTIONS = (_layers.Conv1D, _layers.Conv2D, _layers.Conv3D, _layers.DepthwiseConv1D, _layers.DepthwiseConv2D)
_TRANSPOSED = (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose)
_SEPARABLE = (_layers.SeparableConv1D, _layers.SeparableConv2D)
# Layers whose weights of two axes or more are looked up or multiplied element by element.
_ELEMENTWISE = (_layers.Embedding, _layers.PReLU, _layers.Normalization, _layers.LayerNormalization)
# Layers and functions of keras.ops that multiply matrices without weights of their own.
_PRODUCTS = {
    *("Attention", "AdditiveAttention", "Conv", "ConvTranspose", "DepthwiseConv", "Dot", "DotProductAttention"),
    *("Einsum", "Inner", "Matmul", "Outer", "SeparableConv", "Tensordot", "Vdot"),
}


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of the convolutions and dense layers of a network for one image.

    A layer counts as often as it is called, in nested models too. A DBF layer counts one for each coefficient and
    output pixel, as the op computes it; the sums and differences of its transforms are not counted. Of a transposed
    convolution each input pixel is multiplied with the whole kernel, also where the result is cropped. Products element
    by element (BatchNorm, scaling, biases), pooling and what a Lambda computes are not counted.

    Args:
        model: functional or Sequential, built for images of a fixed size.

    Raises:
        ValueError: a layer that multiplies matrices in a way that is not known here (recurrent ones, attention,
            wrappers, models of another kind), or images whose size is open.
    """
    return sum(_count(*call) for call in calls(model))


class Call(NamedTuple):
    """A layer, or function of keras.ops, as a network calls it.

    Attributes:
        operation: the layer.
        arguments: symbolic inputs.
        result: symbolic outputs.
    """

    operation: Any
    arguments: Sequence[Any]
    result: Any


def calls(model: keras.Model, size: Sequence[int] | None = None) -> list[Call]:
    """Every call of a layer that is no model in a network, in nested models too.

    Args:
        model: functional or Sequential, built.
        size: (height, width) of its images where they are open.

    Raises:
        ValueError: the model is of another kind.
    """
    found: list[Call] = []

    def observed(operation: Any) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            if isinstance(operation, keras.Model):
                return _through(operation, arguments[0], observed)
            result = operation.compute_output_spec(*arguments, **options)
            found.append(Call(operation, arguments, result))
            return result

        return call

    inputs = model.inputs
    if size is not None:
        inputs = [keras.KerasTensor(_with_size(tensor.shape, size), tensor.dtype) for tensor in inputs]
    _through(model, inputs, observed)
    return found


def _with_size(shape: Sequence[int | None], size: Sequence[int]) -> tuple[int | None, ...]:
    lengths = [None, *size, *[None] * len(shape)]
    return tuple(length if known is None else known for known, length in zip(shape, lengths, strict=False))


def _through(model: keras.Model, inputs: Any, observed: Callable[[Any], Callable]) -> Any:
    """Passes symbolic inputs through a model, calling ``observed(layer)`` for each layer."""
    if isinstance(model, keras.Sequential):
        (result,) = inputs if isinstance(inputs, Sequence) else (inputs,)
        for layer in model.layers:
            result = observed(layer)(result)
        return result
    if not hasattr(model, "_run_through_graph"):
        raise ValueError(f"The multiply-adds of '{model.name}' are not known: it is neither functional nor Sequential.")
    return model._run_through_graph(inputs, operation_fn=observed)


def _count(operation: Any, arguments: Sequence[Any], result: Any) -> int:
    """The multiply-adds of a layer, or function of keras.ops, of given inputs and outputs."""
    if hasattr(operation, "coefficients"):
        return _positions(operation, result) * math.prod(operation.coefficients.shape)
    if isinstance(operation, (*_CONVOLUTIONS, _layers.Dense)):
        return _positions(operation, result) * math.prod(operation.kernel.shape)
    if isinstance(operation, _TRANSPOSED):
        return _positions(operation, arguments[0]) * math.prod(operation.kernel.shape)
    if isinstance(operation, _SEPARABLE):
        kernels = operation.depthwise_kernel, operation.pointwise_kernel
        return _positions(operation, result) * sum(math.prod(kernel.shape) for kernel in kernels)
    if isinstance(operation, _layers.EinsumDense):
        return _einsum(operation, arguments[0])
    known = isinstance(operation, _ELEMENTWISE)
    weights = () if known else getattr(operation, "weights", ())
    if type(operation).__name__ in _PRODUCTS or any(sum(n > 1 for n in weight.shape) > 1 for weight in weights):
        raise ValueError(f"The multiply-adds of '{operation.name}', {type(operation).__name__}, are not known.")
    return 0


def _positions(layer: keras.layers.Layer, tensor: Any) -> int:
    """The number of pixels, or positions, of a tensor of images or vectors."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return _product(layer, tensor.shape[2:] if first else tensor.shape[1:-1])


def _einsum(layer: keras.layers.EinsumDense, inputs: Any) -> int:
    """One for each input and each value of the kernel's axes that the input lacks."""
    source, kernel = layer.equation.replace(" ", "").partition("->")[0].split(",")
    own = [size for axis, size in zip(kernel, layer.kernel.shape, strict=True) if axis not in source]
    return _product(layer, [*inputs.shape[1:], *own])


def _product(layer: keras.layers.Layer, sizes: Sequence[int | None]) -> int:
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise ValueError(f"The size of '{layer.name}' is open; build the network for images of a fixed size.")
    return math.prod(known)
