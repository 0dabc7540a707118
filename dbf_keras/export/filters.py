"""The filters of a DBF layer as numbers, apart from Keras."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import ops
from dbf_keras.folding import Folding
from dbf_keras.layers import DBFConv2D, DBFDense


@dataclasses.dataclass(frozen=True)
class Filters:
    """The filters of one layer, in float64 so that forms differ by no more than their last rounding.

    Attributes:
        name: the layer's name.
        shape: (kh, kw, C); a dense layer is (1, 1, C).
        strides: strides of the convolution; (1, 1) for a dense layer.
        dilations: distances of neighbouring taps; (1, 1) for a dense layer.
        alpha: coefficients [K, n]; columns in ascending order of grid index, or in tree order if `codes` is None.
        codes: [n] ascending grid indices; None for the paper's flat codes (``sp_ovsf``).
        levels: where α is to be coded, the whole numbers, int8 [K, n], that it is multiples of; else None.
        steps: what they are multiples of, at least 0, float64 [K].
    """

    name: str
    shape: tuple[int, int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    alpha: np.ndarray
    codes: np.ndarray | None
    levels: np.ndarray | None = None
    steps: np.ndarray | None = None

    @classmethod
    def of(cls, layer: DBFConv2D | DBFDense) -> Filters:
        """Reads a built layer."""
        # α itself and not `layer.kernel`: the latter has the layer's compute type, which may be half precision.
        alpha = np.asarray(ops.convert_to_numpy(layer.rounded_coefficients), np.float64).T
        codes = layer.codes
        if codes is not None:
            ascending = np.argsort(codes)
            alpha, codes = alpha[:, ascending], np.asarray(codes)[ascending]
        strides, dilations = (tuple(getattr(layer, name, (1, 1))) for name in ("strides", "dilation_rate"))
        return cls(layer.name, layer.filter_shape, strides, dilations, alpha, codes)

    @property
    def taps(self) -> int:
        """P, the taps of a filter."""
        return math.prod(self.shape)

    @functools.cached_property
    def explicit(self) -> np.ndarray:
        """The filters [K, kh, kw, C]."""
        if self.codes is None:
            return dbf_codes.sp_ovsf_synthesize(self.alpha, self.shape)
        return dbf_codes.synthesize(self.alpha, self.codes, self.shape)

    @functools.cached_property
    def folding(self) -> Folding | None:
        """The layer's folded form, if its codes are a separable set."""
        if self.codes is None:
            return None
        return Folding.of(self.codes, self.shape, self.strides, self.dilations)

    @property
    def pool_size(self) -> tuple[int, int]:
        """The pool, (vertical, horizontal), over which all codes are constant; the codes are on the grid."""
        return dbf_codes.pool_size(self.grid_codes, self.shape)

    @property
    def grid_codes(self) -> np.ndarray:
        """`codes` of a layer that has them.

        Raises:
            ValueError: it keeps flat codes.
        """
        if self.codes is None:
            raise ValueError(f"Layer {self.name!r} keeps flat codes, which have no place in the code grid.")
        return self.codes

    def scaled(self, scales: np.ndarray) -> Filters:
        """The same with filters times one scale [K] each."""
        scaled = dataclasses.replace(self, alpha=self.alpha * scales[:, None])
        if self.levels is None or self.steps is None:
            return scaled
        signs = np.where(scales < 0, -1, 1).astype(np.int8)
        return dataclasses.replace(scaled, levels=self.levels * signs[:, None], steps=self.steps * np.abs(scales))

    def with_levels(self, levels: np.ndarray, steps: np.ndarray) -> Filters:
        """The same with α = levels [K, n] times steps [K], to be coded."""
        return dataclasses.replace(self, alpha=levels * steps[:, None], levels=levels, steps=steps)

    def over_pools(self) -> Filters:
        """The layer that is left over the pooled sums; its taps are a pool apart."""
        kh, kw, channels = self.shape
        vertical, horizontal = self.pool_size
        spatial, w = np.divmod(self.grid_codes, channels)
        u, v = np.divmod(spatial, kw)
        codes = (u // vertical * (kw // horizontal) + v // horizontal) * channels + w
        return dataclasses.replace(self, shape=(kh // vertical, kw // horizontal, channels), codes=codes)
