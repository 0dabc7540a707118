"""Levels of coefficients chosen after training: those of few bytes that change the outputs of the model little."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dbf_keras.backend import keras, ops
from dbf_keras.export import coded, quantization, sensitivity
from dbf_keras.export.filters import Filters
from dbf_keras.export.level_search import Levels, Search, coded_bytes, plain

__all__ = ["Levels", "choose", "coded_bytes", "plain", "trained"]

# Prices of a bit, in units of the outputs' distance, between which the one to choose lies, and the first to try.
_CHEAP, _FIRST, _DEAR = 1e-11, 3e-8, 1e-1

# How many prices are tried at most; how far the bytes or the loss may stay under what is allowed, as a share.
_TRIALS = 16
_NEAR_BYTES, _NEAR_LOSS = 0.005, 0.05

# Logarithm of the largest factor by which what was found counts as too much or too little: nothing may be lost at all.
_FAR = 3.0

# By what power of the price bytes fall and the loss rises, about.
_BYTES_POWER, _LOSS_POWER = 0.2, 1.0

# Points of accuracy that a distance of 1 on training images costs on others, see `choose`.
_POINTS = 50.0


def trained(layer: Any) -> Levels | None:
    """The levels that a layer with an `alpha_step` or `alpha_bits` computes with; None for other layers.

    Steps are rounded to what a file can hold; those of an `alpha_step` are such already.
    """
    if layer.codes is None or (layer.alpha_step is None and layer.alpha_bits is None):
        return None
    alpha = Filters.of(layer).alpha
    if layer.alpha_step is None:
        levels, multiples = quantization.to_int8(alpha.astype(np.float32), 0)
        return Levels(levels, coded.short(multiples.astype(np.float64)))
    steps = np.asarray(ops.convert_to_numpy(layer._all_levels()[2]), np.float64)
    return Levels(np.rint(alpha / steps[:, None]).astype(np.int8), coded.short(steps))


def stored_bytes(layer: Any) -> int:
    """Bytes of the levels that a layer with an `alpha_step` computes with, their statistics and steps in a file."""
    levels = trained(layer)
    assert levels is not None, "such a layer has levels"
    return coded_bytes(Filters.of(layer), levels)


def choose(
    model: keras.Model,
    layers: Sequence[Any],
    samples: list[list[np.ndarray]],
    max_loss: float | None = None,
    max_kb: float | None = None,
    labels: Any = None,
) -> list[Levels]:
    """Chooses the levels of all layers at one price of a bit, in units of what the outputs change.

    The price is the lowest at which the layers take no more than ``max_kb``, or the highest at which no more accuracy
    than ``max_loss`` is lost. A tenth of a point is a count of one or two images in a thousand, which is chance; and
    images that the model was trained on tell less than others. So the loss is reckoned from the outputs' mean distance
    (see `sensitivity.Probe`; about their Kullback–Leibler divergence) on the samples: a distance of 0.002 counts as 0.1
    points, which is about what training images of the zoo's networks say of test images. With labels, it is at least
    the loss that is counted on the samples, less a standard deviation of that count.

    Args:
        model: the model. It is as it was when this returns.
        layers: its DBF layers whose coefficients are to be coded; none with flat codes.
        samples: typical inputs, some hundred to some thousand, as `calibration.to_samples` returns them.
        max_loss: points of accuracy (0.1 is one image in a thousand) that may be lost. The outputs are then scores of
            classes: probabilities or logits.
        max_kb: 1,000 bytes that the levels of all layers may take, with their statistics and steps.
        labels: with ``max_loss``, the classes of the samples, in the order of one output's rows.

    Returns:
        The levels of each layer, those of `trained` or `plain` for layers that the outputs do not depend on.

    Raises:
        ValueError: both or neither of ``max_loss`` and ``max_kb`` are given, no levels take so few bytes, or there is
            not one label for each row.
    """
    if (max_loss is None) == (max_kb is None):
        raise ValueError("Give `max_loss` or `max_kb`, and not both.")
    filters = [Filters.of(layer) for layer in layers]
    starts = [trained(layer) for layer in layers]
    with sensitivity.probing(model, layers, samples, classes=max_loss is not None) as probe:
        searches = [
            None if curvature is None else Search(own, curvature.weights, curvature.blocks, start)
            for own, start, curvature in zip(filters, starts, probe.curvatures(), strict=True)
        ]

        def at(price: float) -> list[Levels]:
            return [
                start or plain(own) if search is None else search.at(price)
                for own, start, search in zip(filters, starts, searches, strict=True)
            ]

        def size(levels: list[Levels]) -> float:
            return sum(map(coded_bytes, filters, levels)) / 1000

        if max_kb is not None:
            return _cheapest_within(at, size, max_kb)
        judge = _Judge(probe, labels)
        return _dearest_within(at, judge.loss, float(max_loss or 0))


def _cheapest_within(
    at: Callable[[float], list[Levels]], size: Callable[[list[Levels]], float], most: float
) -> list[Levels]:
    """The levels at the lowest price at which they take no more than so many 1,000 bytes."""
    best, smallest = None, math.inf
    prices = _Prices(_BYTES_POWER)
    for price in prices:
        levels = at(price)
        found = size(levels)
        smallest = min(smallest, found)
        if found <= most and (best is None or price < best[0]):
            best = price, levels
        prices.note(math.log(most / found), done=(1 - _NEAR_BYTES) * most <= found <= most)
    if best is None:
        raise ValueError(f"The coefficients take {smallest:.1f} kB at least; got max_kb={most:.1f}.")
    return best[1]


def _dearest_within(
    at: Callable[[float], list[Levels]], loss: Callable[[list[Levels]], float], most: float
) -> list[Levels]:
    """The levels at the highest price at which no more than so much is lost; at the lowest if it is always more."""
    best: tuple[float, list[Levels]] | None = None
    prices = _Prices(_LOSS_POWER)
    for price in prices:
        levels = at(price)
        found = loss(levels)
        if found <= most and (best is None or price > best[0]):
            best = price, levels
        excess = math.log(max(found, 1e-9) / max(most, 1e-9))
        prices.note(excess, done=(1 - _NEAR_LOSS) * most <= found <= most)
    return at(_CHEAP) if best is None else best[1]


class _Prices:
    """Prices to try, until one fits.

    Args:
        power: of the price that what is sought grows with, about.
    """

    def __init__(self, power: float):
        self._power = power
        self._low: tuple[float, float] | None = None  # Logarithm of a price, and excess there; the latter below 0.
        self._high: tuple[float, float] | None = None
        self._next: float | None = math.log(_FIRST)
        self._left = _TRIALS
        self._stride = 0.15

    def __iter__(self) -> _Prices:
        return self

    def __next__(self) -> float:
        if self._next is None or not self._left:
            raise StopIteration
        self._left -= 1
        return math.exp(self._next)

    def note(self, excess: float, done: bool) -> None:
        """Takes what was found at the last price: by how much it is too high, of something that rises with it."""
        assert self._next is not None
        excess = min(max(excess, -_FAR), _FAR)
        here = self._next, excess
        if excess <= 0:
            self._low = here
        else:
            self._high = here
        if done:
            self._next = None
        elif self._low is None or self._high is None:
            self._stride *= 2  # Where bytes hardly follow the price, as those of trained levels.
            step = max(abs(excess) / self._power, self._stride)
            wanted = here[0] - math.copysign(step, excess)
            wanted = min(max(wanted, math.log(_CHEAP)), math.log(_DEAR))
            self._next = None if wanted == here[0] else wanted
        else:
            width = self._high[0] - self._low[0]
            share = -self._low[1] / (self._high[1] - self._low[1])
            self._next = self._low[0] + min(max(share, 0.1), 0.9) * width if width > 0.02 else None


class _Judge:
    """What a model loses with other levels, in points of accuracy.

    Args:
        probe: the model.
        labels: of the samples, or None.

    Raises:
        ValueError: there are several outputs for labels, or not one label for each row.
    """

    def __init__(self, probe: sensitivity.Probe, labels: Any):
        self._probe = probe
        self._right: np.ndarray | None = None
        self._labels = None if labels is None else np.asarray(labels).reshape(-1)
        if self._labels is not None:
            rows = [len(output) for output in probe.first]
            if rows != [len(self._labels)]:
                raise ValueError(f"There are {len(self._labels)} labels for outputs of {rows} rows.")
            self._right = probe.first[0].argmax(axis=-1) == self._labels

    def loss(self, levels: list[Levels]) -> float:
        """The loss, as `choose` reckons it."""
        for position, found in enumerate(levels):
            self._probe.assign(position, found.alpha)
        features = self._probe.features()
        loss = _POINTS * self._probe.distance(features)
        if self._labels is None or self._right is None:
            return loss
        right = features[0].argmax(axis=-1) == self._labels
        lost = float(self._right.sum()) - right.sum()
        return max(loss, 100 * (lost - math.sqrt((right != self._right).sum())) / len(right))
