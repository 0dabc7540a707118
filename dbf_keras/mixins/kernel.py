"""The kernel that a layer generates from its coefficients: products with small Sylvester matrices, never P×P."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import computing_in, ops
from dbf_keras.mixins.coefficients import CoefficientsMixin, take_codes
from dbf_keras.mixins.generated import GeneratedKernel
from dbf_keras.mixins.transforms import block, combine

# The most numbers of the matrix that takes a kernel to its coefficients, where their transform is not their inverse.
_LARGEST_FIT = 2**24

# The most numbers of a kernel that are generated at once, 64 MiB of float32. TFLite's converter computes nothing ahead
# of time that reads more than 128 MiB.
_MOST_NUMBERS = 1 << 24


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
        return ops.reshape(self._generate(self._kernel_in_parts), self.twin_shape)

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
            grid = ops.reshape(combine(ops.reshape(spatial, (kh * kw, channels, filters)), channels), (taps, filters))
            products = ops.take(grid, self.codes.astype(np.int32), axis=0)
            return self._projected(products) / self.coefficient_scale
        if taps * self.coefficients.shape[0] > _LARGEST_FIT:
            raise ValueError(
                f"Layer '{self.name}' has too many taps, {taps}, to be assigned filters in a compiled function: its "
                "codes are not orthogonal. Give it a power of two of channels, or call fit_kernel(filters) outside."
            )
        fit = self._fit(np.eye(taps)) * self.coefficient_scale
        return ops.matmul(ops.cast(fit, kernel.dtype), ops.reshape(kernel, (taps, filters)))

    def _kernel_in_parts(self) -> Any:
        held = ops.convert_to_tensor(self.coefficients)
        steps = None if self.steps is None else ops.convert_to_tensor(self.steps)
        count, filters = held.shape
        most = max(1, _MOST_NUMBERS // math.prod(self.filter_shape))
        parts = [(held, steps)]
        if filters > most:
            # `slice` and not an index: of α that is larger yet, the converter computes only that.
            parts = [
                (
                    ops.slice(held, (0, start), (count, min(most, filters - start))),
                    None if steps is None else ops.slice(steps, (start,), (min(most, filters - start),)),
                )
                for start in range(0, filters, most)
            ]
        generate = self._sp_ovsf_kernel if self.codes is None else self._grid_kernel
        kernels = [generate(ops.cast(self._rounded(*part), self.compute_dtype)) for part in parts]
        return kernels[0] if len(kernels) == 1 else ops.concatenate(kernels, axis=-1)

    def _spatial_transform(self, grid: Any) -> Any:
        """Applies the two spatial blocks to [kh, kw, channels, K]."""
        kh, kw, channels, filters = grid.shape
        if kh > 1:
            grid = ops.matmul(self._block(kh), ops.reshape(grid, (kh, kw * channels * filters)))
        if kw > 1:
            grid = ops.matmul(self._block(kw), ops.reshape(grid, (kh, kw, channels * filters)))
        return ops.reshape(grid, (kh, kw, channels, filters))

    def _block(self, size: int) -> Any:
        return block(size, self.compute_dtype)

    def _grid_kernel(self, alpha: Any) -> Any:
        (kh, kw, channels), codes = self.filter_shape, self._grid_codes
        places = np.full(kh * kw * channels, len(codes))
        places[codes] = np.arange(len(codes))
        spatial = self._spatial_transform(ops.reshape(take_codes(alpha, places), (kh, kw, channels, alpha.shape[1])))
        return combine(ops.reshape(spatial, (kh * kw, channels, alpha.shape[1])), channels)

    def _sp_ovsf_kernel(self, alpha: Any) -> Any:
        taps = math.prod(self.filter_shape)
        length = dbf_codes.padded(taps)
        count, filters = alpha.shape
        tree = dbf_codes.bit_reverse(np.arange(length), length.bit_length() - 1)  # Tree index of every natural index.
        return combine(ops.reshape(take_codes(alpha, np.minimum(tree, count)), (1, length, filters)), taps)
