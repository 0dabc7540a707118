"""The results of runs, joined over seeds, and their table."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dbf_keras import command
from dbf_keras.sweep.runs import slug

# What a table shows of a network besides what varies.
FIGURES = ("parameters", "multiply_adds", "bytes")


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed.

    Attributes:
        name: unique, that of the runs without the seed.
        title: what the file of runs calls it, without the grid's values.
        given: what the file sets for the first of them.
        figures: `FIGURES` of the network; None where that is not known.
        seeds: the number of runs.
        accuracy: their mean accuracy on the test set, per cent.
        spread: sample standard deviation of the accuracies, points; None for one run.
    """

    name: str
    title: str
    given: Mapping[str, Any]
    figures: Mapping[str, int | None]
    seeds: int
    accuracy: float
    spread: float | None

    def line(self, setting: str | None) -> str:
        """The title, and the value of a setting if the grid gave it."""
        if setting is None:
            return self.title
        value = slug(self.given.get(setting))
        return f"{self.title} {value}" if f"{setting}={value}" in self.name else self.title


def join_seeds(results: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Joins the seeds of runs.

    Args:
        results: what `dbf_keras.sweep.execute` gives.

    Returns:
        The groups, in the order of the results.
    """
    members: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        members.setdefault(result["group"], []).append(result)
    groups = []
    for name, (first, *others) in members.items():
        accuracies = [100 * result["accuracy"] for result in (first, *others)]
        groups.append(
            Group(
                name,
                first["title"],
                first["given"],
                {figure: first.get(figure) for figure in FIGURES},
                len(accuracies),
                statistics.mean(accuracies),
                statistics.stdev(accuracies) if others else None,
            )
        )
    return groups


def table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The table of results.

    Args:
        groups: what `join_seeds` gives.

    Returns:
        A row for each group: run, what of the settings varies, those of `FIGURES` that are known of any, seeds,
        accuracy and spread, as a `Group` has them.
    """
    keys = dict.fromkeys(key for group in groups for key in group.given if key != "seed")
    varying = [key for key in keys if len({json.dumps(group.given.get(key)) for group in groups}) > 1]
    known = [figure for figure in FIGURES if any(group.figures[figure] is not None for group in groups)]
    return [
        {
            "run": group.name,
            **{key: group.given.get(key) for key in varying},
            **{figure: group.figures[figure] for figure in known},
            "seeds": group.seeds,
            "accuracy": group.accuracy,
            "spread": group.spread,
        }
        for group in groups
    ]


def write_table(rows: Sequence[Mapping[str, Any]], output_dir: pathlib.Path) -> None:
    """Writes ``results.csv`` and ``results.md``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    shown = [key for key in rows[0] if key != "spread"]
    lines = ["| " + " | ".join(shown).replace("_", " ") + " |", "|" + "---|" * len(shown)]
    for row in rows:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
        figures = {key: f"{row[key]:,}" for key in FIGURES if row.get(key) is not None}
        cells = {**row, "accuracy": f"{row['accuracy']:.2f} %{spread}", **figures}
        lines.append("| " + " | ".join("" if cells[key] is None else str(cells[key]) for key in shown) + " |")
    for name, content in {"results.csv": text.getvalue(), "results.md": "\n".join(lines) + "\n"}.items():
        command.write_atomically(output_dir / name, functools.partial(pathlib.Path.write_text, data=content))
