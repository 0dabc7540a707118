"""What an export says about itself."""

from __future__ import annotations

import dataclasses

import rich.console
import rich.table

_TITLES = {None: "", "weights": ", int8 weights", "int4": ", int4 coefficients", "int8": ", int8"}


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One DBF layer of an exported model.

    Attributes:
        name: the layer's name.
        kept: n, the codes kept for each filter.
        codes: P, the codes that there are.
        form: how the layer was written: ``"explicit"``, ``"folded"`` or ``"onthefly"``.
        reason: why the form is not what was asked for; empty if it is.
        failed: whether what was asked for is impossible, rather than just no gain.
        bytes_explicit: bytes of the layer's filters in an explicit float32 file.
        bytes_file: bytes of the layer's weights in this file.
    """

    name: str
    kept: int
    codes: int
    form: str
    reason: str
    failed: bool
    bytes_explicit: int
    bytes_file: int


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """An exported file and what is known of it.

    Attributes:
        data: the TFLite file.
        mode: ``"explicit"``, ``"folded"`` or ``"onthefly"``, as asked for.
        quantize: None, ``"weights"``, ``"int4"`` or ``"int8"``.
        layers: one report for each DBF layer.
        bytes_explicit: size of the explicit float32 file of the same model; None if it was not asked for.
        difference: largest absolute difference to the Keras model; None if it was not asked for.
        relative_difference: the same, divided by the largest output.
        noise: root mean square of the difference, divided by that of the outputs.
    """

    data: bytes
    mode: str
    quantize: str | None
    layers: tuple[LayerReport, ...]
    bytes_explicit: int | None = None
    difference: float | None = None
    relative_difference: float | None = None
    noise: float | None = None

    def print(self, console: rich.console.Console | None = None) -> None:
        """Prints a table of the layers, then the sizes and the largest difference."""
        console = console or rich.console.Console()
        table = rich.table.Table("layer", title=self.mode + _TITLES[self.quantize])
        for heading in ("codes kept", "explicit bytes", "bytes"):
            table.add_column(heading, justify="right")
        table.add_column("written as")
        for layer in self.layers:
            table.add_row(
                layer.name,
                f"{layer.kept}/{layer.codes}",
                f"{layer.bytes_explicit:,}",
                f"{layer.bytes_file:,}",
                f"{layer.form}: {layer.reason}" if layer.reason else layer.form,
            )
        console.print(table)
        size = len(self.data)
        if self.bytes_explicit is None:
            console.print(f"file: {size:,} bytes")
        else:
            share = size / self.bytes_explicit
            console.print(f"file: {size:,} bytes, {share:.3f} of the explicit float32 file's {self.bytes_explicit:,}")
        if self.difference is not None:
            console.print(
                f"largest difference to Keras: {self.difference:.3g}, "
                f"{self.relative_difference:.3g} of the largest output"
            )
            if self.quantize == "int8":
                console.print(
                    "Quantised to int8, checked on representative inputs: root mean square difference "
                    f"{self.noise:.3g} of the output's."
                )
