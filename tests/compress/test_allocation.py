import itertools
import math

import numpy as np
import pytest

from dbf_keras.compress.allocation import OutOfReachError, allocate


def problem(layers=4, options=5, limits=1, seed=0):
    random = np.random.default_rng(seed)
    costs = [np.sort(random.uniform(1, 10, (options, limits)), axis=0)[::-1] for _ in range(layers)]
    losses = [np.sort(random.uniform(0, 5, options)) for _ in range(layers)]
    return losses, costs


def totals(losses, costs, chosen):
    loss = sum(row[option] for row, option in zip(losses, chosen, strict=True))
    return loss, sum(rows[option] for rows, option in zip(costs, chosen, strict=True))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("limits", [1, 2])
def test_no_other_choice_within_the_limits_loses_much_less(seed, limits):
    losses, costs = problem(limits=limits, seed=seed)
    most = np.full(limits, 22.0)
    loss, spent = totals(losses, costs, allocate(losses, costs, most))
    every = [totals(losses, costs, chosen) for chosen in itertools.product(range(5), repeat=4)]
    best = min(other for other, used in every if (used <= most).all())
    assert (spent <= most).all()
    # What a Lagrangian misses are options inside of the convex hull.
    assert loss <= best + 0.25 * (max(other for other, _ in every) - best)


@pytest.mark.parametrize("price", np.geomspace(0.01, 10, 12))
def test_what_is_cheapest_at_a_price_is_found_at_its_cost(price):
    losses, costs = problem(seed=3)
    cheapest = [int(np.argmin(loss + price * rows[:, 0])) for loss, rows in zip(losses, costs, strict=True)]
    least, spent = totals(losses, costs, cheapest)
    # No other choice of that cost loses less (Everett, 1963).
    loss, used = totals(losses, costs, allocate(losses, costs, spent * (1 + 1e-12)))
    assert used <= spent * (1 + 1e-12) and loss == pytest.approx(least)


def test_without_limits_nothing_is_lost():
    losses, costs = problem(limits=2)
    assert allocate(losses, costs, [math.inf, math.inf]) == [0, 0, 0, 0]


def test_a_limit_that_does_not_bind_does_not_matter():
    losses, costs = problem(limits=2)
    assert allocate(losses, costs, [20, 1e9]) == allocate(losses, [rows[:, :1] for rows in costs], [20])


def test_a_limit_out_of_reach_says_what_is_in_reach():
    losses, costs = problem(limits=2)
    least = sum(rows[:, 1].min() for rows in costs)
    with pytest.raises(OutOfReachError) as error:
        allocate(losses, costs, [1e9, 0.9 * least])
    assert error.value.limit == 1 and error.value.least == pytest.approx(least)
    allocate(losses, costs, [1e9, least])


def test_limits_that_are_out_of_reach_together_are_told():
    losses = [np.zeros(2)] * 2
    costs = [np.array([[1.0, 9.0], [9.0, 1.0]])] * 2
    with pytest.raises(OutOfReachError):
        allocate(losses, costs, [3.0, 3.0])
