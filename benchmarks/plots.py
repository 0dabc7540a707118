"""Plots of results: lines on small panels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from absl import flags

matplotlib.use("agg")
from matplotlib import pyplot as plt  # noqa: E402 - after the choice of what draws
from matplotlib import ticker  # noqa: E402

from common import FLAGS, Measured, Side  # noqa: E402
from dbf_keras.forms import MODES  # noqa: E402

_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
_DASHES = ("-", "--", ":", "-.")
_PANEL = (3.6, 2.9)  # inches

flags.DEFINE_string("plot", None, "File to draw the results to, such as results.png; of the first of --num_threads.")


# The lines of a panel: a mode, what of it is drawn, and the line's name.
Series = Sequence[tuple[str, str, str]]
TIMES: Series = [(mode, "median_ms", mode) for mode in MODES]


class Line(NamedTuple):
    """A line: its points by x, and the numbers of its colour and its dashes."""

    points: Mapping[float, float]
    colour: int
    dashes: int


class Panel(NamedTuple):
    """A panel: the lines by name, and what the axes are, both logarithmic."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Line]


def lines(results: Mapping[float, Measured], series: Series, scale: float = 1.0) -> dict[str, Line]:
    """Returns the lines of a panel: a colour for each of a series, dashes by type.

    Args:
        results: What was measured, by x.
        series: The lines to draw.
        scale: Factor on what is drawn.
    """
    kinds = list(dict.fromkeys(side.type for measured in results.values() for side in measured))
    drawn = {}
    for dashes, kind in enumerate(kinds):
        for colour, (mode, field, name) in enumerate(series):
            side = Side(mode, kind)
            points = {x: scale * measured[side][field] for x, measured in results.items() if side in measured}
            if points:
                drawn[f"{name}, {kind}"] = Line(points, colour, dashes)
    return drawn


def draw(title: str, panels: Sequence[Sequence[Panel]]) -> None:
    """Draws rows of panels, with a legend for each row, to the file of the flag `--plot`.

    Args:
        title: What stands above all.
        panels: The rows, equally long. Panels of a row have their y axis in common.
    """
    size = (_PANEL[0] * len(panels[0]) + 1.6, _PANEL[1] * len(panels) + 0.4)
    figure, grid = plt.subplots(
        len(panels), len(panels[0]), figsize=size, sharey="row", squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    for row, axes in zip(panels, grid, strict=True):
        handles: dict[str, Any] = {}
        for panel, axis in zip(row, axes, strict=True):
            for name, line in panel.lines.items():
                style = {"color": _COLOURS[line.colour], "linestyle": _DASHES[line.dashes]}
                (handles[name],) = axis.plot(*zip(*sorted(line.points.items()), strict=True), marker=".", **style)
            axis.set(
                title=panel.title, xlabel=panel.x, ylabel=panel.y if axis is axes[0] else "", xscale="log", yscale="log"
            )
            ticks = sorted({x for line in panel.lines.values() for x in line.points})
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            axis.yaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            axis.grid(alpha=0.3)
        axes[-1].legend(handles.values(), handles.keys(), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    figure.savefig(FLAGS.plot, dpi=110)
    plt.close(figure)
