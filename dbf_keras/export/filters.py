"""The filters of a DBF layer as numbers, in the forms in which a file can hold them."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import ops
from dbf_keras.layers import DBFConv2D, DBFDense, sum_stride


class Folded(NamedTuple):
    """A layer as a ±1 projection of the channels, sums over runs of taps, and a smaller convolution.

    Attributes:
        runs: (vertical, horizontal) length of the runs.
        projection: [C, C'], or None where all channel codes are kept: C' = C.
        filters: [K, kh / vertical, kw / horizontal, C'], their taps a run apart.
    """

    runs: tuple[int, int]
    projection: np.ndarray | None
    filters: np.ndarray


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
    """

    name: str
    shape: tuple[int, int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    alpha: np.ndarray
    codes: np.ndarray | None

    @classmethod
    def of(cls, layer: DBFConv2D | DBFDense) -> Filters:
        """Reads a built layer."""
        # α itself and not `layer.kernel`: the latter has the layer's compute type, which may be half precision.
        alpha = np.asarray(ops.convert_to_numpy(layer.rounded_coefficients), np.float64).T
        codes = layer.codes
        if codes is not None:
            ascending = np.argsort(codes)
            alpha, codes = alpha[:, ascending], np.asarray(codes)[ascending]
        shape = tuple(int(size) for size in (1, 1, *layer.kernel.shape)[-4:-1])
        strides, dilations = (getattr(layer, name, (1, 1)) for name in ("strides", "dilation_rate"))
        return cls(layer.name, shape, strides, dilations, alpha, codes)

    @property
    def taps(self) -> int:
        """P, the taps of a filter."""
        return int(np.prod(self.shape))

    @functools.cached_property
    def explicit(self) -> np.ndarray:
        """The filters [K, kh, kw, C]."""
        if self.codes is None:
            return dbf_codes.sp_ovsf_synthesize(self.alpha, self.shape)
        return dbf_codes.synthesize(self.alpha, self.codes, self.shape)

    @property
    def runs(self) -> tuple[int, int]:
        """The (vertical, horizontal) length of the runs of neighbouring taps over which all codes are constant."""
        kh, kw, channels = self.shape
        every = (np.bitwise_or.reduce(index) for index in np.divmod(self.codes // channels, kw))
        bits = (int(index) | side for index, side in zip(every, (kh, kw), strict=True))
        return tuple(number & -number for number in bits)

    def over_sums(self) -> Filters:
        """The layer that is left over the sums of these runs; its taps are a run apart."""
        kh, kw, channels = self.shape
        vertical, horizontal = self.runs
        spatial, w = np.divmod(self.codes, channels)
        u, v = np.divmod(spatial, kw)
        codes = (u // vertical * (kw // horizontal) + v // horizontal) * channels + w
        return dataclasses.replace(self, shape=(kh // vertical, kw // horizontal, channels), codes=codes)

    def product(self) -> dbf_codes.Product | None:
        """The factors of the code set, if it is one."""
        return None if self.codes is None else dbf_codes.product(self.codes, self.shape)

    def folded(self) -> Folded:
        """The factors of a layer whose code set is a product."""
        kh, kw, channels = self.shape
        (vertical, horizontal), kept = self.product()
        kh, kw = kh // vertical, kw // horizontal
        grid = self.alpha.reshape(-1, kh, kw, len(kept))  # Ascending codes are sorted by (u, v, w).
        if len(kept) == channels:
            return Folded((vertical, horizontal), None, dbf_codes.forward(grid, (kh, kw, channels)))
        smaller = dbf_codes.forward(np.moveaxis(grid[..., None], 3, 1), (kh, kw, 1))
        projection = dbf_codes.short_codes(channels)[:, kept].astype(np.float64)
        return Folded((vertical, horizontal), projection, np.moveaxis(smaller[..., 0], 1, 3))

    def not_folded(self) -> tuple[str, bool] | None:
        """Why the layer is not written as folded.

        Returns:
            The reason, and whether it is impossible rather than just no gain; None for a layer to fold.
        """
        if self.codes is None:
            return "sp_ovsf keeps flat codes, which do not separate into spatial and channel codes", True
        factors = self.product()
        if factors is None:
            return (
                "its codes are no product of a set of channel codes and all spatial codes, or all that are constant "
                "over runs of taps",
                True,
            )
        (vertical, horizontal), kept = factors
        channels, run = self.shape[2], vertical * horizontal
        if run == 1 and len(kept) == channels:
            return "it keeps every code, so folded is the plain layer", False
        if run > 1 and max(self.dilations) > 1:
            return "its taps are dilated, and so are the runs of taps over which its codes are constant", True
        plain = self.taps * len(self.alpha)
        # For an output pixel all pixels are projected that strides skip, and of the sums one in step² is needed.
        strides, step = int(np.prod(self.strides)), sum_stride((vertical, horizontal), self.strides)
        before = strides * (channels if len(kept) < channels else 0) + strides // step**2 * (run if run > 1 else 0)
        left = self.taps // channels // run
        folded = len(kept) * (before + left * len(self.alpha))
        if folded >= plain:
            return f"folded would take {folded} multiply-adds an output pixel, explicit takes {plain}", False
        return None
