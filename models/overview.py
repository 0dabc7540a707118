"""Writes the zoo's overview, README.md and frontier.png in this folder, from its index.

python models/overview.py
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from dbf_keras import command, zoo
from dbf_keras.forms import EXPLICIT, FORMS, ONTHEFLY, Form

# Kinds of files, and the roles that hold one: of a DBF model its coefficients, of a plain one its filters.
_KINDS = {
    title: tuple(form.role for mode in (ONTHEFLY, EXPLICIT) if (form := Form(mode, quantize, coding)) in FORMS)
    for title, quantize, coding in (
        ("float32", None, False),
        ("int8 weights", "weights", False),
        ("int8", "int8", False),
        ("int4 coefficients", "int4", False),
        ("coded", "weights", True),
    )
}
# Accuracies that the paper reports, as far as we know them, by data set, network and ρ.
_PAPER = {("cifar10", "resnet18", 0.25): 0.8802, ("mnist", "dbfnet", 0.25): 0.995}
# What others report, to measure by: data set, label, bytes, accuracy.
_REFERENCES = (
    ("cifar10", "DBF paper, ResNet-18, ρ = ¼, float32", 1_370_000 / 4, _PAPER["cifar10", "resnet18", 0.25]),
    ("cifar10", "ResNet-20, int8", 270_000, 0.926),
    ("cifar10", "MLPerf Tiny, ResNet-8, int8", 98_496, 0.85),
    ("mnist", "DBF paper, DBFNet, ρ = ¼, float32", 10_320_000 / 4, _PAPER["mnist", "dbfnet", 0.25]),
)
_TEXT = """# Zoo

Test accuracy and bytes of the file, of DBF models the on-the-fly one, of plain networks, the controls, the explicit
one: a plain network is the same architecture with ordinary convolutions, a narrow one has about as many bytes as the
DBF model that it is named after. Speed-up: the median latency of the explicit file over that of the on-the-fly one,
float32 and int8. Paper: what Tseng et al., IJCAI 2018, report at this ρ, where we know it. Models called int4 went on,
for these epochs, from the weights of a model without; those called taught learnt from `resnet18_wide_cifar10`,
too, the one in int4 from `resnet18_k4_taught_large_cifar10` (distillation). Rows are of one training each. All by
`models/publish.py`, which also wrote the cards with more figures, and the machine, from the weights in these folders,
or from weights that the card says are too large to be kept here; this page by `models/overview.py`. Coded: files with
entropy-coded coefficients and int8 weights; models called levels were trained for it, from those called taught or from
the model without, the coefficients of others are those of int8.

{tables}
![accuracy against bytes](frontier.png)

A mark is a file of the table, but for int4 coefficients that a model was not trained for, mostly off the panel. The
dotted line joins the files that none of fewer bytes surpasses, with the names of their models. In black, what others
report: Tseng et al., IJCAI 2018, the bytes being ρ times those of their ρ = 1 network; MLPerf Tiny's image
classification (a ResNet-8, its quality target and file size); a ResNet-20 in int8. We did not measure them.
"""


def rows(index: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The entries by data set and name: network by network, models by falling ρ, then controls."""
    entries = [(name, entry) for group in zoo.GROUPS for name, entry in index[group].items()]
    by_dataset = {entry["dataset"]: {} for _, entry in entries}
    for name, entry in sorted(entries, key=lambda item: (item[1]["network"], -item[1].get("overall_ratio", 0))):
        by_dataset[entry["dataset"]][name] = entry
    return by_dataset


def points(entry: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Bytes and accuracy of an entry's files by kind; kinds that it lacks are left out."""
    found = {}
    for kind, roles in _KINDS.items():
        role = next((role for role in roles if role in entry["bytes"]), None)
        if role is not None:
            found[kind] = entry["bytes"][role], entry["accuracy"][role]
    return found


def _cells(name: str, entry: Mapping[str, Any]) -> list[str]:
    """A row of the table, without kinds of files, paper and speed-up, then these."""
    found = points(entry)
    accuracies = [f"{found[kind][1]:.2%}, {found[kind][0]:,} B" if kind in found else "" for kind in _KINDS]
    start = [f"[{name}]({name}/README.md)", entry["network"]]
    if "ratio" not in entry:
        return [*start, "", "plain", str(entry["epochs"]), *accuracies, "", ""]
    seconds = entry["seconds"]
    speedups = [f"{seconds[f'explicit{kind}'] / seconds[f'onthefly{kind}']:.1f}×" for kind in ("", "_int8")]
    paper = _PAPER.get((entry["dataset"], entry["network"], round(entry["overall_ratio"], 3)))
    return [
        *start,
        f"{entry['overall_ratio']:.3g}",
        f"`{entry['selection']}`",
        str(entry["epochs"]),
        *accuracies,
        ", ".join(speedups),
        "" if paper is None else f"{paper:.2%}",
    ]


def text(index: Mapping[str, Any]) -> str:
    """The README of the index."""
    headings = ["model", "network", "ρ", "codes", "epochs", *_KINDS, "speed-up", "paper"]
    tables = []
    for dataset, entries in rows(index).items():
        lines = [headings, ["---"] * len(headings), *(_cells(name, entry) for name, entry in entries.items())]
        tables.append(f"## {dataset}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    return _TEXT.format(tables="\n".join(tables))


def frontier(found: Iterable[tuple[int, float, str]]) -> list[tuple[int, float, str]]:
    """Of (bytes, accuracy, name) those that are more accurate than all of fewer bytes, by rising bytes."""
    best, kept = 0.0, []
    for size, right, name in sorted(found, key=lambda point: (point[0], -point[1])):
        if right > best:
            best = right
            kept.append((size, right, name))
    return kept


def draw(index: Mapping[str, Any], path: str) -> None:
    """Draws accuracy against bytes of all files, a panel a data set, as far down as files with int8 weights reach."""
    by_dataset = rows(index)
    figure = Figure(figsize=(8, 4.8 * len(by_dataset)), layout="constrained")
    panels = figure.subplots(len(by_dataset), squeeze=False)[:, 0]
    for axes, (dataset, entries) in zip(panels, by_dataset.items(), strict=True):
        references = [reference for reference in _REFERENCES if reference[0] == dataset]
        shown = [points(entry)["int8 weights"][1] for entry in entries.values()] + [right for *_, right in references]
        margin = 0.1 * (max(shown) - min(shown))
        limits = min(shown) - margin, max(shown) + margin
        files = [(*point, name) for name, entry in entries.items() for point in points(entry).values()]
        files = [file for file in files if file[1] > limits[0]]

        for color, network in enumerate(dict.fromkeys(entry["network"] for entry in entries.values())):
            for label, marker, face in (("DBF", "o", None), ("plain", "s", "none")):
                own = [
                    (size / 1000, 100 * right)
                    for size, right, name in files
                    if entries[name]["network"] == network and ("ratio" in entries[name]) == (label == "DBF")
                ]
                if own:
                    axes.plot(*np.transpose(own), marker, c=f"C{color}", mfc=face, ms=5, label=f"{network}, {label}")
        best = frontier(files)
        axes.step([size / 1000 for size, *_ in best], [100 * right for _, right, _ in best], "k:", where="post", lw=0.8)
        top = 0.0
        for size, right, name in best:
            if right > top:  # Else there is no room for the name.
                place, options = (size / 1000, 100 * right), {"textcoords": "offset points", "fontsize": "small"}
                axes.annotate(name.removesuffix(f"_{dataset}"), place, (-4, 4), ha="right", **options)
                top = right + margin / 3
        for marker, (_, label, size, right) in zip("*PX", references, strict=False):
            axes.plot(size / 1000, 100 * right, f"k{marker}", ms=9, label=label)
        axes.set(title=dataset, xlabel="file, kB", ylabel="test accuracy, %", xscale="log")
        axes.set_ylim(*(100 * limit for limit in limits))
        axes.margins(x=0.35)
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
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
