"""Numbers that a user gives, and the ranges that they have to be in."""

from __future__ import annotations

import math
import numbers
from typing import Any


def check_number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    least: float = -math.inf,
    over: float = -math.inf,
    most: float = math.inf,
    under: float = math.inf,
) -> None:
    """Checks a number.

    Args:
        name: what it is, for the error.
        value: the number.
        whole: whether it has to be an integer.
        least: the smallest that it may be.
        over: what it has to be greater than.
        most: the largest that it may be.
        under: what it has to be smaller than.

    Raises:
        ValueError: it is no number, not finite, or out of its range; says what would work.
    """
    kind = numbers.Integral if whole else numbers.Real
    is_number = type(value) is not bool and isinstance(value, kind) and math.isfinite(value)
    if is_number and least <= value <= most and over < value < under:
        return
    limits = [("at least", least), ("over", over), ("at most", most), ("under", under)]
    told = " and ".join(f"{word} {limit:g}" for word, limit in limits if math.isfinite(limit))
    raise ValueError(f"{name} must be a {'whole' if whole else 'finite'} number {told}; got {value!r}.")
