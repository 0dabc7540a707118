"""The plot of a sweep."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dbf_keras.sweep.results import Group

_HIGHLIGHTS = ("#d62728", "#000000", "#1f5fd6", "#006d2c")
_COLOURS = ("#8c564b", "#e08214", "#4daf4a", "#9467bd", "#17a2b8", "#a6a51e", "#e377c2", "#7f7f7f")
_MARKERS = "s^vDP*X<>"  # As many as share no factor with the colours: 72 pairs.
# Factor by which each of several points at one place is drawn to the right of the last.
_STEP = 1.022


def plot(groups: Sequence[Group], options: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws the accuracy of every group, mean and spread over seeds, as a PNG.

    Args:
        groups: what `dbf_keras.sweep.join_seeds` gives.
        options: ``x``, a figure or setting to draw the accuracy against, with a line for each title; without it each
            group has a row, beside a panel of accuracy against bytes or, if those are not known, parameters.
            ``lines``, a setting whose values in a grid are lines of their own. ``panels``, a setting with a panel for
            each of its values. ``highlight``, a list of lines that stand out, as the legend calls them; those that
            are not there (yet) count for nothing.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    panels: dict[Any, list[Group]] = {}
    panel = options.get("panels")
    for group in groups:
        panels.setdefault(None if panel is None else group.given.get(panel), []).append(group)
    styles = _styles(groups, options)
    by_row = "x" not in options
    x = options.get("x") or ("bytes" if all(group.figures["bytes"] is not None for group in groups) else "parameters")
    height = max(4.5, 0.27 * len(styles), by_row * (1 + 0.25 * max(map(len, panels.values()))))
    figure = Figure(figsize=(6.5 * len(panels) * (1 + by_row) + 2.5, height), layout="constrained")
    grid = iter(figure.subplots(1, len(panels) * (1 + by_row), squeeze=False)[0])
    for value, members in panels.items():
        name = f"{options['panels'].replace('_', ' ')} {value}" if "panels" in options else ""
        if by_row:
            _draw_rows(next(grid), name, members)
        _draw_lines(next(grid), name, members, x, options.get("lines"), styles)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    ordered = [label for label in styles if label in handles]
    figure.legend([handles[label] for label in ordered], ordered, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _styles(groups: Sequence[Group], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How each line is drawn, the highlighted first."""
    labels = list(dict.fromkeys(group.line(options.get("lines")) for group in groups))
    highlighted = [label for label in options.get("highlight", ()) if label in labels]
    styles: dict[str, dict[str, Any]] = {}
    for number, label in enumerate(highlighted):
        colour = _HIGHLIGHTS[number % len(_HIGHLIGHTS)]
        styles[label] = {"color": colour, "marker": "o", "markersize": 8, "linewidth": 2.8, "zorder": 5}
    for number, label in enumerate(label for label in labels if label not in highlighted):
        styles[label] = {
            "color": _COLOURS[number % len(_COLOURS)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "markersize": 5,
            "linewidth": 1,
        }
    return styles


def _draw_rows(axes: Any, name: str, groups: Sequence[Group]) -> None:
    places = range(len(groups))
    spreads = [group.spread or 0.0 for group in groups]
    axes.errorbar([group.accuracy for group in groups], places, xerr=spreads, fmt="o", markersize=4, capsize=3)
    axes.set_yticks(places, [group.name for group in groups], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, %", title=name)
    axes.grid(alpha=0.3)


def _draw_lines(
    axes: Any, name: str, groups: Sequence[Group], x: str, lines: str | None, styles: Mapping[str, Mapping[str, Any]]
) -> None:
    points: dict[str, list[tuple[float, float, float]]] = {}
    for group in groups:
        value = group.figures[x] if x in group.figures else group.given.get(x)
        if value is not None:
            points.setdefault(group.line(lines), []).append((float(value), group.accuracy, group.spread or 0.0))
    aside: dict[float, int] = {}
    for label in [label for label in styles if label in points]:
        if len({place for place, *_ in points[label]}) == 1:  # Drawn beside the others that are there alone.
            place = points[label][0][0]
            factor = _STEP ** aside.get(place, 0)
            aside[place] = aside.get(place, 0) + 1
            points[label] = [(place * factor, accuracy, spread) for _, accuracy, spread in points[label]]
        places, accuracies, spreads = zip(*sorted(points[label]), strict=True)
        axes.errorbar(places, accuracies, spreads, label=label, capsize=3, elinewidth=1, **styles[label])
    beside = "; single points at one place are drawn side by side" if max(aside.values(), default=1) > 1 else ""
    axes.set(xlabel=x.replace("_", " ") + beside, ylabel="test accuracy, %", title=name, xscale="log")
    axes.grid(alpha=0.3)
