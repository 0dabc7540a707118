"""What an export says about itself."""

from __future__ import annotations

import collections
import dataclasses

import rich.console
import rich.markup
import rich.table

from dbf_keras.forms import ABSENT, Form


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer of an exported model.

    Attributes:
        name: the layer's name.
        form: how the layer was written: ``"explicit"``, ``"folded"`` or ``"onthefly"``; ``"ordinary"`` for a layer that
            is no DBF layer; ``"absent"`` for a layer of either kind that is not in the file.
        bytes_explicit: bytes of the layer's filters in an explicit float32 file.
        bytes_file: bytes of the layer's weights in this file.
        kept: n, the codes kept for each filter; None for an ordinary layer.
        codes: P, the codes that there are; None for an ordinary layer.
        reason: why the form is not what was asked for; empty if it is.
        failed: whether what was asked for is impossible, rather than just no gain.
    """

    name: str
    form: str
    bytes_explicit: int
    bytes_file: int
    kept: int | None = None
    codes: int | None = None
    reason: str = ""
    failed: bool = False


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """An exported file and what is known of it.

    Attributes:
        data: the TFLite file.
        form: mode and quantisation, as asked for.
        layers: one report for each DBF layer.
        ordinary: one report for each other layer that has filters or the like.
        bytes_explicit: size of the explicit float32 file of the same model; None if it was not asked for.
        difference: largest absolute difference to the Keras model; None if it was not asked for.
        relative_difference: the same, divided by the largest output.
        noise: root mean square of the difference, divided by that of the outputs.
    """

    data: bytes
    form: Form
    layers: tuple[LayerReport, ...]
    ordinary: tuple[LayerReport, ...] = ()
    bytes_explicit: int | None = None
    difference: float | None = None
    relative_difference: float | None = None
    noise: float | None = None

    def summary(self) -> str:
        """What became of the DBF layers, in a line for each reason not to write them as asked."""
        if not self.layers:
            return (
                "The model has no DBF layers, so each mode writes the file of the standard converter. Networks of "
                "dbf_keras.networks have them, and dbf_keras.DBFConv2D takes the place of keras.layers.Conv2D."
            )
        written = sum(layer.form == self.form.mode for layer in self.layers)
        lines = [f"{written} of {len(self.layers)} DBF layers are written as {self.form.mode}."]
        reasons = collections.Counter((layer.form, layer.reason) for layer in self.layers if layer.reason)
        lines += [
            f"{count} not at all: {reason}." if form == ABSENT else f"{count} as {form}: {reason}."
            for (form, reason), count in reasons.items()
        ]
        return "\n".join(lines)

    def print(self, console: rich.console.Console | None = None) -> None:
        """Prints a table of the layers, then the sizes and the largest difference."""
        console = console or rich.console.Console()
        console.print(self._table())
        console.print(self.summary(), markup=False)
        size = len(self.data)
        if self.bytes_explicit is not None:
            share = size / self.bytes_explicit
            console.print(f"file: {size:,} bytes, {share:.3f} of the explicit float32 file's {self.bytes_explicit:,}")
        if self.difference is not None:
            console.print(
                f"largest difference to Keras: {self.difference:.3g}, "
                f"{self.relative_difference:.3g} of the largest output"
            )
            if self.form.quantize == "int8":
                console.print(
                    "Quantised to int8, checked on representative inputs: root mean square difference "
                    f"{self.noise:.3g} of the output's."
                )

    def _table(self) -> rich.table.Table:
        """Layers, what else is in the file, and the file."""
        table = rich.table.Table("layer", title=self.form.title)
        for heading in ("codes kept", "explicit bytes", "bytes"):
            table.add_column(heading, justify="right")
        table.add_column("written as")

        def add(name: str, codes: str, explicit: int | None, size: int, form: str) -> None:
            table.add_row(name, codes, "" if explicit is None else f"{explicit:,}", f"{size:,}", form)

        reports = [*self.layers, *self.ordinary]
        for layer in reports:
            codes = "" if layer.codes is None else f"{layer.kept}/{layer.codes}"
            add(rich.markup.escape(layer.name), codes, layer.bytes_explicit, layer.bytes_file, layer.form)
        # Biases, the graph, names and options.
        sizes = [sum(layer.bytes_explicit for layer in reports), sum(layer.bytes_file for layer in reports)]
        rest = None if self.bytes_explicit is None else self.bytes_explicit - sizes[0]
        add("all else", "", rest, len(self.data) - sizes[1], "")
        table.add_section()
        add("file", "", self.bytes_explicit, len(self.data), "")
        return table
