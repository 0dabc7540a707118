"""Coefficients of the int8 ops of ``export/FORMAT.md``, and the features that they belong to.

The names are those of the format: p_w of a channel code, its shift and zero point, and so on. What the op rounds away
is measured on windows of the layer's input, drawn from representative data.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.export.filters import Filters

_MOST_SHIFT, _MOST_SHIFT_RUNS, _MOST_EXPONENT = 8, 24, 15
_MOST_SUMMED = 128  # Taps of a run.
_BITS = 8  # Of the channels whose butterflies do not halve.

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
        options: the options features and, if there are runs of taps to add up, sums.
    """

    coefficients: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    bias_scales: np.ndarray
    options: dict[str, bytes]


class _Form:
    """Which features a set of codes has, and the channel transform that they are made of."""

    def __init__(self, layer: Filters):
        kh, kw, self.channels = layer.shape
        taps = kh * kw
        self.spatial = np.kron(dbf_codes.short_codes(kh), dbf_codes.short_codes(kw)).astype(np.float32)
        kept = np.zeros(taps * self.channels, bool)
        kept[layer.codes] = True
        kept = kept.reshape(taps, self.channels)
        self.codes = np.flatnonzero(kept.any(0))  # W
        self.full = kept[:, self.codes].all(0)
        divisor = int(np.bitwise_or.reduce(self.codes))
        run = divisor & -divisor if divisor else dbf_codes.padded(self.channels)
        every = np.arange(0, self.channels, run)
        self.run = run if self.full.all() and np.array_equal(self.codes, every) else None
        bits = dbf_codes.padded(self.channels).bit_length() - 1
        self.halvings = 0 if self.run else max(0, bits - _BITS)
        # Of each column: tap or spatial code, position in W, and group of features that share shift and exponent.
        self.tap, channel = np.divmod(layer.codes, self.channels)
        self.position = np.searchsorted(self.codes, channel)
        self.absorbed = self.full[self.position]
        partial = np.count_nonzero(self.full) - 1 + np.cumsum(~self.absorbed)
        self.group = np.where(self.absorbed, 0 if self.run else (np.cumsum(self.full) - 1)[self.position], partial)

    def transform(self, pixels: np.ndarray) -> np.ndarray:
        """p_w of pixels [..., C]: int32 [..., |W|]."""
        if self.run:
            return np.add.reduceat(pixels.astype(np.int32), np.arange(0, self.channels, self.run), -1)
        block = min(dbf_codes.padded(self.channels), 1 << _BITS)
        blocks = np.pad(pixels, [(0, 0)] * (pixels.ndim - 1) + [(0, -self.channels % (block << self.halvings))])
        # Exact in float32: sums are below 2^24.
        blocks = blocks.reshape(*pixels.shape[:-1], -1, block).astype(np.float32) @ dbf_codes.short_codes(block)
        blocks = blocks.astype(np.int32)
        for bit in range(self.halvings):
            pairs = blocks.reshape(*pixels.shape[:-1], -1, 2, 1 << bit, block) >> 1
            low, high = pairs[..., 0, :, :], pairs[..., 1, :, :]
            blocks = np.stack([low + high, low - high], -3)
        return blocks.reshape(*pixels.shape[:-1], -1)[..., self.codes]

    def coefficients(self, layer: Filters) -> np.ndarray:
        """The real coefficients [K, n] of features before any shift."""
        grid = np.zeros((len(layer.alpha), *self.spatial.shape[:1], self.channels))
        grid.reshape(len(grid), -1)[:, layer.codes] = layer.alpha
        whole = self.codes[self.full]
        grid[..., whole] = np.einsum("uy,kuw->kyw", self.spatial, grid[..., whole])
        if self.run:
            grid[..., whole] = grid[..., whole] @ dbf_codes.short_codes(len(whole))
        return grid.reshape(len(grid), -1)[:, layer.codes]

    def grouped(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, n] as [taps · N, full codes] and [N, columns of partial codes]."""
        absorbed = values[:, self.absorbed]  # Grid order: all codes W of a tap, then those of the next.
        return absorbed.reshape(len(values) * len(self.spatial), -1 if absorbed.size else 0), values[:, ~self.absorbed]

    def blob(self, triples: np.ndarray, staged: np.ndarray) -> bytes:
        """The option ``features`` from (s, z, x) of each group and a of each channel code."""
        if not self.run:
            full = np.count_nonzero(self.full)
            channels = np.stack([staged, 0 * staged, 0 * staged], 1)
            channels[self.full] = triples[:full]
            triples = np.concatenate([channels, triples[full:]])
        return triples.astype(np.int8).tobytes()


def quantize(
    layer: Filters, bias: np.ndarray, source: Quantization, target: Quantization, windows: np.ndarray
) -> Integers:
    """Makes an int8 op.

    Args:
        layer: its filters, with what was folded into them.
        bias: real, [K].
        source: the input's quantisation.
        target: the output's.
        windows: typical windows of its input, int8 [N, kh·kw, C].

    Raises:
        CannotQuantize: a limit of the format is exceeded.
    """
    options = {}
    if 1 < np.prod(layer.runs) <= _MOST_SUMMED:
        layer, bias, source, windows, options["sums"] = _add_up(layer, bias, source, windows)
    form = _Form(layer)
    values, staged = _stage(form, windows, source.zero_point)
    if form.run == 1:  # The input itself.
        shift, zero = np.zeros(1, np.int64), np.full(1, source.zero_point)
    elif form.run:
        shift, zero = _fit(values.reshape(-1, 1), _MOST_SHIFT_RUNS)
    else:
        fits = [_fit(array, _MOST_SHIFT) for array in form.grouped(values)]
        shift, zero = (np.concatenate(pair) for pair in zip(*fits, strict=True))
    group = form.group
    numbers = _rounded(values, shift[group], zero[group]) - zero[group].astype(np.float32)  # f − z
    total = shift[group] + staged[form.position] + form.halvings
    coefficients = form.coefficients(layer) * 2.0**total

    # Powers of noise in the output, in units of the input's scale: of features, input and output. Then coefficients.
    ratio = target.scale / source.scale
    rounding = np.square(numbers - values / np.float32(2) ** shift[group]).mean(0)
    other = np.square(coefficients).sum(0) @ rounding
    other += (np.square(layer.explicit).sum() + len(bias) * ratio**2) / 12
    exponent = _exponents(coefficients, numbers.var(0), group, other)

    coefficients /= 2.0 ** exponent[group]
    unit, bias = source.scale, bias / source.scale
    # Scales of filters of zeros, or near it, follow from the bias and the least multiplier there is.
    scales = np.maximum(np.abs(coefficients).max(1) / 127, np.maximum(np.abs(bias), ratio) / 2**30).astype(np.float32)
    held = np.clip(np.rint(coefficients / scales[:, None]), -127, 127)
    lift = max(0, int(np.floor(np.log2(scales.max() / ratio))) + 1)  # Makes every multiplier less than 1.
    exponent, scales = exponent + lift, scales / np.float32(2**lift)

    # The bias takes the mean of what rounding adds.
    wanted = layer.explicit.reshape(len(bias), -1) @ (windows.reshape(len(windows), -1).mean(0) - source.zero_point)
    bias = np.rint((bias + wanted) / scales - held * 2.0 ** exponent[group] @ numbers.mean(0))
    largest = np.abs(bias) + np.abs(held) @ (255 * 2.0 ** exponent[group])
    if exponent.max() > _MOST_EXPONENT or largest.max() >= 2**31:
        raise CannotQuantize("its integer sums could pass 2³¹")
    options["features"] = form.blob(np.stack([shift, zero, exponent], 1), staged)
    return Integers(held.astype(np.int8), scales, bias.astype(np.int32), unit * scales, options)


def _add_up(
    layer: Filters, bias: np.ndarray, source: Quantization, windows: np.ndarray
) -> tuple[Filters, np.ndarray, Quantization, np.ndarray, bytes]:
    """Adds up the runs of taps: what `quantize` takes for what is left over their sums, and the option sums."""
    (kh, kw, channels), (vertical, horizontal) = layer.shape, layer.runs
    grid = windows.astype(np.int32).reshape(-1, kh // vertical, vertical, kw // horizontal, horizontal, channels)
    sums = (grid - source.zero_point).sum((2, 4)).reshape(len(windows), -1, channels)

    def noise(fit: tuple[np.ndarray, np.ndarray]) -> float:
        return np.square((_rounded(sums, *fit) - fit[1]) * np.float32(2) ** fit[0] - sums).mean()

    # Clipping rare sums for the sake of a finer shift gains a tenth of a point of accuracy in ResNet-18 on CIFAR-10.
    shift, zero = min((_fit(sums.reshape(-1, 1), _MOST_SHIFT, less) for less in (0, 1)), key=noise)
    rounded, shift, zero = _rounded(sums, shift, zero), int(shift[0]), int(zero[0])
    left, scale = layer.over_sums(), source.scale * 2.0**shift
    # The bias takes the mean of what rounding adds.
    lost = sums.mean(0) / 2.0**shift - (rounded.mean(0) - zero)
    bias = bias + scale * (left.explicit.reshape(len(bias), -1) @ lost.ravel())
    option = np.array([shift, zero], np.int8).tobytes()
    return left, bias, Quantization(scale, zero), rounded.astype(np.int8), option


def _stage(form: _Form, windows: np.ndarray, zero_point: int) -> tuple[np.ndarray, np.ndarray]:
    """Features before their shift, int32 [N, n], and the shift a of every channel code, 0 for full ones."""
    p = form.transform(windows) - form.transform(np.full(form.channels, zero_point, np.int8))
    limit = 32767 // len(form.spatial)
    largest = np.abs(p).max((0, 1)).clip(1)
    staged = np.where(form.full, 0, np.ceil(np.log2(largest / limit)).clip(0, _MOST_SHIFT)).astype(np.int64)
    t = ((p + _half(staged)).clip(-32768, 32767) >> staged).clip(-limit, limit)
    sums = (form.spatial @ t.astype(np.float32)).astype(np.int32)  # Exact: below 2^15.
    return np.where(form.full, p, sums)[:, form.tap, form.position], staged


def _half(shift: np.ndarray) -> np.ndarray:
    return (1 << shift) >> 1


def _rounded(values: np.ndarray, shift: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """The numbers f of features before their shift, as float32."""
    # The format's clamp to 16 bits changes nothing that the clamp to 8 does not.
    return ((values + (_half(shift) + (zero << shift))) >> shift).clip(-128, 127).astype(np.float32)


def _fit(values: np.ndarray, most: int, less: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The least shifts, less so much, and zero points, with which the columns of [N, groups] fit 8 bits.

    Of features, clipping rare values for the sake of a finer shift was tried: it gains nothing and makes the largest
    errors larger.
    """
    low, high = np.minimum(values.min(0), 0), np.maximum(values.max(0), 0)  # The zero point has to fit too.
    shift = (np.ceil(np.log2((high - low).clip(1) / 255)) - less).clip(0, most).astype(np.int64)
    zero = np.rint(-0.5 - (low + high) / 2.0 ** (shift + 1)).clip(-128, 127).astype(np.int64)
    return shift, zero


def _exponents(coefficients: np.ndarray, variance: np.ndarray, group: np.ndarray, other: float) -> np.ndarray:
    """Exponents of groups: 0, or one larger number for those whose coefficients are far above the rest.

    Args:
        coefficients: real, [K, n]; the largest of a filter sets the resolution of all.
        variance: of the features, [n].
        group: of the features, [n].
        other: power of what is noise besides the coefficients' rounding.
    """
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
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
