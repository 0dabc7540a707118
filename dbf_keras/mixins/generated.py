"""The kernel of a DBF layer as Keras and its wrappers know kernels: something to read, and to assign to."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from dbf_keras.backend import ops


class GeneratedKernel:
    """Reads as the filters that a layer generates now, and takes filters by `assign`, as a variable does.

    Wrappers such as ``keras.layers.SpectralNormalization`` keep a layer's kernel, read it at each call and assign to
    it. Whatever else is asked of it goes to the tensor of filters.

    Args:
        layer: the DBF layer, built.
    """

    def __init__(self, layer: Any):
        self._layer = layer

    @property
    def value(self) -> Any:
        """The filters, generated anew."""
        return self._layer.generate_full_kernel()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the plain twin's kernel."""
        return self._layer.twin_shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def assign(self, value: Any) -> GeneratedKernel:
        """Sets the coefficients such that the filters come closest to these: exactly, if the codes reach them.

        Raises:
            ValueError: another shape, or a kernel that is too large for it.
        """
        self._layer.assign_kernel(value)
        return self

    def numpy(self) -> np.ndarray:
        """The filters as an array."""
        return ops.convert_to_numpy(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        return self.value if dtype is None else ops.cast(self.value, dtype)

    def __jax_array__(self) -> Any:
        return self.value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Protocols, of copying and of other array libraries, that a kernel has no part in.
            raise AttributeError(name)
        return getattr(self.value, name)

    def __getitem__(self, key: Any) -> Any:
        return self.value[key]

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<GeneratedKernel of layer '{self._layer.name}', shape={self.shape}>"


def _delegated(name: str) -> Callable:
    function = getattr(operator, name)

    def method(self: GeneratedKernel, *others: Any) -> Any:
        return function(self.value, *(other.value if isinstance(other, GeneratedKernel) else other for other in others))

    return method


def _reflected(name: str) -> Callable:
    function = getattr(operator, name)
    return lambda self, other: function(other, self.value)


for _name in ("neg", "pos", "abs", "lt", "le", "gt", "ge"):
    setattr(GeneratedKernel, f"__{_name}__", _delegated(f"__{_name}__"))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(GeneratedKernel, f"__{_name}__", _delegated(f"__{_name}__"))
    setattr(GeneratedKernel, f"__r{_name}__", _reflected(f"__{_name}__"))
