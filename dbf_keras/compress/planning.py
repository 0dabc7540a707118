"""Plans what a network is to become within a budget: the architecture search of this package."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dbf_keras.backend import all_layers, keras
from dbf_keras.compress import fit, losses
from dbf_keras.compress.allocation import OutOfReachError, allocate
from dbf_keras.compress.plan import Cost, LayerPlan, Plan
from dbf_keras.compress.stopwatch import Codes, Geometry, Stopwatch
from dbf_keras.export import conversion, quantization, rate_distortion, sensitivity
from dbf_keras.export.filters import Filters
from dbf_keras.forms import EXPLICIT, INT8, ONTHEFLY, Form
from dbf_keras.layers import DBFConv2D, DBFDense
from dbf_keras.networks import cost

# Prices of a bit, in the unit of the loss, at which a layer's levels may be coded.
_PRICES = tuple(float(price) for price in np.geomspace(1e-9, 1e-2, 22))

# What logits are divided by when sensitivities are found: on images that a network was trained on it is all but
# certain of the class, and what it says of the others tells what its layers do.
_TEMPERATURE = 2.0

# Points of accuracy that a distance of 1 costs, as `rate_distortion.choose` reckons.
_POINTS = 50.0

# Code sets count as equally fast if they take no more than this share longer; and layers are taken for slower by this
# share, or by more, each time that a whole file was.
_NEARLY, _CAUTION = 1.1, 1.05

# The first step of layers that are coded, before it is set; it sets how fast steps are learnt.
_FIRST_STEP = 0.5

# Options in the file that a set of codes takes: as many numbers, and these bytes.
_OPTIONS = 120


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a plan keeps to; None where there is no limit.

    Attributes:
        max_kb: 1,000 bytes of the file.
        max_ms: milliseconds of an inference on one thread.
        max_macs: multiply-adds of an inference.
        max_loss: points of accuracy that it may lose before training.
        faster: whether it may not take longer than the original.
    """

    max_kb: float | None = None
    max_ms: float | None = None
    max_macs: float | None = None
    max_loss: float | None = None
    faster: bool = True

    def __post_init__(self) -> None:
        for name in ("max_kb", "max_ms", "max_macs", "max_loss"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be over 0; got {value}.")

    @property
    def given(self) -> bool:
        """Whether there is a limit besides that of the original's time."""
        return any(getattr(self, name) is not None for name in ("max_kb", "max_ms", "max_macs", "max_loss"))


@dataclasses.dataclass(frozen=True)
class _Choice:
    """What a layer may become.

    Attributes:
        codes: the codes that it keeps; None if it stays plain.
        price: of a bit, if it is coded.
        cost: what it then costs.
        loss: what is then lost.
    """

    codes: losses.CodeSet | None
    price: float | None
    cost: Cost
    loss: float


class Built(NamedTuple):
    """A network as planned.

    Attributes:
        model: the network.
        layers: its DBF layers by the names in the plan.
    """

    model: keras.Model
    layers: Mapping[str, Any]


class Planner:
    """Knows what the layers of a network may become, and what each costs and loses.

    Args:
        model: trained.
        samples: typical inputs, as `calibration.to_samples` returns them; None if there are none: then layers are
            taken to matter as their filters' energies.
        form: of the file, on the fly.
        size: (height, width) of the images where the model leaves them open.
        stopwatch: times layers; None for no times.
        ratio: the share of the codes that each layer keeps, or by pattern of its name, of which the first that matches
            counts; None for any.
        selection: with ``ratio``, the kind of code sets, or the name of an order; None for any kind.

    Attributes:
        original: the explicit file of the original in the same number type.
        plain_bytes: its size.
    """

    def __init__(
        self,
        model: keras.Model,
        samples: list[list[np.ndarray]] | None,
        form: Form,
        size: Sequence[int] | None = None,
        stopwatch: Stopwatch | None = None,
        ratio: float | Mapping[str, float] | None = None,
        selection: str | None = None,
    ):
        self._original, self._form, self._stopwatch, self._samples, self._size = model, form, stopwatch, samples, size
        self._reasons: dict[int, str] = {}
        found = fit.survey(model)
        self._candidates, self._others = found.candidates, found.others
        self._model, made = fit.fit(model, {candidate.name: {} for candidate in self._candidates})
        self._layers = [made[candidate.name] for candidate in self._candidates]
        self._filters = [Filters.of(layer) for layer in self._layers]
        self._positions, self._geometries = self._calls(size)
        curvatures: Sequence[sensitivity.Curvature | None] = [_by_energy(filters) for filters in self._filters]
        if samples is not None:
            with sensitivity.probing(
                self._model, self._layers, samples, classes=True, temperature=_TEMPERATURE
            ) as probe:
                curvatures = probe.curvatures()
        self.losses = [losses.LayerLosses(*pair) for pair in zip(self._filters, curvatures, strict=True)]
        self._caution = 1.0
        if ratio is None:
            sets = [list(own.code_sets()) for own in self.losses]
        else:
            sets = self._given_sets(ratio if isinstance(ratio, Mapping) else {"*": ratio}, selection)
        self._choices = self._all_choices(sets)
        self._rest, self._plain_rest = self._rests()

    def _calls(self, size: Sequence[int] | None) -> tuple[list[int], list[list[Geometry]]]:
        """For each layer the output pixels of an image, and a geometry for each call."""
        places = {id(layer): place for place, layer in enumerate(self._layers)}
        positions = [0] * len(self._layers)
        geometries: list[list[Geometry]] = [[] for _ in self._layers]
        for call in cost.calls(self._model, size):
            place = places.get(id(call.operation))
            if place is not None:
                geometry = _geometry(call.operation, self._filters[place], call.arguments[0].shape[1:-1])
                geometries[place].append(geometry)
                positions[place] += math.prod(geometry.outputs)
        return positions, geometries

    def _given_sets(self, schedule: Mapping[str, float], selection: str | None) -> list[list[losses.CodeSet]]:
        """For each layer the code sets of its given share.

        Raises:
            ValueError: a ratio out of its range, or none for a layer.
        """
        sets = []
        for candidate, own in zip(self._candidates, self.losses, strict=True):
            pattern = next((key for key in schedule if fnmatch.fnmatchcase(candidate.name, key)), None)
            if pattern is None:
                raise ValueError(f"No ratio of {', '.join(schedule)} is for layer '{candidate.name}'; add a '*'.")
            sets.append(own.sets_at(schedule[pattern], selection))
        return sets

    def _all_choices(self, sets: list[list[losses.CodeSet]]) -> list[list[_Choice]]:
        """What layers may become that keep one of some sets each: the first is to stay plain."""
        kept: list[list[Codes]] = [[None, *(np.sort(found.codes) for found in row)] for row in sets]
        seconds = self._seconds(kept)
        self._plain_costs = [self._plain(place, row[0]) for place, row in enumerate(seconds)]
        return [self._choices_of(place, sets[place], seconds[place]) for place in range(len(sets))]

    def _seconds(self, kept: list[list[Codes]]) -> list[list[float]]:
        """The time of each layer with each set of codes, all calls together."""
        if self._stopwatch is None:
            return [[math.nan] * len(row) for row in kept]
        keys = {
            (place, number): [(geometry, codes) for codes in kept[place]]
            for place, row in enumerate(self._geometries)
            for number, geometry in enumerate(row)
        }
        times = self._stopwatch.times(keys)
        return [
            np.sum([times[place, number] for number in range(len(row))], axis=0).tolist()
            for place, row in enumerate(self._geometries)
        ]

    def _choices_of(self, place: int, sets: list[losses.CodeSet], seconds: list[float]) -> list[_Choice]:
        filters, count = self._filters[place], len(self._filters[place].alpha)
        macs = self._positions[place] * count
        choices = [_Choice(None, None, self._plain_costs[place], 0.0)]
        for found, duration in zip(sets, seconds[1:], strict=True):
            multiply_adds = macs * len(found.codes)
            if self._form.coding:
                ascending = np.sort(found.codes)
                for price, (size, loss) in zip(_PRICES, self.losses[place].coded(ascending, _PRICES), strict=True):
                    choice = _Choice(found, price, Cost(size, duration, multiply_adds), found.loss + loss)
                    choices.append(choice)
            else:
                size = quantization.stored_bytes(len(found.codes) * count, count, self._form.quantize, direct=True)
                size += _OPTIONS + filters.taps // 8
                choices.append(_Choice(found, None, Cost(size, duration, multiply_adds), found.loss))
        return choices

    def _plain(self, place: int, seconds: float) -> Cost:
        """What a layer costs as a standard op."""
        filters, count = self._filters[place], len(self._filters[place].alpha)
        size = quantization.stored_bytes(filters.taps * count, count, self._form.quantize, direct=False)
        return Cost(size, seconds, self._positions[place] * count * filters.taps)

    def _rests(self) -> tuple[Cost, Cost]:
        """What the file, and that of the original, cost besides the layers; finds out which the op can compute."""
        plain_form = Form(EXPLICIT, self._form.quantize)
        samples = self._samples if self._form.quantize in INT8 else None
        to_file = functools.partial(
            conversion.convert, check=False, ordinary_coding=False, representative_data=_batches(samples)
        )
        original = to_file(self._original, *plain_form).data
        written = to_file(self._model, *self._form)
        self.original, self.plain_bytes = original, len(original)
        reports = dict(zip((id(layer) for layer in dbf_layers(self._model)), written.layers, strict=True))
        stored = 0.0
        for place, layer in enumerate(self._layers):
            report = reports[id(layer)]
            if report.form != ONTHEFLY:
                self._choices[place] = self._choices[place][:1]
                self._reasons[place] = report.reason
                stored += self._choices[place][0].cost.bytes
            elif self._form.coding:
                levels = rate_distortion.trained(layer) or rate_distortion.plain(self._filters[place])
                stored += rate_distortion.coded_bytes(self._filters[place], levels)
            else:
                every = self._filters[place]
                count = len(every.alpha)
                stored += quantization.stored_bytes(every.alpha.size, count, self._form.quantize, direct=True)
                stored += _OPTIONS + every.taps // 8
        plain = sum(self._plain_costs, Cost())
        seconds = math.nan
        if self._stopwatch is not None:
            seconds = max(self._stopwatch.seconds(original) - plain.seconds, 0.0)
        rest = 0.0
        with contextlib.suppress(ValueError):  # Some multiply-adds are not known, or a size is open.
            rest = cost.multiply_adds(self._original) - plain.multiply_adds
        return (
            Cost(len(written.data) - stored, seconds, rest),
            Cost(len(original) - plain.bytes, seconds, rest),
        )

    def plan(self, limits: Limits) -> Plan:
        """The plan that loses least within limits; with one of the loss, the one of fewest bytes.

        Raises:
            ValueError: nothing keeps a limit; says how near it comes.
        """
        known = self._stopwatch is not None
        if limits.max_ms is not None and not known:
            raise ValueError("`max_ms` needs times, which take the op's C library and a TFLite runtime.")
        rest, plain = self._rest, self._plain_seconds()
        ceiling = min(
            plain + rest.seconds if limits.faster and known else math.inf,
            math.inf if limits.max_ms is None else limits.max_ms / 1e3,
        )
        most = [
            math.inf if limits.max_kb is None else 1e3 * limits.max_kb - rest.bytes,
            ceiling - rest.seconds if known else math.inf,
            math.inf if limits.max_macs is None else limits.max_macs - rest.multiply_adds,
            math.inf if limits.max_loss is None else limits.max_loss / _POINTS,
        ]
        lost = [np.array([choice.loss for choice in row]) for row in self._choices]
        costs = [self._costs(row) for row in self._choices]
        with_loss = [np.column_stack([np.nan_to_num(rows), loss]) for rows, loss in zip(costs, lost, strict=True)]
        objective = lost if limits.max_loss is None else [rows[:, 0] for rows in costs]
        try:
            chosen = allocate(objective, with_loss, most)
        except OutOfReachError as error:
            raise ValueError(self._floor(error, limits)) from None
        return self._plan(chosen)

    def uniform(self, faster: bool) -> Plan:
        """The plan in which every layer keeps its given share of the codes.

        Args:
            faster: leave layers plain that would take longer.
        """
        chosen = []
        for row, plain in zip(self._choices, self._plain_costs, strict=True):
            best = _fastest(row)
            slower = row[best].cost.seconds * self._caution > plain.seconds
            chosen.append(0 if faster and slower else best)
        return self._plan(chosen)

    def _costs(self, row: Sequence[_Choice]) -> np.ndarray:
        """The costs of choices, [choices, 3]."""
        costs = np.array([dataclasses.astuple(choice.cost) for choice in row])
        costs[1:, 1] *= self._caution
        return costs

    @staticmethod
    def file_bytes(plan: Plan, built: Built) -> float:
        """What the file of a network as planned takes, its coded levels as they are."""
        size = plan.cost.bytes
        for planned in plan.layers:
            if planned.price is not None:
                size += rate_distortion.stored_bytes(built.layers[planned.name]) - planned.cost.bytes
        return size

    def be_slower(self, share: float) -> None:
        """Takes on-the-fly layers for slower than they were timed, as a whole file of them was by this share."""
        self._caution *= max(share, _CAUTION)

    def _plain_seconds(self) -> float:
        return sum(plain.seconds for plain in self._plain_costs)

    def _floor(self, error: OutOfReachError, limits: Limits) -> str:
        """What to say of a limit that cannot be kept."""
        name, given, unit, least = (
            ("max_kb", limits.max_kb, 1e-3, self._rest.bytes),
            ("max_ms", limits.max_ms, 1e3, self._rest.seconds),
            ("max_macs", limits.max_macs, 1.0, self._rest.multiply_adds),
            ("max_loss", limits.max_loss, _POINTS, 0.0),
        )[error.limit]
        given_text = "the time of the original" if given is None else f"{name}={given:g}"
        if math.isnan(error.least):
            return f"No plan keeps {given_text} together with the other limits; raise one of them."
        return (
            f"No plan keeps {given_text}: this network takes {unit * (error.least + least):.4g} at least, of which "
            f"{unit * least:.4g} are not filters. Raise it to more than that."
        )

    def _plan(self, chosen: Sequence[int]) -> Plan:
        rows = []
        for place, number in enumerate(chosen):
            candidate, choice = self._candidates[place], self._choices[place][number]
            found = choice.codes
            rows.append(
                LayerPlan(
                    candidate.name,
                    candidate.shape,
                    candidate.filters,
                    None if found is None else found.selection,
                    None if found is None else tuple(found.codes.tolist()),
                    choice.price,
                    choice.cost,
                    self._plain_costs[place],
                    choice.loss,
                    "" if found is not None else self._reasons.get(place, "codes would lose more than they save"),
                )
            )
        return Plan(tuple(rows), self._others, self._form, self._rest, self._plain_rest)

    def build(self, plan: Plan, **options: Any) -> Built:
        """The network as planned, its filters fitted so that kept codes make up for dropped ones.

        Args:
            plan: one of this network.
            **options: further arguments of its DBF layers.
        """
        planned = {layer.name: layer for layer in plan.layers if layer.codes is not None}
        model, made = fit.fit(self._original, {name: {**options, **_options(planned[name])} for name in planned})
        places = {candidate.name: place for place, candidate in enumerate(self._candidates)}
        for name, layer in made.items():
            own, price = self.losses[places[name]], planned[name].price
            ascending = np.argsort(layer.codes)
            codes = np.asarray(layer.codes)[ascending]
            if price is None:
                fitted = own.fitted(codes)
            else:
                levels = own.levels(codes, price)
                fitted = levels.alpha
                layer.steps.assign(levels.steps * layer.coefficient_scale)
            alpha = np.empty(layer.coefficients.shape)
            alpha[ascending] = fitted.T
            layer.coefficients.assign((alpha * layer.coefficient_scale).astype(np.float32))
        return Built(model, made)


def _options(layer: LayerPlan) -> dict[str, Any]:
    """The arguments of a DBF layer as planned."""
    assert layer.codes is not None
    coded = {} if layer.price is None else {"alpha_step": _FIRST_STEP}
    if layer.ratio == 1:
        return {"ratio": 1.0, **coded}
    return {"ratio": layer.ratio, "selection": list(layer.codes), **coded}


def _fastest(row: Sequence[_Choice]) -> int:
    """The code set that takes the least time; of those that are nearly as fast, the one that loses least."""
    if len(row) == 1:
        return 0
    least = min(choice.cost.seconds for choice in row[1:])
    near = [number for number in range(1, len(row)) if not row[number].cost.seconds > _NEARLY * least]
    return min(near, key=lambda number: row[number].loss)


def dbf_layers(model: keras.Model) -> list[Any]:
    """The DBF layers of a model, in the order in which an export reports on them."""
    return [layer for layer in all_layers(model) if isinstance(layer, DBFConv2D | DBFDense)]


def _batches(samples: list[list[np.ndarray]] | None) -> Any:
    """Samples as representative data."""
    return None if samples is None else [sample[0] if len(sample) == 1 else sample for sample in samples]


def _by_energy(filters: Filters) -> sensitivity.Curvature:
    """A curvature by which an error counts as its share of the layer's energy, for inputs that are white."""
    energy = max(float(np.square(filters.alpha).sum()), 1e-30)
    columns = filters.alpha.shape[1]
    return sensitivity.Curvature(np.full(len(filters.alpha), 1 / energy), losses.identity(columns))


def _geometry(layer: Any, filters: Filters, size: Sequence[int | None]) -> Geometry:
    if None in size:
        raise ValueError(f"The size of the images of layer {layer.name!r} is open; say which to plan for.")
    known = [int(length) for length in size if length is not None]
    if not isinstance(layer, keras.layers.Conv2D):
        return Geometry(filters.shape, len(filters.alpha), (math.prod(known), 1), dense=True)
    return Geometry(
        filters.shape,
        len(filters.alpha),
        (known[0], known[1]),
        tuple(layer.strides),
        tuple(layer.dilation_rate),
        layer.padding,
    )
