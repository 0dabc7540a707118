"""What a network is to become, layer by layer: printed, and kept in a file that trainings and sweeps take."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.console
import rich.markup
import rich.table

from dbf_keras import command
from dbf_keras.forms import Form

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a layer or network costs.

    Attributes:
        bytes: of the file.
        seconds: of an inference on one thread; NaN where that was not measured.
        multiply_adds: of an inference, as `dbf_keras.networks.cost.multiply_adds` counts them.
    """

    bytes: float = 0.0
    seconds: float = 0.0
    multiply_adds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(one + another for one, another in pairs))

    def __sub__(self, other: Cost) -> Cost:
        return self + Cost(-other.bytes, -other.seconds, -other.multiply_adds)


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What one layer is to become.

    Attributes:
        name: the name of its `dbf_keras.compress.fit.Candidate`.
        shape: (kh, kw, C) of its filters.
        filters: K.
        selection: the kind of its code set (`dbf_keras.compress.losses.SELECTIONS`, or the name of an order); None
            where the layer stays plain.
        codes: the grid codes that it keeps, those that matter most first; None where it stays plain.
        price: of a bit of its coded levels, in the unit of the loss; None where they are not coded.
        cost: what is foreseen.
        plain: what the layer costs as it was.
        loss: what is foreseen that the outputs lose, see `dbf_keras.export.sensitivity.Probe.distance`.
        reason: why it stays plain, if it does.
    """

    name: str
    shape: tuple[int, int, int]
    filters: int
    selection: str | None
    codes: tuple[int, ...] | None
    price: float | None
    cost: Cost
    plain: Cost
    loss: float
    reason: str = ""

    @property
    def ratio(self) -> float:
        """ρ."""
        return 1.0 if self.codes is None else len(self.codes) / int(np.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a network is to become.

    Attributes:
        layers: those that can be DBF layers, in the network's order.
        others: names of the other layers with filters, and why they stay as they are.
        form: of the file.
        rest: what the file costs besides these layers.
        plain_rest: what that of the original costs.
        asked: what it was made for, for JSON.
        tuning: how it is fine-tuned, as far as that was found by trying, for JSON.
    """

    layers: tuple[LayerPlan, ...]
    others: Mapping[str, str]
    form: Form
    rest: Cost
    plain_rest: Cost
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuning: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        """What the file is foreseen to cost."""
        return sum((layer.cost for layer in self.layers), self.rest)

    @property
    def plain(self) -> Cost:
        """What a file of the original in the same number type costs."""
        return sum((layer.plain for layer in self.layers), self.plain_rest)

    @property
    def loss(self) -> float:
        """What the outputs are foreseen to lose before any training, see `Probe.distance`."""
        return sum(layer.loss for layer in self.layers)

    @property
    def ratios(self) -> dict[str, float]:
        """ρ by name."""
        return {layer.name: layer.ratio for layer in self.layers}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the plan as JSON; ``dbf train --ratio=@PATH`` takes ratios and codes from it."""
        content = {
            "version": _VERSION,
            "asked": dict(self.asked),
            "tuning": dict(self.tuning),
            "form": self.form._asdict(),
            "rest": dataclasses.asdict(self.rest),
            "plain_rest": dataclasses.asdict(self.plain_rest),
            "layers": [{**dataclasses.asdict(layer), "ratio": layer.ratio} for layer in self.layers],
            "others": dict(self.others),
        }
        command.write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Reads a plan.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no plan.
        """
        content = pathlib.Path(path).read_text(encoding="utf-8")
        try:
            held = json.loads(content)
            if held["version"] != _VERSION:
                raise ValueError(f"its version is {held['version']}, and this one reads {_VERSION}")
            layers = tuple(_layer(row) for row in held["layers"])
            costs = Cost(**held["rest"]), Cost(**held["plain_rest"])
            return cls(layers, held["others"], Form(**held["form"]), *costs, held["asked"], held["tuning"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)} is no plan that dbf compress wrote: {error}.") from None

    def print(self, console: rich.console.Console | None = None) -> None:
        """Prints a table of the layers and of the whole."""
        console = console or rich.console.Console()
        table = rich.table.Table("layer", "filters", title=f"Plan: {self.form.title}")
        for heading in ("ρ", "codes", "bytes", "was", "ms", "was", "loses"):
            table.add_column(heading, justify="right")
        for layer in self.layers:
            name = rich.markup.escape(layer.name)
            kind = layer.selection or f"plain: {layer.reason}"
            table.add_row(
                name, filters_text(layer), f"{layer.ratio:.3f}", kind, *_cells(layer.cost, layer.plain, layer.loss)
            )
        table.add_row("all else", "", "", "", *_cells(self.rest, self.plain_rest, 0.0))
        table.add_section()
        table.add_row("network", "", "", "", *_cells(self.cost, self.plain, self.loss))
        console.print(table)
        reasons = collections.Counter(layer.reason for layer in self.layers if layer.reason)
        for reason, count in reasons.items():
            console.print(f"{count} of {len(self.layers)} layers stay plain: {reason}.", markup=False)
        for name, reason in self.others.items():
            console.print(f"{name} stays as it is: {reason}.", markup=False)


def filters_text(layer: LayerPlan) -> str:
    """The filters of a layer in words."""
    kh, kw, channels = layer.shape
    return f"{kh}×{kw}×{channels}→{layer.filters}"


def _cells(now: Cost, before: Cost, loss: float) -> list[str]:
    pairs = (f"{now.bytes:,.0f}", f"{before.bytes:,.0f}", milliseconds(now.seconds), milliseconds(before.seconds))
    return [*pairs, f"{loss:.4f}"]


def milliseconds(seconds: float) -> str:
    """Seconds as ms; nothing where they are not known."""
    return "" if np.isnan(seconds) else f"{1e3 * seconds:.3f}"


def _layer(row: dict[str, Any]) -> LayerPlan:
    del row["ratio"]
    codes = None if row["codes"] is None else tuple(row["codes"])
    costs = {key: Cost(**row[key]) for key in ("cost", "plain")}
    return LayerPlan(**{**row, "shape": tuple(row["shape"]), "codes": codes, **costs})
