"""Products with the codes of one axis, in small Sylvester matrices: work of L·√L or less for L codes, never L²."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import ops

# A multiply-add in a small matrix takes so many times as long as one in a large matrix.
_SLOWDOWN = 2


def block(size: int, dtype: Any, indices: np.ndarray | None = None) -> Any:
    """`dbf_keras.codes.short_codes` as a tensor of a floating type."""
    # Not cast from int8 in the graph: TFLite's converter computes nothing ahead of time that is four times as large.
    return ops.cast(dbf_codes.short_codes(size, indices).astype(np.float32), dtype)


def transposed_block(size: int, dtype: Any, indices: np.ndarray) -> Any:
    """`block`, a code a column."""
    return ops.cast(dbf_codes.short_codes(size, indices).T.astype(np.float32), dtype)


def combine(grid: Any, taps: int) -> Any:
    """Combinations of codes: the sums of codes 0, 1, … of one axis, each times its coefficient.

    Args:
        grid: coefficients [rows, codes, K].
        taps: length of the axis.

    Returns:
        [rows, taps, K], of the same type.
    """
    rows, codes, filters = grid.shape
    factors = dbf_codes.kronecker_factors(codes)
    left = math.prod(factors)
    if left > codes:
        grid = ops.pad(grid, [[0, 0], [0, left - codes], [0, 0]])
    high = -(-taps // (left // factors[0]))
    count = rows
    for size, kept in zip(factors, (high, *factors[1:]), strict=True):
        left //= size
        grid = ops.matmul(
            transposed_block(kept, grid.dtype, np.arange(size)), ops.reshape(grid, (count, size, left * filters))
        )
        count *= kept
    grid = ops.reshape(grid, (rows, count // rows, filters))
    return grid if count == rows * taps else grid[:, :taps]


class Projection:
    """The ±1 projection of channels to some channel codes.

    Attributes:
        factored: whether it is computed with small matrices.
        work: multiply-adds for one pixel, those in small matrices weighted by what they take.
    """

    def __init__(self, channels: int, codes: np.ndarray):
        """Plans the products.

        Args:
            channels: C.
            codes: W, int64 [|W|], ascending.
        """
        self._channels, self._codes = channels, codes
        self._factors = dbf_codes.kronecker_factors(channels)
        length = math.prod(self._factors)
        digits = np.unravel_index(codes, self._factors)
        # A code is a product of one code an axis, and only those that occur are computed.
        self._kept = [np.unique(digit) for digit in digits]
        self._shape = tuple(map(len, self._kept))
        places = [np.searchsorted(*pair) for pair in zip(self._kept, digits, strict=True)]
        self._places = np.ravel_multi_index(places, self._shape)
        work, left = 0, length
        for size, kept in zip(self._factors[::-1], self._shape[::-1], strict=True):
            work += left * kept
            left = left // size * kept
        whole = channels * len(codes)
        self.factored = len(self._factors) > 1 and _SLOWDOWN * work < whole
        self.work = _SLOWDOWN * work if self.factored else whole

    def __call__(self, inputs: Any) -> Any:
        """Projects [..., C] to [..., |W|]."""
        if not self.factored:
            return ops.tensordot(inputs, transposed_block(self._channels, inputs.dtype, self._codes), axes=1)
        shape, axes = ops.shape(inputs), len(inputs.shape)
        left = math.prod(self._factors)
        x = ops.reshape(inputs, (-1, self._channels))
        if left > self._channels:
            x = ops.pad(x, [[0, 0], [0, left - self._channels]])
        # The last axis first: what reads neighbouring numbers may leave the fewest.
        last, kept = self._factors[-1], self._kept[-1]
        x = ops.matmul(ops.reshape(x, (-1, last)), transposed_block(last, x.dtype, kept))
        count = len(kept)
        for size, kept in zip(self._factors[-2::-1], self._kept[-2::-1], strict=True):
            x = ops.matmul(block(size, x.dtype, kept), ops.reshape(x, (-1, size, count)))
            count *= len(kept)
        x = ops.reshape(x, (-1, count))
        if len(self._codes) < count:
            x = ops.take(x, self._places.astype(np.int32), axis=1)
        return x if axes == 2 else ops.reshape(x, (*(shape[axis] for axis in range(axes - 1)), len(self._codes)))
