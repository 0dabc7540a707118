"""The kernel that a layer generates from its coefficients: products with small Hadamard blocks, never a P×P matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import ops
from dbf_keras.mixins.coefficients import CoefficientsMixin, take_codes


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
        kernel = self._sp_ovsf_kernel() if self.codes is None else self._grid_kernel()
        return ops.reshape(kernel, self.twin_shape)

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
