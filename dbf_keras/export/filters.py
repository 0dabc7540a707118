"""The filters of a DBF layer as numbers, in the forms in which a file can hold them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.backend import ops
from dbf_keras.layers import DBFConv2D, DBFDense


@dataclasses.dataclass(frozen=True)
class Filters:
    """The filters of one layer, in float64 so that forms differ by no more than their last rounding.

    Attributes:
        name: the layer's name.
        shape: (kh, kw, C); a dense layer is (1, 1, C).
        strides: strides of the convolution; (1, 1) for a dense layer.
        alpha: coefficients [K, n]; columns in ascending order of grid index, or in tree order if `codes` is None.
        codes: [n] ascending grid indices; None for the paper's flat codes (``sp_ovsf``).
    """

    name: str
    shape: tuple[int, int, int]
    strides: tuple[int, int]
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
        shape = (1, 1, *layer.kernel.shape)[-4:-1]
        return cls(layer.name, tuple(int(size) for size in shape), getattr(layer, "strides", (1, 1)), alpha, codes)

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

    def channel_codes(self) -> np.ndarray | None:
        """W, the ascending channel codes, if the set is "all spatial codes × W"; else None."""
        return None if self.codes is None else dbf_codes.separable_channels(self.codes, self.shape)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """The two factors of a separable layer.

        Returns:
            The ±1 projection [C, |W|] and the dense filters [K, kh, kw, |W|] on its outputs.
        """
        kh, kw, channels = self.shape
        kept = self.channel_codes()
        grid = self.alpha.reshape(-1, kh, kw, len(kept), 1)  # Ascending codes are sorted by (u, v, w).
        smaller = dbf_codes.forward(np.moveaxis(grid, 3, 1), (kh, kw, 1))
        projection = dbf_codes.short_codes(channels)[:, kept].astype(np.float64)
        return projection, np.moveaxis(smaller[..., 0], 1, 3)

    def not_folded(self) -> tuple[str, bool] | None:
        """Why the layer is not written as folded.

        Returns:
            The reason, and whether it is impossible rather than just no gain; None for a layer to fold.
        """
        if self.codes is None:
            return "sp_ovsf keeps flat codes, which do not separate into spatial and channel codes", True
        kept = self.channel_codes()
        if kept is None:
            return "its codes are not all spatial codes × a set of channel codes", True
        kh, kw, channels = self.shape
        if len(kept) == channels:
            return "it keeps every channel code, so folded is the plain layer", False
        plain = self.taps * len(self.alpha)
        folded = len(kept) * (channels * int(np.prod(self.strides)) + kh * kw * len(self.alpha))
        if folded >= plain:
            return f"folded would take {folded} multiply-adds an output pixel, explicit takes {plain}", False
        return None
