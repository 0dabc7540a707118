"""The kernel that a layer generates from its coefficients: products with small Sylvester matrices, never P×P."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import ops
from dbf_keras.mixins.coefficients import CoefficientsMixin, take_codes
from dbf_keras.mixins.transforms import block, combine

# The most numbers of a kernel that are generated at once, 64 MiB of float32. TFLite's converter computes nothing ahead
# of time that reads more than 128 MiB.
_MOST_NUMBERS = 1 << 24


class GeneratedKernelMixin(CoefficientsMixin):
    """Generates the kernel.

    Attributes:
        kernel: the generated filters, in the shape of the plain twin's kernel.
    """

    @property
    def kernel(self) -> Any:
        """The generated filters (paper Eq. 1), in the shape of the plain twin's kernel."""
        if not self.built:
            raise AttributeError(f"Layer '{self.name}' has no kernel before it is built.")
        held = ops.convert_to_tensor(self.coefficients)
        count, filters = held.shape
        step = max(1, _MOST_NUMBERS // math.prod(self.filter_shape))
        # `slice` and not an index: of α that is larger yet, the converter computes only that.
        parts = (
            [held]
            if filters <= step
            else [ops.slice(held, (0, start), (count, min(step, filters - start))) for start in range(0, filters, step)]
        )
        generate = self._sp_ovsf_kernel if self.codes is None else self._grid_kernel
        kernels = [generate(ops.cast(self._rounded(part), self.compute_dtype)) for part in parts]
        kernel = kernels[0] if len(kernels) == 1 else ops.concatenate(kernels, axis=-1)
        return ops.reshape(kernel, self.twin_shape)

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
