"""What a model's outputs lose when one layer keeps fewer codes, and coarser coefficients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from dbf_keras import codes as dbf_codes
from dbf_keras.export.filters import Filters
from dbf_keras.export.level_search import Levels, Search
from dbf_keras.export.sensitivity import Curvature

# Shares of the codes that a layer may keep.
RATIOS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.09375, 0.0625, 0.03125)

# Kinds of code sets: those that matter most, one by one; all spatial codes, with the channel codes that matter most, or
# with those that are constant over groups of neighbouring channels, which take no transform; the spatial codes that are
# constant over pools of 2×2 taps, with the channel codes that matter most.
ENERGY, PRODUCT, GROUPED, POOLED = SELECTIONS = ("energy", "product", "grouped", "pooled")

# What is added to the diagonal of a curvature, as a share of its mean, and the least weight of a filter, as a share of
# the mean: calibration data see only so much.
_DAMPING, _LEAST_WEIGHT = 0.01, 1e-3

# Magnitude of a level at most, and about the bytes of a table at most and of what is before the levels.
_MOST, _TABLE, _HEADER = 127, 12, 16

_SMALL = 64  # Columns of a block of a curvature that has no others.

# By what share of a given number of codes a set may have more or fewer.
_NEARLY = 0.1

# A level begins so far, in steps, above the one below: coding pays for small levels (a dead zone).
_ROUND_UP = 0.4


def identity(columns: int) -> list[np.ndarray]:
    """The blocks of a curvature that is the identity; small ones, for there may be many columns."""
    parts = np.array_split(np.arange(columns), -(-columns // _SMALL))
    return [np.eye(len(part)) for part in parts]


@dataclasses.dataclass(frozen=True)
class CodeSet:
    """Codes that a layer may keep.

    Attributes:
        selection: the kind of set, one of `SELECTIONS`.
        codes: grid indices, those that matter most first.
        loss: what dropping all others loses while these make up for it as well as they can, in the unit of
            `dbf_keras.export.sensitivity.Probe.distance`.
    """

    selection: str
    codes: np.ndarray
    loss: float


class LayerLosses:
    """What is lost, to second order, by dropping and rounding coefficients of one layer.

    The loss of errors δ_k of the filters' coefficients is Σ_k w_k·δ_kᵀ·H·δ_k, see `Curvature`. Dropped codes are made
    up for by the kept: δ of these is −H⁻¹·H·δ of those, in their blocks (the optimal brain surgeon; Hassibi and Stork,
    1993).
    """

    def __init__(self, filters: Filters, curvature: Curvature | None):
        """Prepares the sums.

        Args:
            filters: the layer's, at ρ = 1 or of the codes that it may keep.
            curvature: of these; None if no output depends on the layer.
        """
        self._filters = filters
        count = filters.alpha.shape[1]
        weights = np.zeros(len(filters.alpha)) if curvature is None else curvature.weights
        self._weights = np.maximum(weights, _LEAST_WEIGHT * weights.mean())
        blocks = identity(count) if curvature is None else curvature.blocks
        damping = _DAMPING * sum(np.trace(block) for block in blocks) / count
        self._blocks = [block + damping * np.eye(len(block)) for block in blocks]
        self.diagonal = np.concatenate([np.diag(block) for block in self._blocks])

    @property
    def energies(self) -> np.ndarray:
        """For each code what dropping it alone loses, [n]."""
        return self.diagonal * (self._weights @ np.square(self._filters.alpha))

    def code_sets(self) -> Iterator[CodeSet]:
        """The sets that a layer may keep: each kind at each of `RATIOS`, a set that is of several kinds once."""
        seen: set[bytes] = set()
        for selection, ranked, unit in self._rankings():
            dropped = self._dropped(ranked)
            for kept in self._cuts(selection, len(ranked), unit):
                codes = self._filters.grid_codes[ranked[:kept]]
                key = np.sort(codes).tobytes()
                if key not in seen:
                    seen.add(key)
                    yield CodeSet(selection, codes, float(dropped[kept]))

    def sets_at(self, ratio: float, selection: str | None) -> list[CodeSet]:
        """The sets of a given share of the codes: of one kind or order, or of each kind but `POOLED`.

        Where there is no set of that kind and nearly that share, the set of as many codes by `ENERGY`.

        Raises:
            ValueError: a ratio out of its range, or an unknown selection.
        """
        dbf_codes.count(1, ratio)  # Raises for a ratio outside (0, 1].
        every = self._filters.grid_codes
        if selection is not None and selection not in SELECTIONS:
            taps = len(every)
            ranked = dbf_codes.order(self._filters.shape, selection)
            ranked = ranked[np.isin(ranked, every)][: dbf_codes.count(taps, ratio)]
            places = np.searchsorted(every, ranked)
            return [CodeSet(selection, ranked, float(self._dropped(places)[-1]))]
        sets = []
        for kind, ranked, unit in self._rankings():
            share = ratio * len(every) / len(ranked)
            if (selection == kind or (selection is None and kind != POOLED)) and share <= 1:
                kept = unit * dbf_codes.count(len(ranked) // unit, share)
                if kind == GROUPED and kept not in self._cuts(kind, len(ranked), unit):
                    continue
                if abs(kept - ratio * len(every)) > max(1, _NEARLY * ratio * len(every)):
                    continue  # As of one channel, all of which is kept.
                loss = float(self._dropped(ranked)[kept])
                sets.append(CodeSet(kind, every[ranked[:kept]], loss))
        if not sets:
            return self.sets_at(ratio, ENERGY)
        return sets

    @staticmethod
    def _cuts(selection: str, count: int, unit: int) -> list[int]:
        """How many of so many ranked columns may be kept, in units."""
        most = count // unit
        if selection == GROUPED:  # Groups of 2, 4, … channels.
            return [unit * -(-most // (1 << shift)) for shift in range(1, most.bit_length())]
        return [unit * max(1, round(ratio * most)) for ratio in RATIOS]

    def _rankings(self) -> Iterator[tuple[str, np.ndarray, int]]:
        """Kinds of sets with columns in ranked order, and how many of these are kept or dropped together."""
        kh, kw, channels = self._filters.shape
        energies, codes = self.energies, self._filters.grid_codes
        spatial, channel = np.divmod(codes, channels)
        by_channel = np.bincount(channel, energies, channels)
        ranked = np.lexsort([-energies, -by_channel[channel]])
        if len(codes) == self._filters.taps:
            yield PRODUCT, self._together(ranked, channel), kh * kw
            group = channel & -channel  # Over so many neighbouring channels a code is constant; over all, the first.
            yield GROUPED, np.lexsort([channel, -np.where(channel == 0, channels, group)]), kh * kw
            if kh % 2 == 0 and kw % 2 == 0:
                u, v = np.divmod(spatial, kw)
                even = (u % 2 == 0) & (v % 2 == 0)
                by_channel = np.bincount(channel, energies * even, channels)
                pooled = np.lexsort([-energies, -by_channel[channel]])
                yield POOLED, self._together(pooled[even[pooled]], channel), kh * kw // 4
        yield ENERGY, np.argsort(-energies, kind="stable"), 1

    @staticmethod
    def _together(ranked: np.ndarray, channel: np.ndarray) -> np.ndarray:
        """Columns in ranked order, with those of one channel code together even where two have equal energies."""
        first = {int(code): place for place, code in reversed(list(enumerate(channel[ranked].tolist())))}
        return ranked[np.argsort([first[int(code)] for code in channel[ranked]], kind="stable")]

    def _dropped(self, ranked: np.ndarray) -> np.ndarray:
        """What keeping the first m of ranked columns loses, [len(ranked) + 1]; columns not among them are dropped."""
        rank = np.full(self._filters.alpha.shape[1], len(ranked))
        rank[ranked] = np.arange(len(ranked))
        by_rank = np.zeros(len(ranked) + 1)
        for columns, block in self._columns():
            order = np.argsort(rank[columns], kind="stable")
            # H = L·Lᵀ, the columns that are kept longest first. What the kept cannot make up for is then, for any cut,
            # the end of α·L.
            rest = self._scaled(columns[order]) @ np.linalg.cholesky(block[np.ix_(order, order)])
            np.add.at(by_rank, rank[columns[order]], np.square(rest).sum(axis=0))
        return np.cumsum(by_rank[::-1])[::-1]

    def fitted(self, codes: np.ndarray) -> np.ndarray:
        """The coefficients [K, n] of kept codes that make up for the dropped.

        Args:
            codes: grid indices, ascending.
        """
        alpha = self._filters.alpha.copy()
        kept = np.isin(self._filters.grid_codes, codes)
        for columns, block in self._columns():
            inside = kept[columns]
            if inside.any() and not inside.all():
                pull = np.linalg.solve(block[np.ix_(inside, inside)], block[np.ix_(inside, ~inside)])
                alpha[:, columns[inside]] += alpha[:, columns[~inside]] @ pull.T
        return alpha[:, kept]

    def levels(self, codes: np.ndarray, price: float) -> Levels:
        """The levels of kept codes that cost least at a price of a bit, the dropped codes made up for.

        Args:
            codes: grid indices, ascending.
            price: in the unit of the loss.
        """
        kept = np.isin(self._filters.grid_codes, codes)
        filters = dataclasses.replace(self._filters, alpha=self.fitted(codes), codes=np.asarray(codes))
        insides = [(kept[columns], block) for columns, block in self._columns()]
        blocks = [block[np.ix_(inside, inside)] for inside, block in insides if inside.any()]
        return Search(filters, self._weights, blocks).at(price)

    def _columns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each block with its columns."""
        start = 0
        for block in self._blocks:
            yield np.arange(start, start + len(block)), block
            start += len(block)

    def _scaled(self, columns: np.ndarray) -> np.ndarray:
        """Coefficients whose squares count for all filters alike, [K, columns]."""
        return np.sqrt(self._weights)[:, None] * self._filters.alpha[:, columns]

    def coded(self, codes: np.ndarray, prices: Sequence[float]) -> Iterator[tuple[float, float]]:
        """What coded levels of kept codes take and lose at each price of a bit.

        An estimate: levels are rounded one by one, with steps that are best where there are many bits for each, and
        take as many bits as their entropy under each spatial code.

        Args:
            codes: grid indices, ascending.
            prices: in the unit of the loss.

        Yields:
            (bytes, loss by rounding) at each price.
        """
        alpha = self.fitted(codes)
        places = np.searchsorted(self._filters.grid_codes, codes)
        diagonal = self.diagonal[places]
        fine = math.exp(np.log(diagonal).mean())
        bands = np.unique(codes // self._filters.shape[2], return_inverse=True)[1]
        weights = np.where(self._weights > 0, self._weights, 1.0)
        finest = np.abs(alpha).max(axis=1) / _MOST
        for price in prices:
            steps = np.maximum(np.sqrt(6 * price / (math.log(2) * weights * fine)), finest)[:, None]
            magnitudes = np.floor(np.abs(alpha) / np.where(steps > 0, steps, 1.0) + _ROUND_UP)
            errors = np.square(np.abs(alpha) - magnitudes * steps) @ diagonal
            yield self._bytes(magnitudes, bands), float(self._weights @ errors)

    def _bytes(self, magnitudes: np.ndarray, bands: np.ndarray) -> float:
        """About the bytes of levels [K, n] of so large magnitudes, with tables and steps."""
        count = int(bands.max()) + 1
        clipped = np.minimum(magnitudes, _MOST).astype(np.int64)
        histogram = np.bincount((bands * (_MOST + 1) + clipped).ravel(), minlength=count * (_MOST + 1))
        histogram = histogram.reshape(count, _MOST + 1)
        totals = histogram.sum(axis=1, keepdims=True)
        shares = histogram / totals
        entropy = -(histogram * np.log2(np.where(histogram > 0, shares, 1.0))).sum() + histogram[:, 1:].sum()
        tables = np.minimum((histogram > 0).sum(axis=1), _TABLE).sum()
        return float(entropy) / 8 + tables + 2 * len(magnitudes) + _HEADER
