"""Writes the zoo's overview, README.md and frontier.png in this folder, from its index.

python models/overview.py
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from dbf_keras import command, zoo

# Kinds of files, and the roles that hold one: of a DBF model its coefficients, of a plain one its filters.
_KINDS = {
    "float32": ("onthefly", "explicit"),
    "int8 weights": ("onthefly_int8_weights", "explicit_int8_weights"),
    "int8": ("onthefly_int8", "explicit_int8"),
    "int4 coefficients": ("onthefly_int4_weights",),
}
# What others report, to measure by: data set, label, bytes, accuracy.
_REFERENCES = (
    ("cifar10", "DBF paper, ResNet-18, ρ = ¼, float32", 1_370_000 / 4, 0.8802),
    ("cifar10", "ResNet-20, int8", 270_000, 0.926),
    ("cifar10", "MLPerf Tiny, ResNet-8, int8", 98_496, 0.85),
    ("mnist", "DBF paper, DBFNet, ρ = ¼, float32", 10_320_000 / 4, 0.995),
)
_TEXT = """# Zoo

Test accuracy and bytes of the file. DBF models as on-the-fly files, controls as explicit ones: a plain network is the
same architecture with ordinary convolutions, a narrow one has about as many bytes as the DBF model that it is beside.
All by `models/publish.py`, which also wrote the cards, from the weights in these folders; this page by
`models/overview.py`.

{tables}
![accuracy against bytes](frontier.png)

Lines join the files of one network. The stars are what others report: Tseng et al., IJCAI 2018, the bytes being ρ times
those of their ρ = 1 network; MLPerf Tiny's image classification (a ResNet-8, its quality target and file size); a
ResNet-20 in int8. We did not measure them.
"""


def rows(index: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The entries of models and controls by data set and name, in the order of the index."""
    by_dataset = collections.defaultdict(dict)
    for group in ("models", "controls"):
        for name, entry in index.get(group, {}).items():
            by_dataset[entry["dataset"]][name] = entry
    return dict(by_dataset)


def points(entry: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Bytes and accuracy of an entry's files by kind; kinds that it lacks are left out."""
    found = {}
    for kind, roles in _KINDS.items():
        role = next((role for role in roles if role in entry["bytes"]), None)
        if role is not None:
            found[kind] = entry["bytes"][role], entry["accuracy"][role]
    return found


def text(index: Mapping[str, Any]) -> str:
    """The README of the index."""
    tables = []
    for dataset, entries in rows(index).items():
        lines = [
            f"## {dataset}\n",
            f"| model | network | ρ | codes | {' | '.join(_KINDS)} |",
            "|---|---|---|---|" + "---|" * len(_KINDS),
        ]
        for name, entry in entries.items():
            shown = f"[{name}]({name}/README.md)" if name in index["models"] else name
            found = points(entry)
            cells = [f"{found[kind][1]:.2%}, {found[kind][0]:,} B" if kind in found else "" for kind in _KINDS]
            plain = name not in index["models"]
            codes = "plain" if plain else f"`{entry['selection']}`"
            ratio = "" if plain else f"{entry['overall_ratio']:.3g}"
            lines.append(f"| {shown} | {entry['network']} | {ratio} | {codes} | {' | '.join(cells)} |")
        tables.append("\n".join(lines) + "\n")
    return _TEXT.format(tables="\n".join(tables))


def draw(index: Mapping[str, Any], path: str) -> None:
    """Draws accuracy against bytes, a panel a data set."""
    by_dataset = rows(index)
    figure = Figure(figsize=(5.2 * len(by_dataset), 4.2), layout="constrained")
    panels = figure.subplots(1, len(by_dataset), squeeze=False)[0]
    for axes, (dataset, entries) in zip(panels, by_dataset.items(), strict=True):
        for name, entry in entries.items():
            found = sorted(points(entry).values())
            style = "o-" if name in index["models"] else "s--"
            axes.plot([size / 1000 for size, _ in found], [100 * right for _, right in found], style, label=name)
        for place, label, size, right in _REFERENCES:
            if place == dataset:
                axes.plot(size / 1000, 100 * right, "*", markersize=11, label=label)
        axes.set(title=dataset, xlabel="file, kB", ylabel="test accuracy, %", xscale="log")
        for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            axis(ticker.StrMethodFormatter("{x:g}"))
        axes.tick_params(axis="x", which="both", rotation=45)
        axes.grid(True, which="both", alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=110)


def write() -> None:
    """Writes both files."""
    index = zoo.index()
    command.write_atomically(zoo.folder() / "README.md", lambda path: path.write_text(text(index)))
    command.write_atomically(zoo.folder() / "frontier.png", lambda path: draw(index, path))


def main(_: list[str]) -> None:
    """Writes the overview."""
    write()


if __name__ == "__main__":
    command.run(main)
