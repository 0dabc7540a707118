"""The kernel that a layer generates from its coefficients: products with small Hadamard blocks, never a P×P matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import computing_in, ops
from dbf_keras.mixins.coefficients import CoefficientsMixin, take_codes
from dbf_keras.mixins.generated import GeneratedKernel

# The most numbers of the matrix that takes a kernel to its coefficients, where their transform is not their inverse.
_LARGEST_FIT = 2**24


class GeneratedKernelMixin(CoefficientsMixin):
    """Generates the kernel.

    Attributes:
        kernel: the generated filters, in the shape of the plain twin's kernel.
        given_kernel: filters to compute with instead, as quantisation-aware training makes them of the generated ones.
    """

    given_kernel: Any = None

    @property
    def kernel(self) -> GeneratedKernel:
        """The generated filters (paper Eq. 1), in the shape of the plain twin's kernel."""
        if not self.built:
            raise AttributeError(f"Layer '{self.name}' has no kernel before it is built.")
        return GeneratedKernel(self)

    def generate_kernel(self) -> Any:
        """The filters as the layer computes with them, in its compute type."""
        if self.given_kernel is not None:
            return self.given_kernel
        return ops.reshape(
            self._generate(self._sp_ovsf_kernel if self.codes is None else self._grid_kernel), self.twin_shape
        )

    def _generate(self, generate: Callable[..., Any], *arguments: Any) -> Any:
        """What a function generates of the coefficients, in the layer's compute type.

        float16 takes part at the end only: gradients, scaled as large as it holds them, are added up over all taps.
        """
        if self.compute_dtype != "float16":
            return generate(*arguments)
        with computing_in(self.variable_dtype, [self]):
            kernel = generate(*arguments)
        return ops.cast(kernel, "float16")

    def generate_full_kernel(self) -> Any:
        """The filters in the type of the variables: what `kernel` stands for."""
        with computing_in(self.variable_dtype, [self]):
            return self.generate_kernel()

    def assign_kernel(self, kernel: Any) -> None:
        """`fit_kernel` for tensors, also within a compiled function: sets α to the least-squares fit of a kernel.

        Raises:
            ValueError: another shape, or a kernel that is too large.
        """
        if tuple(kernel.shape) != self.twin_shape:
            raise ValueError(f"Layer '{self.name}' has filters of shape {self.twin_shape}; got {tuple(kernel.shape)}.")
        filters = ops.cast(ops.convert_to_tensor(kernel), self.variable_dtype)
        with computing_in(self.variable_dtype, [self]):
            self.coefficients.assign(self._fit_tensor(filters))

    def _fit_tensor(self, kernel: Any) -> Any:
        """The variable's value at which the filters come closest to a kernel."""
        kh, kw, channels = self.filter_shape
        taps, filters = kh * kw * channels, kernel.shape[-1]
        powers_of_two = [not size & (size - 1) for size in (kh, kw, channels)]
        if self.codes is not None and (all(powers_of_two) or (powers_of_two[2] and self._inverse_gram is not None)):
            spatial = self._spatial_transform(ops.reshape(kernel, (kh, kw, channels, filters)))
            grid = ops.reshape(ops.matmul(self._block(channels), spatial), (taps, filters))
            products = ops.take(grid, self.codes.astype(np.int32), axis=0)
            return self._projected(products) / self.coefficient_scale
        if taps * self.coefficients.shape[0] > _LARGEST_FIT:
            raise ValueError(
                f"Layer '{self.name}' has too many taps, {taps}, to be assigned filters in a compiled function: its "
                "codes are not orthogonal. Give it a power of two of channels, or call fit_kernel(filters) outside."
            )
        fit = self._fit(np.eye(taps)) * self.coefficient_scale
        return ops.matmul(ops.cast(fit, kernel.dtype), ops.reshape(kernel, (taps, filters)))

    def _spatial_transform(self, grid: Any) -> Any:
        """Applies the two spatial blocks to [kh, kw, channels, K]."""
        kh, kw, channels, filters = grid.shape
        vertical = ops.matmul(self._block(kh), ops.reshape(grid, (kh, kw * channels * filters)))
        horizontal = ops.matmul(self._block(kw), ops.reshape(vertical, (kh, kw, channels * filters)))
        return ops.reshape(horizontal, (kh, kw, channels, filters))

    def _block(self, size: int) -> Any:
        return ops.cast(dbf_codes.short_codes(size), self.compute_dtype)

    def _take(self, places: np.ndarray) -> Any:
        """`take_codes` of what the layer computes with."""
        return take_codes(ops.cast(self.rounded_coefficients, self.compute_dtype), places)

    def _grid_kernel(self) -> Any:
        (kh, kw, channels), codes = self.filter_shape, self._grid_codes
        places = np.full(kh * kw * channels, len(codes))
        places[codes] = np.arange(len(codes))
        grid = self._take(places)
        spatial = self._spatial_transform(ops.reshape(grid, (kh, kw, channels, grid.shape[-1])))
        return ops.matmul(self._block(channels), spatial)

    def _sp_ovsf_kernel(self) -> Any:
        taps = math.prod(self.filter_shape)
        length = dbf_codes.padded(taps)
        bits = length.bit_length() - 1
        count, filters = self.coefficients.shape
        tree = dbf_codes.bit_reverse(np.arange(length), bits)  # Tree index of every natural index.
        flat = self._take(np.minimum(tree, count))
        # H_L = H_a ⊗ H_b with a·b = L: two products with matrices of about √L.
        high = 1 << (bits // 2)
        low = length // high
        flat = ops.matmul(self._block(high), ops.reshape(flat, (high, low * filters)))
        flat = ops.reshape(ops.matmul(self._block(low), ops.reshape(flat, (high, low, filters))), (length, filters))
        return flat[:taps]
