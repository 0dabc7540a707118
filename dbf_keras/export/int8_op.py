"""Int8 ops of ``export/FORMAT.md``: their coefficients, and how the features that these belong to are rounded.

The names are those of the format: p_w of a channel code, its shift and zero point, and so on. What the op rounds away
is measured on windows of the layer's input, drawn from representative data.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.export import coded, quantization
from dbf_keras.export.filters import Filters

# Limits of the format: on shifts of pooled sums and of features, on those of features in group form, on exponents, and
# on the taps of a pool.
_MOST_SHIFT = 8
_MOST_GROUP_SHIFT = 16
_MOST_EXPONENT = 15
_MOST_POOLED = 128

_LARGEST = 127  # Magnitude of a coefficient.

# The channel transform adds up exactly over so many bits of the channel's number; beyond, it halves first.
_EXACT_BITS = 8

# Exponents cost time; they are used if they lower the noise power of the output to this share.
_WORTHWHILE = 0.8


class CannotQuantize(ValueError):
    """A layer has no int8 form within the limits of the format; says why."""


@dataclasses.dataclass(frozen=True)
class Quantization:
    """An int8 tensor's scale and zero point."""

    scale: float
    zero_point: int = 0


@dataclasses.dataclass(frozen=True)
class Integers:
    """What an int8 op holds.

    Attributes:
        coefficients: int8 [K, n].
        scales: s_c, float32 [K].
        bias: int32 [K].
        bias_scales: what its units are, [K].
        options: the options ``features`` and, if pixels are pooled, ``sums``.
        peaks: the largest coefficient of each filter, uint8 [K], if they follow from levels and it is not 127 for all.
    """

    coefficients: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    bias_scales: np.ndarray
    options: dict[str, bytes]
    peaks: np.ndarray | None = None


class _Features:
    """The features of a set of codes, and the channel transform that they are made of.

    Attributes:
        channels: C.
        spatial: the spatial codes [kh·kw, kh·kw], float32.
        codes: W, the channel codes that occur, ascending.
        full: whether each of W is kept with all spatial codes, bool [|W|].
        group: channels of a group, in group form; None in general form.
        halvings: bits over which the transform halves.
        tap: the tap (full) or spatial code (partial) of each column.
        position: the place in W of each column's channel code.
        absorbed: whether each column's channel code is full.
        rounding: the number of the rounding (s, z, x) that each column shares with others.
    """

    def __init__(self, layer: Filters):
        kh, kw, self.channels = layer.shape
        taps = kh * kw
        self.spatial = np.kron(dbf_codes.short_codes(kh), dbf_codes.short_codes(kw)).astype(np.float32)
        kept = np.zeros((taps, self.channels), bool)
        kept.reshape(-1)[layer.grid_codes] = True
        self.codes = np.flatnonzero(kept.any(0))
        self.full = np.all(kept[:, self.codes], axis=0)
        divisor = int(np.bitwise_or.reduce(self.codes))
        group = divisor & -divisor if divisor else dbf_codes.padded(self.channels)
        every = np.arange(0, self.channels, group)
        self.group = group if self.full.all() and np.array_equal(self.codes, every) else None
        bits = dbf_codes.padded(self.channels).bit_length() - 1
        self.halvings = 0 if self.group else max(0, bits - _EXACT_BITS)
        self.tap, channel = np.divmod(layer.grid_codes, self.channels)
        self.position = np.searchsorted(self.codes, channel)
        self.absorbed = self.full[self.position]
        partial = np.count_nonzero(self.full) - 1 + np.cumsum(~self.absorbed)
        whole = (np.cumsum(self.full) - 1)[self.position]
        self.rounding = np.where(self.absorbed, 0 if self.group else whole, partial)

    def transform(self, pixels: np.ndarray) -> np.ndarray:
        """p_w of pixels [..., C]: int32 [..., |W|]."""
        if self.group:
            return np.add.reduceat(pixels.astype(np.int32), np.arange(0, self.channels, self.group), -1)
        block = min(dbf_codes.padded(self.channels), 1 << _EXACT_BITS)
        blocks = np.pad(pixels, [(0, 0)] * (pixels.ndim - 1) + [(0, -self.channels % (block << self.halvings))])
        # Exact in float32: sums are below 2^24.
        blocks = blocks.reshape(*pixels.shape[:-1], -1, block).astype(np.float32) @ dbf_codes.short_codes(block)
        blocks = blocks.astype(np.int32)
        for bit in range(self.halvings):
            pairs = blocks.reshape(*pixels.shape[:-1], -1, 2, 1 << bit, block) >> 1
            low, high = pairs[..., 0, :, :], pairs[..., 1, :, :]
            blocks = np.stack([low + high, low - high], -3)
        return blocks.reshape(*pixels.shape[:-1], -1)[..., self.codes]

    def coefficients(self, layer: Filters, alpha: np.ndarray) -> np.ndarray:
        """The coefficients [K, n] of features before any shift that become of coefficients [K, n] of codes."""
        grid = np.zeros((len(alpha), *self.spatial.shape[:1], self.channels))
        grid.reshape(len(grid), -1)[:, layer.grid_codes] = alpha
        whole = self.codes[self.full]
        grid[..., whole] = np.einsum("uy,kuw->kyw", self.spatial, grid[..., whole])
        if self.group:
            grid[..., whole] = grid[..., whole] @ dbf_codes.short_codes(len(whole))
        return grid.reshape(len(grid), -1)[:, layer.grid_codes]

    def by_rounding(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, n] as [taps · N, full codes] and [N, columns of partial codes]."""
        absorbed = values[:, self.absorbed]  # Grid order: all codes W of a tap, then those of the next.
        return absorbed.reshape(len(values) * len(self.spatial), -1 if absorbed.size else 0), values[:, ~self.absorbed]

    def blob(self, roundings: np.ndarray, staged: np.ndarray) -> bytes:
        """The option ``features`` from the roundings (s, z, x) and the shift a of each channel code."""
        if not self.group:
            full = np.count_nonzero(self.full)
            channels = np.stack([staged, 0 * staged, 0 * staged], 1)
            channels[self.full] = roundings[:full]
            roundings = np.concatenate([channels, roundings[full:]])
        return roundings.astype(np.int8).tobytes()


def quantize(
    layer: Filters,
    bias: np.ndarray,
    source: Quantization,
    target: Quantization,
    windows: np.ndarray,
    int4: bool = False,
) -> Integers:
    """Makes an int8 op.

    Args:
        layer: its filters, with what was folded into them.
        bias: real, [K].
        source: the input's quantisation.
        target: the output's.
        windows: typical windows of its input, int8 [N, kh·kw, C].
        int4: make coefficients that fit int4; those that follow from levels do not.

    Raises:
        CannotQuantize: a limit of the format is exceeded.
    """
    if layer.levels is not None and layer.steps is not None:
        # An ordinary layer that is coded has its exact α, by which it is found, beside levels that are near it.
        layer = layer.with_levels(layer.levels, layer.steps)
    options = {}
    if 1 < np.prod(layer.pool_size) <= _MOST_POOLED:
        layer, bias, source, windows, options["sums"] = _pool(layer, bias, source, windows)
    features = _Features(layer)
    values, staged = _stage(features, windows, source.zero_point)
    if features.group == 1:  # The input itself.
        shift, zero = np.zeros(1, np.int64), np.full(1, source.zero_point)
    elif features.group:
        shift, zero = _fit(values.reshape(-1, 1), _MOST_GROUP_SHIFT)
    else:
        fits = [_fit(array, _MOST_SHIFT) for array in features.by_rounding(values)]
        shift, zero = (np.concatenate(pair) for pair in zip(*fits, strict=True))
    rounding = features.rounding
    numbers = _rounded(values, shift[rounding], zero[rounding]) - zero[rounding].astype(np.float32)  # f − z
    total = shift[rounding] + staged[features.position] + features.halvings
    coefficients = features.coefficients(layer, layer.alpha) * 2.0**total

    # Powers of noise in the output, in units of the input's scale: of features, input and output. Then coefficients.
    ratio = target.scale / source.scale
    lost = np.square(numbers - values / np.float32(2) ** shift[rounding]).mean(0)
    other = np.square(coefficients).sum(0) @ lost
    other += (np.square(layer.explicit).sum() + len(bias) * ratio**2) / 12
    exponent = _exponents(coefficients, numbers.var(0), rounding, other)

    coefficients /= 2.0 ** exponent[rounding]
    unit, bias = source.scale, bias / source.scale
    # The least scale of a filter, such as one of zeros, follows from the bias and the least multiplier there is.
    least = np.maximum(np.abs(bias), ratio) / 2**30
    peaks = None
    if layer.levels is not None:
        integers = features.coefficients(layer, layer.levels.astype(np.float64))
        held, scales, peaks = _of_levels(integers * 2.0 ** (total - exponent[rounding]), coefficients, least)
    elif int4:
        scales = np.maximum(quantization.to_int4(coefficients)[1], least).astype(np.float32)
        held = np.clip(np.rint(coefficients / scales[:, None]), -7, 7)
    else:
        scales = np.maximum(np.abs(coefficients).max(1) / _LARGEST, least).astype(np.float32)
        held = np.clip(np.rint(coefficients / scales[:, None]), -_LARGEST, _LARGEST)
    lift = max(0, int(np.floor(np.log2(scales.max() / ratio))) + 1)  # Makes every multiplier less than 1.
    exponent, scales = exponent + lift, scales / np.float32(2**lift)

    # The bias takes the mean of what rounding adds.
    wanted = layer.explicit.reshape(len(bias), -1) @ (windows.reshape(len(windows), -1).mean(0) - source.zero_point)
    bias = np.rint((bias + wanted) / scales - held * 2.0 ** exponent[rounding] @ numbers.mean(0))
    largest = np.abs(bias) + np.abs(held) @ (255 * 2.0 ** exponent[rounding])
    if exponent.max() > _MOST_EXPONENT or largest.max() >= 2**31:
        raise CannotQuantize("its integer sums could pass 2³¹")
    options["features"] = features.blob(np.stack([shift, zero, exponent], 1), staged)
    return Integers(held.astype(np.int8), scales, bias.astype(np.int32), unit * scales, options, peaks)


def _of_levels(
    integers: np.ndarray, coefficients: np.ndarray, least: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The coefficients that follow from levels.

    Args:
        integers: d of the format [K, n]: what becomes of the levels.
        coefficients: the same times steps: real, [K, n].
        least: the least scale of each filter [K].

    Returns:
        Coefficients as floats [K, n], scales float32 [K] that a coded layer can hold, and peaks or None.
    """
    largest = np.abs(coefficients).max(1)
    wanted = np.maximum(largest / _LARGEST, least)
    wanted = np.maximum(wanted, wanted.max() * 2.0**-24)  # One range of exponents holds all.
    peaks = np.floor(largest / wanted + 1e-9).astype(np.uint8)
    scales = np.where(peaks > 0, largest / np.maximum(peaks, 1), wanted)
    most = np.abs(integers).max(1)
    held = np.rint(peaks[:, None] * integers / np.where(most > 0, most, 1)[:, None])
    return held, coded.short(scales).astype(np.float32), None if (peaks == _LARGEST).all() else peaks


def _pool(
    layer: Filters, bias: np.ndarray, source: Quantization, windows: np.ndarray
) -> tuple[Filters, np.ndarray, Quantization, np.ndarray, bytes]:
    """Pools pixels: what `quantize` takes for what is left over the pooled sums, and the option ``sums``."""
    (kh, kw, channels), (vertical, horizontal) = layer.shape, layer.pool_size
    grid = windows.astype(np.int32).reshape(-1, kh // vertical, vertical, kw // horizontal, horizontal, channels)
    sums = (grid - source.zero_point).sum((2, 4)).reshape(len(windows), -1, channels)

    def noise(fit: tuple[np.ndarray, np.ndarray]) -> float:
        return np.square((_rounded(sums, *fit) - fit[1]) * np.float32(2) ** fit[0] - sums).mean()

    # Clipping rare sums for the sake of a finer shift gains a tenth of a point of accuracy in ResNet-18 on CIFAR-10.
    fit = min((_fit(sums.reshape(-1, 1), _MOST_SHIFT, less) for less in (0, 1)), key=noise)
    rounded, shift, zero = _rounded(sums, *fit), int(fit[0][0]), int(fit[1][0])
    left, scale = layer.over_pools(), source.scale * 2.0**shift
    # The bias takes the mean of what rounding adds.
    lost = sums.mean(0) / 2.0**shift - (rounded.mean(0) - zero)
    bias = bias + scale * (left.explicit.reshape(len(bias), -1) @ lost.ravel())
    option = np.array([shift, zero], np.int8).tobytes()
    return left, bias, Quantization(scale, zero), rounded.astype(np.int8), option


def _stage(features: _Features, windows: np.ndarray, zero_point: int) -> tuple[np.ndarray, np.ndarray]:
    """Features before their shift, int32 [N, n], and the shift a of every channel code, 0 for full ones."""
    p = features.transform(windows) - features.transform(np.full(features.channels, zero_point, np.int8))
    limit = 32767 // len(features.spatial)
    largest = np.abs(p).max((0, 1)).clip(1)
    staged = np.where(features.full, 0, np.ceil(np.log2(largest / limit)).clip(0, _MOST_SHIFT)).astype(np.int64)
    t = ((p + _half(staged)).clip(-32768, 32767) >> staged).clip(-limit, limit)
    sums = (features.spatial @ t.astype(np.float32)).astype(np.int32)  # Exact: below 2^15.
    return np.where(features.full, p, sums)[:, features.tap, features.position], staged


def _half(shift: np.ndarray) -> np.ndarray:
    return (1 << shift) >> 1


def _rounded(values: np.ndarray, shift: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """The numbers f of features before their shift, as float32."""
    # The format's clamp to 16 bits changes nothing that the clamp to 8 does not.
    return ((values + (_half(shift) + (zero << shift))) >> shift).clip(-128, 127).astype(np.float32)


def _fit(values: np.ndarray, most: int, less: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The least shifts, less so much, and zero points, with which the columns of [N, groups] fit 8 bits.

    Clipping rare values of features for the sake of a finer shift was tried: it gains nothing and makes the largest
    errors larger.
    """
    low, high = np.minimum(values.min(0), 0), np.maximum(values.max(0), 0)  # The zero point has to fit too.
    shift = (np.ceil(np.log2((high - low).clip(1) / 255)) - less).clip(0, most).astype(np.int64)
    zero = np.rint(-0.5 - (low + high) / 2.0 ** (shift + 1)).clip(-128, 127).astype(np.int64)
    return shift, zero


def _exponents(coefficients: np.ndarray, variance: np.ndarray, rounding: np.ndarray, other: float) -> np.ndarray:
    """The exponent of each rounding: 0, or one larger number for those whose coefficients are far above the rest.

    Args:
        coefficients: real, [K, n]; the largest of a filter sets the resolution of all.
        variance: the features' variances, [n].
        rounding: the number of each feature's rounding, [n].
        other: power of the noise that is not the coefficients' rounding.
    """
    order = np.argsort(rounding, kind="stable")
    starts = np.flatnonzero(np.diff(rounding[order], prepend=-1))
    largest = np.maximum.reduceat(np.abs(coefficients[:, order]), starts, axis=1)
    power = np.add.reduceat(variance[order], starts)
    ranked = np.argsort(-largest.mean(0), kind="stable")
    largest, power = largest[:, ranked], power[ranked].cumsum()
    above = np.maximum.accumulate(largest, axis=1)[:, :-1]
    below = np.maximum.accumulate(largest[:, ::-1], axis=1)[:, -2::-1]

    def noise(peak: np.ndarray, features: np.ndarray) -> np.ndarray:
        return np.square(peak).sum(0) * features / (12 * 127**2) + other

    exponent = np.zeros(len(starts), np.int64)
    best = _WORTHWHILE * noise(largest.max(1), power[-1])
    for trial in range(1, 9):
        noises = noise(np.maximum(above / 2**trial, below), 4**trial * power[:-1] + power[-1] - power[:-1])
        if noises.size and noises.min() < best:
            best = noises.min()
            exponent[:] = 0
            exponent[ranked[: noises.argmin() + 1]] = trial
    return exponent
