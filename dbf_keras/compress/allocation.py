"""Chooses one option for each layer so that all together lose least within limits: Lagrange's method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Logarithms of the prices between which the one of a limit lies, in losses by the whole of the limit, and how often
# the distance of these is halved.
_CHEAP, _DEAR, _HALVINGS = -30.0, 30.0, 36


class OutOfReachError(ValueError):
    """No options keep a limit.

    Attributes:
        limit: the number of the limit.
        least: the least that can be had of what it limits.
    """

    def __init__(self, limit: int, least: float):
        super().__init__(f"limit {limit} is not kept by less than {least:g}")
        self.limit, self.least = limit, least


def allocate(losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], limits: Sequence[float]) -> list[int]:
    """Chooses an option for each layer.

    Of options that cost less together there are none that lose less, but for those inside of the lower convex hull of
    all; what is then left of the limits is spent on the option that gains most for it, as long as there is one.

    Args:
        losses: of each layer, what its options lose [options].
        costs: of each layer, what its options cost of each limit [options, limits].
        limits: how much all layers together may cost of each; infinite ones do not count.

    Returns:
        For each layer the number of an option.

    Raises:
        OutOfReachError: no options keep a limit, of which there are several; the first that cannot be kept.
    """
    problem = _Problem(losses, costs, limits)
    if not problem.limited:
        return problem.cheapest(np.zeros(0))
    for limit in range(len(problem.limited)):
        least = problem.least(limit)
        if least > 1:
            number = problem.limited[limit]
            raise OutOfReachError(number, least * limits[number])
    return problem.filled(problem.priced(np.zeros(len(problem.limited)), 0))


class _Problem:
    """Losses and costs, the latter in units of their limits.

    Attributes:
        limited: the numbers of the limits that are finite.
    """

    def __init__(self, losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], limits: Sequence[float]):
        self.limited = [number for number, limit in enumerate(limits) if math.isfinite(limit)]
        units = np.array([max(limits[number], 1e-12) for number in self.limited])
        self._losses = [np.asarray(row, np.float64) for row in losses]
        self._costs = [np.asarray(rows, np.float64)[:, self.limited] / units for rows in costs]

    def cheapest(self, prices: np.ndarray) -> list[int]:
        """For each layer the option whose loss and costs at these prices are least."""
        return [int(np.argmin(loss + cost @ prices)) for loss, cost in zip(self._losses, self._costs, strict=True)]

    def least(self, limit: int) -> float:
        """The least that all layers together can cost."""
        return float(sum(cost[:, limit].min() for cost in self._costs))

    def total(self, chosen: Sequence[int]) -> np.ndarray:
        """What chosen options cost together, [limits]."""
        return np.sum([cost[option] for cost, option in zip(self._costs, chosen, strict=True)], axis=0)

    def priced(self, prices: np.ndarray, limit: int) -> list[int]:
        """The options at the lowest price of a limit at which it is kept, while those after it are kept, too."""
        if limit == len(prices):
            return self.cheapest(prices)

        def at(price: float) -> list[int]:
            now = prices.copy()
            now[limit] = price
            return self.priced(now, limit + 1)

        best = at(0.0)
        if self.total(best)[limit] <= 1:
            return best
        low, high = _CHEAP, _DEAR
        best = at(math.exp(high))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            chosen = at(math.exp(middle))
            if self.total(chosen)[limit] <= 1:
                high, best = middle, chosen
            else:
                low = middle
        return best

    def filled(self, chosen: list[int]) -> list[int]:
        """Options after what is left of the limits is spent."""
        chosen = list(chosen)
        while True:
            rest = 1 - self.total(chosen)
            if (rest < 0).any():
                raise OutOfReachError(self.limited[int(np.argmin(rest))], math.nan)
            best: tuple[float, int, int] | None = None
            for layer, (loss, cost) in enumerate(zip(self._losses, self._costs, strict=True)):
                more = cost - cost[chosen[layer]]
                gain = np.where((more <= rest).all(axis=1), loss[chosen[layer]] - loss, 0.0)
                option = int(np.argmax(gain))
                if gain[option] > 0 and (best is None or gain[option] > best[0]):
                    best = float(gain[option]), layer, option
            if best is None:
                return chosen
            chosen[best[1]] = best[2]
