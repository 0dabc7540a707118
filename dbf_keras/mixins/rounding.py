"""Rounding of coefficients, to few bits or to whole multiples of a step, and the bits that such multiples are coded in.

Gradients pass through a rounding as if it were not there (straight-through estimator, Bengio et al., 2013).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dbf_keras.backend import ops

# Scales that are tried for α of few bits, as shares of the one at which nothing is clipped.
_CLIPPING = np.linspace(0.4, 1, 13, dtype=np.float32)

# Significant bits of a step, so that a file holds it in a byte.
STEP_BITS = 5

# Mean magnitude of the levels of a band below which the rate goes on in a straight line, so that its slope is finite.
_LEAST_MEAN = 1e-3


def straight_through(value: Any, change: Any) -> Any:
    """``change`` of a value, with the gradient of the value itself."""
    return value + ops.stop_gradient(change - value)


def rounded(alpha: Any, bits: int) -> Any:
    """α [n, K] at 2^bits − 1 levels, symmetric about 0, with the scale of least squared error for each filter."""
    held = ops.stop_gradient(alpha)
    largest = 2 ** (bits - 1) - 1
    unclipped = ops.maximum(ops.max(ops.abs(held), axis=0), 1e-30) / largest  # Scales at which nothing is clipped.

    def at(scales: Any) -> Any:
        return ops.clip(ops.round(held / scales), -largest, largest) * scales

    def error(scales: Any) -> Any:
        return ops.sum(ops.square(at(scales) - held), axis=0)

    # One by one: all at once would take so many times α's memory, and TFLite's converter would not compute it.
    best, least = unclipped * _CLIPPING[0], error(unclipped * _CLIPPING[0])
    for share in _CLIPPING[1:]:
        trial = unclipped * share
        found = error(trial)
        best, least = ops.where(found < least, trial, best), ops.minimum(found, least)
    return straight_through(alpha, at(best))


def short_steps(steps: Any) -> Any:
    """Positive steps at `STEP_BITS` significant bits, float32."""
    # Veltkamp's splitting (Dekker, 1971): what is added and taken away again leaves the high bits, rounded.
    wide = steps * float(2 ** (24 - STEP_BITS) + 1)
    return wide - (wide - steps)


def levels(alpha: Any, steps: Any, largest: int, dead_zone: float) -> tuple[Any, Any]:
    """Whole multiples of the steps nearest to α.

    Args:
        alpha: coefficients [n, K].
        steps: [K], positive.
        largest: the largest magnitude of a level.
        dead_zone: by how much the magnitude at which a level begins is over that halfway from the one before, in steps.

    Returns:
        (levels, their magnitudes), float32 [n, K], whole numbers. The magnitudes have gradients at zero, too, towards
        the middle of the dead zone.
    """
    scaled = alpha / steps
    magnitudes = ops.abs(scaled)
    whole = ops.clip(ops.floor(magnitudes + (0.5 - dead_zone)), 0.0, float(largest))
    return straight_through(scaled, ops.sign(scaled) * whole), straight_through(magnitudes, whole)


def geometric_bits(mean: Any) -> Any:
    """Entropy, in bits, of a two-sided geometric distribution of whole numbers with this mean magnitude.

    Of the number k the probability is (1 − θ)/(1 + θ)·θ^|k|, so that the mean magnitude m is 2θ/(1 − θ²).
    """
    least = ops.maximum(mean, _LEAST_MEAN)
    theta = (ops.sqrt(1 + ops.square(least)) - 1) / least
    slope = -ops.log(theta) / math.log(2)  # The derivative by m.
    bits = ops.log((1 + theta) / (1 - theta)) / math.log(2) + least * slope
    return bits + ops.minimum(mean - _LEAST_MEAN, 0.0) * ops.stop_gradient(slope)
