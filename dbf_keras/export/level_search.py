"""The levels of one layer at a price of a bit: rounding of coefficients that weighs error against coded bits."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from dbf_keras.export import coded
from dbf_keras.export.filters import Filters

LARGEST = 127  # Magnitude of a level.

# Steps that are tried for each filter, as multiples of the one that is best where there are many bits for each level.
_STEPS = (0.45, 0.6, 0.8, 1.0, 1.25, 1.6)

# Sweeps over all levels after the first rounding; more of them changed nothing in the third digit.
_SWEEPS = 2

# What is added to the diagonal of a curvature, as a share of its mean: calibration data see only so much.
_DAMPING = 0.01

# A filter is weighed by this share of the mean at least: one that calibration data leave idle stays a filter.
_LEAST_WEIGHT = 1e-3

# Columns whose errors are handed on to all later ones at once.
_TOGETHER = 64

_MOST_BITS = 20.0  # A level that has not occurred takes an escape and a byte.


@dataclasses.dataclass(frozen=True)
class Levels:
    """The coefficients of one layer as whole multiples, the columns as `Filters` has them.

    Attributes:
        levels: int8 [K, n], without −128.
        steps: float64 [K], positive, such as `dbf_keras.export.coded.short` returns; of α as `Filters` holds it.
    """

    levels: np.ndarray
    steps: np.ndarray

    @property
    def alpha(self) -> np.ndarray:
        """The coefficients [K, n]."""
        return self.levels * self.steps[:, None]


def coded_bytes(filters: Filters, chosen: Levels) -> int:
    """Bytes of a layer's levels, their statistics and steps in a file."""
    return coded.coded_bytes(filters.shape, filters.grid_codes, chosen.levels) + 2 * len(chosen.steps)


def plain(filters: Filters) -> Levels:
    """The levels of int8: the largest magnitude of each filter is level 127."""
    largest = np.abs(filters.alpha).max(axis=1)
    steps = _positive_steps(largest / LARGEST)
    return Levels(_rounded(filters.alpha, steps), steps)


def _positive_steps(steps: np.ndarray) -> np.ndarray:
    """Short steps; those that are zero, of filters of zeros, become the largest of all."""
    largest = steps.max(initial=0.0)
    return coded.short(np.where(steps > largest * 2.0**-24, steps, largest or 1.0))


def _rounded(alpha: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(alpha / steps[:, None]), -LARGEST, LARGEST).astype(np.int8)


class _Block:
    """Columns whose errors can make up for each other's.

    Attributes:
        columns: which, in the order in which they are rounded: what matters most first, while all others can help.
        curvature: H of them, in that order.
    """

    def __init__(self, first: int, curvature: np.ndarray, damping: float):
        order = np.argsort(-np.diag(curvature), kind="stable")
        self.columns = first + order
        self.curvature = curvature[np.ix_(order, order)] + damping * np.eye(len(order))

    @functools.cached_property
    def triangle(self) -> np.ndarray:
        """U of H⁻¹ = Uᵀ·U, upper triangular."""
        inverse = np.linalg.inv(self.curvature)
        return np.linalg.cholesky((inverse + inverse.T) / 2).T


class Search:
    """Looks for the levels of a layer that cost least: error plus price times bits.

    The error is Σ_k w_k·δ_kᵀ·H·δ_k over the filters' errors δ_k, where H has blocks along its diagonal. Rounding an α
    hands its error on to those of the same filter and block that are not yet rounded, as far as H says that they can
    make up for it (Frantar et al., ICLR 2023); sweeps over all levels then change single ones. Bits are those of a
    table for each spatial code that follows the levels.

    Attributes:
        filters: of the layer.
    """

    def __init__(
        self, filters: Filters, weights: np.ndarray, curvature: Sequence[np.ndarray], trained: Levels | None = None
    ):
        """Prepares the search.

        Args:
            filters: of the layer.
            weights: w [K], at least 0, one of them over 0.
            curvature: the blocks of H, positive semidefinite, for successive columns.
            trained: levels that the layer was trained to, if it was; their steps are tried, too.
        """
        self.filters = filters
        self._weights = np.maximum(weights, _LEAST_WEIGHT * weights.mean())
        self._trained = trained
        sizes = [len(block) for block in curvature]
        damping = _DAMPING * sum(np.trace(block) for block in curvature) / sum(sizes)
        starts = np.cumsum([0, *sizes[:-1]])
        self._blocks = [_Block(int(start), block, damping) for start, block in zip(starts, curvature, strict=True)]
        self._place = np.unique(filters.grid_codes // filters.shape[2], return_inverse=True)[1]

    def at(self, price: float) -> Levels:
        """The levels at a price of a bit, in the unit of the error."""
        # Rounding errors are uniform where levels are many: their energy is a twelfth of the step's.
        mean = math.exp(-2 * np.log(np.concatenate([np.diag(block.triangle) for block in self._blocks])).mean())
        fine = np.sqrt(6 * price / (math.log(2) * self._weights * mean))
        trial = [coded.short(share * fine) for share in _STEPS] + [plain(self.filters).steps]
        starts = [_rounded(self.filters.alpha, trial[_STEPS.index(1.0)])]
        if self._trained is not None:
            trial.append(self._trained.steps)
            starts.append(self._trained.levels)
        found = [self._from(levels, np.stack(trial), price) for levels in starts]
        return min(found, key=lambda levels: self.error(levels) + 8 * price * coded_bytes(self.filters, levels))

    def _from(self, start: np.ndarray, trial: np.ndarray, price: float) -> Levels:
        """The levels that are found if bits are at first taken to be those of levels to start from."""
        levels, steps = self._round(trial, price, self._bits(start))
        for _ in range(_SWEEPS):
            levels = self._swept(levels, steps, price, self._bits(levels))
            steps = self._fitted(levels, steps)
        return Levels(levels.astype(np.int8), steps)

    def error(self, chosen: Levels) -> float:
        """Σ_k w_k·δ_kᵀ·H·δ_k."""
        delta = chosen.alpha - self.filters.alpha
        return float(self._weights @ self._products(delta, delta))

    def _products(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Of each row, leftᵀ·H·right."""
        return sum(
            ((left[:, block.columns] @ block.curvature) * right[:, block.columns]).sum(axis=1) for block in self._blocks
        )

    def _bits(self, levels: np.ndarray) -> np.ndarray:
        """About the bits of each magnitude [S, 128], for each spatial code that occurs."""
        magnitudes = np.abs(levels.astype(np.int16))
        counts = np.stack(
            [
                np.bincount(magnitudes[:, self._place == place].ravel(), minlength=LARGEST + 1)
                for place in range(self._place.max() + 1)
            ]
        )
        share = _smoothed(counts.sum(axis=0), np.full(LARGEST + 1, 1 / (LARGEST + 1)))
        shares = np.stack([_smoothed(row, share) for row in counts])
        signs = np.arange(LARGEST + 1) > 0
        return np.minimum(signs - np.log2(shares), _MOST_BITS)

    def _round(self, trial: np.ndarray, price: float, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rounds all filters at several steps each [trials, K], column by column, and takes the best step of each."""
        trials, filters = trial.shape
        steps = trial.reshape(-1)
        factors = np.tile(self._weights, trials) * np.square(steps) / price
        costs = np.zeros(len(steps))
        levels = np.empty((self.filters.alpha.shape[1], len(steps)), np.int16)
        for block in self._blocks:
            wanted = np.tile(self.filters.alpha[:, block.columns], (trials, 1)).T / steps
            levels[block.columns], cost = _handing_on(wanted, block.triangle, factors, bits[self._place[block.columns]])
            costs += cost
        best = costs.reshape(trials, filters).argmin(axis=0)
        chosen = best * filters + np.arange(filters)
        return levels[:, chosen].T, steps[chosen]

    def _swept(self, levels: np.ndarray, steps: np.ndarray, price: float, bits: np.ndarray) -> np.ndarray:
        """Levels after each has once been set to what is cheapest while all others stay."""
        levels = levels.T.astype(np.int16)  # A copy.
        factors = self._weights * np.square(steps) / price
        for block in self._blocks:
            slopes = block.curvature @ (levels[block.columns] - self.filters.alpha[:, block.columns].T / steps)
            for place, column in enumerate(block.columns):
                own = block.curvature[place, place]
                wanted = levels[column] - slopes[place] / own
                new, _ = _cheapest(wanted, factors * own, bits[self._place[column]])
                changed = np.flatnonzero(new != levels[column])
                slopes[:, changed] += block.curvature[:, place, None] * (new - levels[column])[changed]
                levels[column] = new
        return levels.T

    def _fitted(self, levels: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The steps of least error for given levels; as they were for filters of zeros."""
        energy, wanted = self._products(levels, levels), self._products(levels, self.filters.alpha)
        fits = (energy > 0) & (wanted > 0)
        return coded.short(np.where(fits, wanted / np.where(fits, energy, 1.0), steps))


def _handing_on(
    wanted: np.ndarray, triangle: np.ndarray, factors: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds the columns of a block one after the other; each error is handed on to those that follow.

    Args:
        wanted: real numbers in steps, [columns, rows]; changed in place.
        triangle: of the block, [columns, columns].
        factors: of squared errors, in bits, [rows].
        bits: of each magnitude, [columns, 128].

    Returns:
        (levels [columns, rows], costs in bits [rows])
    """
    own = np.diag(triangle)
    handed = triangle / own[:, None]
    levels, errors = np.empty(wanted.shape, np.int16), np.empty(wanted.shape)
    costs = np.zeros(wanted.shape[1])
    count = len(wanted)
    for start in range(0, count, _TOGETHER):
        end = min(start + _TOGETHER, count)
        for column in range(start, end):
            levels[column], cost = _cheapest(wanted[column], factors / own[column] ** 2, bits[column])
            costs += cost
            errors[column] = wanted[column] - levels[column]
            wanted[column + 1 : end] -= handed[column, column + 1 : end, None] * errors[column]
        wanted[end:] -= handed[start:end, end:].T @ errors[start:end]
    return levels, costs


def _smoothed(counts: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Shares of counts among which a prior counts, too, so that none is zero."""
    weight = 4 + 0.02 * counts.sum()
    return (counts + weight * prior) / (counts.sum() + weight)


def _cheapest(wanted: np.ndarray, factors: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The levels that cost least, of those next to what is wanted and zero.

    Args:
        wanted: real numbers in steps.
        factors: of squared errors, in bits.
        bits: of each magnitude.

    Returns:
        (levels, costs in bits)
    """
    magnitudes = np.abs(wanted)
    nearest = np.minimum(np.rint(magnitudes), LARGEST).astype(np.int16)
    best, least = nearest, factors * np.square(magnitudes - nearest) + bits[nearest]
    for other in (np.maximum(nearest - 1, 0), np.zeros_like(nearest)):
        cost = factors * np.square(magnitudes - other) + bits[other]
        best, least = np.where(cost < least, other, best), np.minimum(cost, least)
    return np.where(wanted < 0, -best, best), least
