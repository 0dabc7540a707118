"""The kernel that a layer generates from its coefficients: products with small Sylvester matrices, never P×P."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import ops
from dbf_keras.mixins.coefficients import CoefficientsMixin, take_codes
from dbf_keras.mixins.transforms import combine


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
        if kh > 1:
            grid = ops.matmul(self._block(kh), ops.reshape(grid, (kh, kw * channels * filters)))
        if kw > 1:
            grid = ops.matmul(self._block(kw), ops.reshape(grid, (kh, kw, channels * filters)))
        return ops.reshape(grid, (kh, kw, channels, filters))

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
        filters = grid.shape[-1]
        spatial = self._spatial_transform(ops.reshape(grid, (kh, kw, channels, filters)))
        return combine(ops.reshape(spatial, (kh * kw, channels, filters)), channels)

    def _sp_ovsf_kernel(self) -> Any:
        taps = math.prod(self.filter_shape)
        length = dbf_codes.padded(taps)
        count, filters = self.coefficients.shape
        tree = dbf_codes.bit_reverse(np.arange(length), length.bit_length() - 1)  # Tree index of every natural index.
        return combine(ops.reshape(self._take(np.minimum(tree, count)), (1, length, filters)), taps)
