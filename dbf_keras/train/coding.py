"""Training for few bits: the price of a coded byte, epoch by epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

from dbf_keras.backend import all_layers, keras

# With a target: the first price in loss for each 1,000 bytes; how many epochs ahead the coded bytes are foreseen; the
# power of what is foreseen over the target that the price is multiplied by after an epoch, and the most of that factor.
# Trainings of fewer epochs than `_LONG` look less far ahead and change the price by more. Bytes that are held from the
# start are to differ by hundredths only, and grow in the first epochs, while the learning rate can still move them: so
# their power is a high one. Late epochs move no bytes, so that their price would rise without end, and ruin the model.
_FIRST_PRICE, _AHEAD, _POWER, _LARGEST, _LONG, _HOLD, _MOST_HOLD = 1e-3, 4, 2.0, 1.4, 40, 10.0, 10.0

# The most that all coded bytes may cost, as a multiple of the rest of the loss: a price that rises without end where
# bytes do not follow ruins the model.
_MOST_COST = 20.0

# Shares of the epochs in which a given rate rises, and a target falls, to what is asked for.
_RISE, _FALL = 0.25, 0.5


@dataclasses.dataclass(frozen=True)
class Coding:
    """What coded coefficients cost in training: a price, or what gives a number of bytes in the end.

    Attributes:
        rate: loss for each 1,000 bytes of coded coefficients; it rises evenly to this in the first quarter of epochs.
        coded_kb: how many 1,000 bytes are aimed at; the price rises while the layers take more than a target that
            falls evenly to this in the first half of the epochs, and falls while they take less.
        first_price: with `coded_kb`, the price in the first epoch, of layers that take about so many bytes from the
            start: the target is then the same in all epochs, and the price follows small differences.
        measure: gives the bytes of a layer's coefficients after an epoch; None takes its `coded_bits`, an estimate that
            can be several hundredths off.

    Raises:
        ValueError: both rate and target, a first price without a target, or a number out of its range.
    """

    rate: float | None = None
    coded_kb: float | None = None
    first_price: float | None = None
    measure: Callable[[Any], float] | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.rate is not None and self.coded_kb is not None:
            raise ValueError("Give --rate, the price of coded bytes, or --coded_kb, their number, not both.")
        if self.first_price is not None and (self.coded_kb is None or not 0 < self.first_price < math.inf):
            raise ValueError(f"A first price goes with a target and must be over 0; got {self.first_price}.")
        if self.rate is not None and not 0 <= self.rate < math.inf:
            raise ValueError(f"--rate must be at least 0; got {self.rate}.")
        if self.coded_kb is not None and not 0 < self.coded_kb < math.inf:
            raise ValueError(f"--coded_kb must be over 0; got {self.coded_kb}.")

    def summary(self) -> dict[str, float | None]:
        """What a checkpoint and a model file keep of it."""
        first = {} if self.first_price is None else {"first_price": self.first_price}
        return {"rate": self.rate, "coded_kb": self.coded_kb, **first}

    @property
    def most_kb(self) -> float | None:
        """How many 1,000 bytes an epoch may take that counts; None where they all do, as they are near the target."""
        return self.coded_kb if self.first_price is None else None

    def layers(self, model: keras.Model) -> list:
        """The layers of a model whose coefficients are coded.

        Raises:
            ValueError: a rate or a target is given and there is no such layer.
        """
        coded = [layer for layer in all_layers(model) if getattr(layer, "alpha_step", None) is not None]
        if not coded and (self.rate is not None or self.coded_kb is not None):
            raise ValueError("--rate and --coded_kb need layers with an `alpha_step`, such as --option=alpha_step=0.5.")
        return coded

    def set_price(self, layers: Iterable[Any], history: list[dict[str, float]], epochs: int) -> None:
        """Sets the price of the next epoch, from the rows of those before."""
        done = len(history)
        if self.rate is not None:
            _assign(layers, self.rate * min(1.0, (done + 1) / (_RISE * epochs)))
        elif self.coded_kb is not None and not done:
            _assign(layers, self.first_price or _FIRST_PRICE)
        elif self.coded_kb is not None:
            first, last = history[0]["coded_kb"], history[-1]["coded_kb"]
            before = history[-2]["coded_kb"] if done > 1 else last
            holds = self.first_price is not None
            haste = max(1.0, _LONG / epochs)
            ahead = max(1.0, _AHEAD / haste)
            foreseen = max(last + ahead * (last - before), 1e-3)
            share = 1.0 if holds else min(1.0, (done + ahead) / (_FALL * epochs))
            factor = (foreseen / (first + share * (self.coded_kb - first))) ** (_HOLD if holds else _POWER)
            price = history[-1]["price"]
            rest = max(history[-1]["loss"] - price * last, 0.0)
            price *= min(max(factor, _LARGEST**-haste), _LARGEST**haste)
            most = _MOST_COST * rest / last if self.first_price is None else _MOST_HOLD * self.first_price
            _assign(layers, min(price, max(most, _FIRST_PRICE)))

    def row(self, layers: Iterable[Any]) -> dict[str, float]:
        """What the history says of an epoch: the coded 1,000 bytes and their price; {} without coded layers."""
        layers = list(layers)
        if not layers:
            return {}
        measure = self.measure or (lambda layer: float(layer.coded_bits) / 8)
        return {"coded_kb": sum(map(measure, layers)) / 1000, "price": float(layers[0].rate)}


def _assign(layers: Iterable[Any], price: float) -> None:
    for layer in layers:
        layer.rate.assign(price)
