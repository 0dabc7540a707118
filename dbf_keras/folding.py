"""The folded form of a layer: pooling, a ±1 channel projection and a smaller dense convolution. NumPy only.

The filters of a separable set of codes (`dbf_keras.codes.separable`) are constant over pools of neighbouring taps, and
their channels lie in the space of the kept channel codes W. The layer therefore is, exactly,

1. a ±1 projection of its C channels to |W|,
2. sums of the pixels under each pool (sum pooling), `Folding.step` pixels apart,
3. a dense convolution of one tap a pool and |W| channels, with any values.

`dbf_keras.layers` trains in this form where that is less work, `dbf_keras.export` writes it with standard ops.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dbf_keras import codes as dbf_codes


def same_margins(
    size: Sequence[int], kernel_size: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and after an image's rows and columns with padding 'same'; at strides of one for any size.

    Args:
        size: (height, width) of the image, in pixels; an axis of stride one may be None.
        kernel_size: (kh, kw), in taps.
        strides: (vertical, horizontal), in pixels.
    """

    def margin(pixels: int, taps: int, stride: int) -> tuple[int, int]:
        total = taps - 1 if stride == 1 else max((-(-pixels // stride) - 1) * stride + taps - pixels, 0)
        return total // 2, total - total // 2

    vertical, horizontal = (margin(*axis) for axis in zip(size, kernel_size, strides, strict=True))
    return vertical, horizontal


class Steps(NamedTuple):
    """What `Folding.apply` is made of, on the array library of whoever calls it.

    Attributes:
        project: inputs [..., C] to [..., |W|], their products with `Folding.projection`.
        pad: (inputs, margins as `same_margins` gives them) to inputs with these zeros.
        pool: (inputs, pool size, step) to the sums of the pixels under each pool, without padding.
        convolve: (inputs, kernel, strides, padding, dilations) to the convolution, padding being "same" or "valid".
    """

    project: Callable[[Any], Any]
    pad: Callable[[Any, tuple[tuple[int, int], tuple[int, int]]], Any]
    pool: Callable[[Any, tuple[int, int], int], Any]
    convolve: Callable[[Any, Any, tuple[int, int], str, tuple[int, int]], Any]


@dataclasses.dataclass(frozen=True)
class Folding:
    """The folded form of one layer.

    Attributes:
        kernel_shape: (kh, kw, C) of the layer; a dense layer is (1, 1, C).
        pool_size: (vertical, horizontal) taps of a pool; (1, 1) if nothing is pooled.
        channels: W, the kept channel codes, int64 [|W|], ascending.
        strides: (vertical, horizontal) strides of the layer, in pixels.
        dilations: distances of neighbouring taps of the layer, in pixels.
        absorbs: whether channel codes that are all kept are absorbed in the filters, instead of projecting to them.
    """

    kernel_shape: dbf_codes.KernelShape
    pool_size: tuple[int, int]
    channels: np.ndarray
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    absorbs: bool = True

    @classmethod
    def of(
        cls,
        codes: np.ndarray,
        kernel_shape: dbf_codes.KernelShape,
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
    ) -> Folding | None:
        """The folded form of a layer that keeps these grid indices [n]; None if they are no separable set."""
        separable = dbf_codes.separable(codes, kernel_shape)
        if separable is None:
            return None
        return cls(kernel_shape, separable.pool_size, separable.channels, strides, dilations)

    @property
    def pooled(self) -> bool:
        """Whether pixels are added up."""
        return self.pool_size != (1, 1)

    @property
    def projected(self) -> bool:
        """Whether channels are projected; else the channel codes are absorbed in the filters."""
        return len(self.channels) < self.kernel_shape[2] or not self.absorbs

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Taps of the convolution that is left, (kh, kw) by pool."""
        return self.kernel_shape[0] // self.pool_size[0], self.kernel_shape[1] // self.pool_size[1]

    @property
    def step(self) -> int:
        """Pixels from one pooled sum that is needed to the next, the same in both directions."""
        return math.gcd(*self.pool_size, *self.strides)

    @property
    def pooled_strides(self) -> tuple[int, int]:
        """Strides of the convolution that is left, in pooled sums."""
        return self.strides[0] // self.step, self.strides[1] // self.step

    @property
    def pooled_dilations(self) -> tuple[int, int]:
        """Distances of neighbouring taps of the convolution that is left, in pooled sums."""
        return self.pool_size[0] // self.step, self.pool_size[1] // self.step

    @property
    def projection(self) -> np.ndarray:
        """The ±1 projection of the channels, int8 [C, |W|]."""
        return dbf_codes.short_codes(self.kernel_shape[2], self.channels).T

    def multiply_adds(self, filters: int, pooling: float, projecting: float | None = None) -> float:
        """Multiply-adds of the folded form for one output pixel.

        Args:
            filters: K.
            pooling: what one pooled sum costs, in multiply-adds.
            projecting: what the projection of one pixel costs; by default the product with `projection`.
        """
        if projecting is None:
            projecting = self.kernel_shape[2] * len(self.channels)
        projected = math.prod(self.strides) * projecting if self.projected else 0  # Skipped pixels, too.
        summed = math.prod(self.pooled_strides) * pooling if self.pooled else 0
        return projected + len(self.channels) * (summed + math.prod(self.kernel_size) * filters)

    def saves(self, filters: int, pooling: float) -> bool:
        """Whether the folded form takes fewer multiply-adds than the layer's plain twin; see `multiply_adds`."""
        return self.multiply_adds(filters, pooling) < math.prod(self.kernel_shape) * filters

    def filters(self, alpha: np.ndarray) -> np.ndarray:
        """The filters of the convolution that is left.

        Args:
            alpha: coefficients [K, n], columns in ascending order of grid index.

        Returns:
            [K, kh', kw', |W|], float; kh' and kw' as `kernel_size` says.
        """
        kh, kw = self.kernel_size
        grid = alpha.reshape(-1, kh, kw, len(self.channels))  # Ascending grid indices are sorted by (u, v, w).
        if not self.projected:
            return dbf_codes.forward(grid, (kh, kw, len(self.channels)))
        spatial = dbf_codes.forward(np.moveaxis(grid[..., None], 3, 1), (kh, kw, 1))
        return np.moveaxis(spatial[..., 0], 1, 3)

    def knows_margins(self, size: Sequence[int | None], padding: str) -> bool:
        """Whether the zeros around an image of that (height, width) are known, None being an unknown size."""
        return padding == "valid" or not self.pooled or None not in size or max(self.strides) == 1

    def without_pools(self, kernel: np.ndarray) -> tuple[Folding, np.ndarray]:
        """The form without pooling and its kernel [kh, kw, |W|, K], from the kernel [kh', kw', |W|, K] of this one."""
        vertical, horizontal = self.pool_size
        kernel = np.repeat(np.repeat(kernel, vertical, axis=0), horizontal, axis=1)
        return dataclasses.replace(self, pool_size=(1, 1)), kernel

    def apply(self, inputs: Any, kernel: Any, padding: str, steps: Steps) -> Any:
        """Computes the layer, without bias and activation.

        Args:
            inputs: [batch, height, width, C]; see `knows_margins` for unknown sizes.
            kernel: [kh', kw', |W|, K].
            padding: ``"same"`` or ``"valid"``.
            steps: how.

        Returns:
            [batch, height', width', K].
        """
        if self.projected:
            inputs = steps.project(inputs)
        if not self.pooled:
            return steps.convolve(inputs, kernel, self.strides, padding, self.dilations)
        if padding == "same":
            inputs = steps.pad(inputs, same_margins(inputs.shape[1:3], self.kernel_shape[:2], self.strides))
        inputs = steps.pool(inputs, self.pool_size, self.step)
        return steps.convolve(inputs, kernel, self.pooled_strides, "valid", self.pooled_dilations)
