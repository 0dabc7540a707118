"""How each DBF layer of a model is written: its form, and why it is not the one that was asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterable

from dbf_keras.backend import keras
from dbf_keras.export.filters import Filters
from dbf_keras.export.level_search import Levels
from dbf_keras.folding import Folding
from dbf_keras.forms import ABSENT, EXPLICIT, FOLDED, ONTHEFLY
from dbf_keras.layers import DBFConv2D, DBFDense


@dataclasses.dataclass
class LayerRecord:
    """One DBF layer of a model that is exported.

    Attributes:
        layer: the layer.
        filters: its filters.
        form: how it is written: ``"explicit"``, ``"folded"`` or ``"onthefly"``; ``"absent"`` if it is not in the file.
        reason: why the form is not the mode that was asked for; empty if it is.
        failed: whether what was asked for is impossible, rather than just no gain.
        open_margins: whether its pools, if it has any, are not known to fit the images, so that it does without.
        coded_bytes: what a coded layer takes in the file, once that is written.
    """

    layer: keras.layers.Layer
    filters: Filters
    form: str
    reason: str = ""
    failed: bool = False
    open_margins: bool = False
    coded_bytes: int | None = None

    @property
    def folding(self) -> Folding | None:
        """The folded form that the layer is written in; None if it is written in another."""
        folding = self.filters.folding
        if self.form != FOLDED or folding is None or not (folding.pooled or folding.projected):
            return None
        return dataclasses.replace(folding, pool_size=(1, 1)) if self.open_margins else folding

    @property
    def levels(self) -> Levels:
        """What the coefficients are whole multiples of; the layer is coded."""
        assert self.filters.levels is not None and self.filters.steps is not None
        return Levels(self.filters.levels, self.filters.steps)

    def set_levels(self, levels: Levels) -> None:
        """Makes the coefficients whole multiples of steps, to be coded."""
        self.filters = self.filters.with_levels(levels.levels, levels.steps)

    def note_open_margins(self) -> None:
        """Notes that the layer is written without its pools."""
        self.open_margins = True

    def make_absent(self) -> None:
        """Says that the layer is not in the file."""
        self.form, self.reason, self.failed = ABSENT, "no output of the model depends on it", False

    def make_explicit(self, reason: str, failed: bool) -> None:
        """Writes the layer as explicit, for this reason."""
        self.form, self.reason, self.failed = EXPLICIT, reason, failed


def choose(layers: Iterable[keras.layers.Layer], mode: str) -> list[LayerRecord]:
    """A record of each DBF layer among some layers, in the form of a mode where the layer has that.

    A subclass that computes with the kernel in its own way is an ordinary layer.
    """
    records = [
        LayerRecord(layer, Filters.of(layer), mode)
        for layer in layers
        if isinstance(layer, DBFConv2D | DBFDense) and not getattr(layer, "overrides_convolution", False)
    ]
    for record in records:
        if mode == FOLDED and (reason := _not_folded(record.filters)):
            record.make_explicit(*reason)
        if mode == ONTHEFLY and record.filters.codes is None:
            record.make_explicit("sp_ovsf keeps flat codes, which the op does not know", failed=True)
    return records


def settle(records: Iterable[LayerRecord], used: Container[int]) -> None:
    """Corrects records by what the standard converter has written: layers out of use, and pools of open sizes.

    Args:
        records: the DBF layers.
        used: the ids of the layers that an output of the model depends on.
    """
    for record in records:
        if id(record.layer) not in used:
            record.make_absent()
        elif record.open_margins and record.folding is not None and not record.folding.projected:
            record.make_explicit(
                "it is strided and the size of its images is open, so nobody knows where its pools lie",
                failed=True,
            )


def _not_folded(filters: Filters) -> tuple[str, bool] | None:
    """Why a layer is not written as folded, and whether that is impossible rather than just no gain; None if it is."""
    if filters.codes is None:
        return "sp_ovsf keeps flat codes, which do not separate into spatial and channel codes", True
    folding = filters.folding
    if folding is None:
        return (
            "its codes are no separable set: of channel codes with all spatial codes, or with all that are constant "
            "over pools of taps",
            True,
        )
    if not folding.pooled and not folding.projected:
        return "it keeps every code, so folded is the plain layer", False
    if folding.pooled and max(filters.dilations) > 1:
        return "its taps are dilated, and so are the pools over which its codes are constant", True
    count = len(filters.alpha)
    pooling = math.prod(folding.pool_size)  # A depthwise convolution takes a multiply-add for each pixel of a pool.
    if not folding.saves(count, pooling):
        return (
            f"folded would take {folding.multiply_adds(count, pooling):.0f} multiply-adds an output pixel, explicit "
            f"takes {filters.taps * count}",
            False,
        )
    return None
