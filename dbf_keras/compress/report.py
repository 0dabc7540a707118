"""What a compression came to: printed, and as a web page that can be sent on."""

from __future__ import annotations

import dataclasses
import math
import string
from html import escape

import rich.console
import rich.table

from dbf_keras.benchmark.page import HEAD, STYLE, to_table
from dbf_keras.compress.plan import LayerPlan, Plan, filters_text, milliseconds

# What the files are called.
ORIGINAL, COMPRESSED, ORIGINAL_INT8, NARROW = "original", "compressed", "original, int8", "narrow, int8 weights"


@dataclasses.dataclass(frozen=True)
class File:
    """A .tflite file.

    Attributes:
        name: what it is.
        bytes: its size.
        seconds: of an inference here on one thread.
        accuracy: on the test set; None without data.
    """

    name: str
    bytes: int
    seconds: float
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Point:
    """A plan of other limits, before any training.

    Attributes:
        bytes: of its file, as foreseen.
        seconds: of an inference, as foreseen.
        accuracy: on the images set aside.
    """

    bytes: float
    seconds: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What a compression came to.

    Attributes:
        name: of the network.
        path: the name of the .tflite file.
        plan: what its layers have become.
        files: the original's, the compressed one, and others to compare with.
        before: accuracy on the images set aside before any training; None without data.
        held_out: how many images were set aside.
        tested: how many images the files were tested on.
        history: of the fine-tuning, a row an epoch.
        curve: what other limits would have come to.
    """

    name: str
    path: str
    plan: Plan
    files: tuple[File, ...]
    before: float | None = None
    held_out: int = 0
    tested: int = 0
    history: tuple[dict[str, float], ...] = ()
    curve: tuple[Point, ...] = ()

    def rows(self) -> list[list[str]]:
        """The table of files, its headings first."""
        head = ["file", "kB", "of the original", "ms", "×"] + (["accuracy"] if self.tested else [])
        first, rows = self.files[0], [head]
        for file in self.files:
            row = [file.name, f"{file.bytes / 1e3:,.1f}", f"{file.bytes / first.bytes:.3f}", milliseconds(file.seconds)]
            row.append(f"{first.seconds / file.seconds:.2f}")
            rows.append(row + ([f"{100 * (file.accuracy or 0.0):.2f} %"] if self.tested else []))
        return rows

    @property
    def verdict(self) -> str:
        """What to say of the compressed network and a narrower plain one of no more bytes; "" if none was trained."""
        files = {file.name: file for file in self.files}
        if NARROW not in files:
            return ""
        ours, narrow = files[COMPRESSED], files[NARROW]
        points = 100 * ((ours.accuracy or 0.0) - (narrow.accuracy or 0.0))
        times = ours.seconds / narrow.seconds
        told = (
            f"Beside a narrower plain network of {narrow.bytes / 1e3:,.1f} kB the compressed one is {abs(points):.2f} "
            f"points {'more' if points > 0 else 'less'} accurate and takes {times:.2f} of its time."
        )
        if points <= 0 and times >= 1:
            return f"{told} The narrower one is the better choice, as a file of standard ops too."
        if points >= 0 and times <= 1:
            return f"{told} It is the better choice."
        return f"{told} Which is the better choice depends on what counts more."

    def print(self, console: rich.console.Console | None = None) -> None:
        """Prints the table of files, and the verdict."""
        console = console or rich.console.Console()
        head, *rows = self.rows()
        table = rich.table.Table(head[0], title=self.name)
        for heading in head[1:]:
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        if self.verdict:
            console.print(self.verdict)

    def to_html(self) -> str:
        """The page; it needs no other file."""
        sections = [_section("Files", to_table(self.rows()) + f"<p>{escape(self._facts())}</p>")]
        charts = self._charts()
        if charts:
            sections.append(_section("Bytes, time and accuracy", charts))
        if self.history:
            sections.append(_section("Fine-tuning", self._history()))
        sections.append(_section("Layers", to_table(_layers(self.plan)) + _others(self.plan)))
        sections.append(_section("How to run it", f"<pre>{escape(_USE.format(path=self.path))}</pre>"))
        return string.Template(_PAGE).substitute(
            head=HEAD, style=STYLE, name=escape(self.name), sections="".join(sections)
        )

    def _facts(self) -> str:
        facts = ["Milliseconds of one inference on one thread of this machine, all files in turn, medians."]
        if self.tested:
            facts.append(f"Accuracy on {self.tested:,} images.")
        if self.before is not None:
            facts.append(
                f"Before any training the fitted network was right about {100 * self.before:.2f} % of "
                f"{self.held_out:,} training images set aside."
            )
        if self.verdict:
            facts.append(self.verdict)
        return " ".join(facts)

    def _history(self) -> str:
        head = ["epoch", "loss", "accuracy, set aside"]
        rows = [
            [f"{row['epoch']:.0f}", f"{row['loss']:.4f}", f"{100 * row['val_accuracy']:.2f} %"] for row in self.history
        ]
        return to_table([head, *rows])

    def _charts(self) -> str:
        if not self.tested:
            return ""
        files = [(file.bytes / 1e3, 1e3 * file.seconds, 100 * (file.accuracy or 0.0)) for file in self.files]
        curve = [(point.bytes / 1e3, 1e3 * point.seconds, 100 * point.accuracy) for point in self.curve]
        charts = [
            _chart(unit, [(row[axis], row[2]) for row in files], [(row[axis], row[2]) for row in curve])
            for axis, unit in enumerate(("kB", "ms"))
        ]
        names = "".join(
            f'<span><i class="c{number % 4}"></i>{escape(file.name)}</span>' for number, file in enumerate(self.files)
        )
        note = f"; line: plans of other limits, before any training, on {self.held_out:,} images set aside"
        return "".join(charts) + f'<p class="legend">{names}accuracy in %{note if curve else ""}</p>'


def _layers(plan: Plan) -> list[list[str]]:
    head = ["layer", "filters", "ρ", "codes", "bytes", "was", "ms", "was", "multiply-adds", "was"]
    rows = [
        [layer.name, filters_text(layer), f"{layer.ratio:.3f}", kind_text(layer), *_cells(layer)]
        for layer in plan.layers
    ]
    return [head, *rows]


def kind_text(layer: LayerPlan) -> str:
    """The kind of a layer's codes, or why it stays plain."""
    return layer.selection or f"plain: {layer.reason}"


def _cells(layer: LayerPlan) -> list[str]:
    now, before = layer.cost, layer.plain
    return [
        f"{now.bytes:,.0f}",
        f"{before.bytes:,.0f}",
        milliseconds(now.seconds),
        milliseconds(before.seconds),
        f"{now.multiply_adds:,.0f}",
        f"{before.multiply_adds:,.0f}",
    ]


def _others(plan: Plan) -> str:
    return "".join(f"<p>{escape(name)} stays as it is: {escape(reason)}.</p>" for name, reason in plan.others.items())


def _section(title: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><div class="wide">{content}</div></section>'


_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 300, 56, 40


def _chart(unit: str, files: list[tuple[float, float]], curve: list[tuple[float, float]]) -> str:
    """Accuracy, in %, against a unit: files as dots, plans before training as a line."""
    points = [point for point in files + curve if not math.isnan(point[0])]
    right_ticks = _ticks(0.0, max((x for x, _ in points), default=1.0))
    up_ticks = _ticks(min(y for _, y in points), max(y for _, y in points)) if points else [0.0, 100.0]
    right, low, high = right_ticks[-1], up_ticks[0], up_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - 20) * x / right
        return across, 10 + (_HEIGHT - _BOTTOM - 10) * (high - y) / (high - low)

    parts = []
    for tick in up_ticks:
        _, down = place(0, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{down:.1f}" x2="{_WIDTH - 20}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in right_ticks:
        across, _ = place(tick, low)
        parts.append(f'<text x="{across:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:.4g}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(unit)}</text>')
    line = " ".join(f"{across:.1f},{down:.1f}" for across, down in (place(*point) for point in curve))
    parts.append(f'<polyline points="{line}"/>')
    for number, point in enumerate(files):
        across, down = place(*point)
        parts.append(f'<circle class="c{number % 4}" cx="{across:.1f}" cy="{down:.1f}" r="5"/>')
    return f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg></figure>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, some four to eight, that enclose two numbers."""
    rough = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


_USE = """pip install dbf-keras ai-edge-litert

import dbf_keras
interpreter = dbf_keras.Interpreter("{path}")
interpreter.allocate_tensors()

dbf benchmark {path}
dbf predict {path} picture.png"""

_PAGE = """$head<title>$name, compressed</title>
<style>$style
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem;
  margin-bottom: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
p, small { color: var(--soft); font-size: .88rem; }
figure { display: inline-block; margin: 0 1rem 0 0; width: min(470px, 100%); }
svg { width: 100%; height: auto; font-size: 12px; fill: var(--text); }
polyline { fill: none; stroke: var(--soft); stroke-dasharray: 4 3; }
.grid { stroke: var(--line); }
.c0 { fill: #4c78a8; background: #4c78a8; } .c1 { fill: #f58518; background: #f58518; }
.c2 { fill: #54a24b; background: #54a24b; } .c3 { fill: #b279a2; background: #b279a2; }
.legend span { color: var(--text); margin-right: 1rem; }
.legend i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
pre { margin: 0; font-size: .88rem; }
</style>
<h1>$name, compressed</h1>
$sections
</html>
"""
