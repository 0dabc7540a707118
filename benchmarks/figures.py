"""Draws the pictures of README.md and docs/ from the code grid, the zoo and the table of docs/selections.md.

    python benchmarks/figures.py

Bytes, latencies and accuracies are the zoo index's or the table's; filters are those of the zoo's trained models.
"""

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from absl import flags

matplotlib.use("agg")
from matplotlib import patches  # noqa: E402 - after the choice of what draws
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

import comparison  # noqa: E402
import dbf_keras  # noqa: E402
from comparison import VERDICTS, File  # noqa: E402
from dbf_keras import codes, command, zoo  # noqa: E402

_FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "docs", "Folder to draw the pictures into.")

_PLUS, _MINUS = "#c8553d", "#35679e"  # +1 and −1, and what filters' positive and negative taps tend to.
_TAPS = matplotlib.colors.LinearSegmentedColormap.from_list("taps", [_MINUS, "#ffffff", _PLUS])
_TEXT = "#1f2933"
_PLAIN, _NARROW, _DBF, _FOLDED = "#6b7280", "#d98207", "#1b5e9e", "#62a3d6"
_STYLE = {"font.size": 12, "text.color": _TEXT, "axes.labelcolor": _TEXT, "axes.titlesize": 12.5}

# The model and layer whose filter is shown as a sum, and the plain model whose filters are fitted.
SUM_MODEL, SUM_LAYER = "resnet18_k4_r025_cifar10", "stage3_block2_conv2"
PLAIN_MODEL, FULL_MODEL = "resnet18_k4_plain_cifar10", "resnet18_k4_r100_cifar10"

# The lines of the plot of energy.
_ORDERS = {
    "energy": "the codes of most energy (needs trained filters)",
    "spatial_tree": "spatial_tree, the default",
    "sequency": "sequency",
    "ovsf": "ovsf, the paper's order",
    "random": "random",
}


def _patch(axes: Axes, taps: np.ndarray, title: str = "", loc: str = "center") -> None:
    """Draws [rows, columns] taps as coloured squares."""
    axes.imshow(taps, cmap=_TAPS, vmin=-1, vmax=1)
    axes.set_xticks(np.arange(-0.5, taps.shape[1]), [])
    axes.set_yticks(np.arange(-0.5, taps.shape[0]), [])
    axes.tick_params(length=0)
    axes.grid(color="white", lw=1.5)
    for spine in axes.spines.values():
        spine.set(color=_TEXT, lw=1)
    if title:
        axes.set_title(title, pad=6, loc=loc)


def _write(axes: Axes, text: str, place: tuple[float, float] = (0.5, 0.5), **options) -> None:
    axes.axis("off")
    axes.text(*place, text, transform=axes.transAxes, **({"ha": "center", "va": "center"} | options))


def spatial_code(index: int, size: int = 4) -> np.ndarray:
    """Returns the spatial code u·size + v of filters of size × size taps, [size, size]."""
    short = codes.short_codes(size)
    return np.outer(short[index // size], short[index % size])


def channel_as_sum(coefficients: np.ndarray, kept: np.ndarray, taps: tuple[int, int, int], channel: int):
    """Returns one channel of a filter as a sum of spatial codes: Σ_s weight_s · code_s.

    Args:
        coefficients: [n], of one filter.
        kept: [n] grid indices.
        taps: (kh, kw, C).
        channel: The channel, from 0.

    Returns:
        (spatial codes that occur, ascending; their weights, each the sum of the coefficients of that spatial code with
        the signs that their channel codes have at the channel).
    """
    spatial, of_channel = np.divmod(kept, taps[2])
    signs = codes.short_codes(taps[2])[of_channel, channel]
    weights = np.zeros(taps[0] * taps[1])
    np.add.at(weights, spatial, coefficients * signs)
    occurring = np.unique(spatial)
    return occurring, weights[occurring]


def energy_kept(filters: np.ndarray, selection: str, ratios: Sequence[float]) -> list[float]:
    """Returns the share of the filters' sum of squares that is left when they are fitted with a share of the codes.

    Args:
        filters: [K, kh, kw, C], of powers of two, so that the codes are orthogonal.
        selection: The name of an order, or ``"energy"``, the order that is best for these filters.
        ratios: Shares of the codes.
    """
    shape = filters.shape[1:]
    taps = int(np.prod(shape))
    energy = np.sum(codes.inverse(np.asarray(filters, np.float64), shape) ** 2, axis=0).ravel()
    ranked = codes.order_by_energy(filters) if selection == "energy" else codes.order(shape, selection)
    shares = np.cumsum(energy[ranked]) / np.sum(energy)
    return [float(shares[codes.count(taps, ratio) - 1]) for ratio in ratios]


def _kernels(name: str) -> list[np.ndarray]:
    """Returns the filters [K, kh, kw, C] of the 4×4 layers of a zoo entry's trained model, DBF or plain."""
    kernels = [layer.kernel for layer in dbf_keras.load_zoo(name).layers if getattr(layer, "kernel_size", 0) == (4, 4)]
    kernels = [np.moveaxis(np.asarray(kernel, np.float32), -1, 0) for kernel in kernels]
    return [kernel for kernel in kernels if not kernel.shape[-1] & (kernel.shape[-1] - 1)]


def overview() -> Figure:
    """Returns the README's picture: a filter as a sum of codes, and bytes, latency and accuracy in int8."""
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 2.5), hspace=0.02)
    _draw_sum(top)
    _draw_bars(bottom)
    return figure


def _draw_sum(figure) -> None:
    layer = dbf_keras.load_zoo(SUM_MODEL).get_layer(SUM_LAYER)
    taps = (*layer.kernel_size, layer.kernel.shape[2])
    alpha = np.asarray(layer.rounded_coefficients)
    # The filter and channel whose smallest weight is the largest: every term is to be seen.
    sums = {
        (k, c): channel_as_sum(alpha[:, k], layer.codes, taps, c) for k in range(alpha.shape[1]) for c in range(taps[2])
    }
    (k, c), (occurring, weights) = max(sums.items(), key=lambda item: np.min(np.abs(item[1][1])))
    taps_shown = np.asarray(layer.kernel)[:, :, c, k]
    most = float(np.max(np.abs(taps_shown)))
    cells = figure.subplots(1, 2 * len(occurring) + 1, width_ratios=[1.05] + [0.62, 0.8] * len(occurring))
    _patch(cells[0], taps_shown / most, "one channel of a filter", "left")
    for place, (code, weight) in enumerate(zip(occurring, weights, strict=True)):
        sign = "=" if place == 0 else "+"
        sign, shown = (sign, weight / most) if place == 0 or weight >= 0 else ("−", -weight / most)
        _write(cells[2 * place + 1], f"{sign}  {shown:.2f} ×".replace("-", "−"), fontsize=15)
        _patch(cells[2 * place + 2], spatial_code(int(code)), "binary code" if place == 0 else "")
    figure.suptitle(
        f"Coefficients are stored, filters are not: {len(occurring)} of {taps[0] * taps[1]} codes (ρ = ¼)", fontsize=15
    )


def bars() -> list[tuple[str, str, str, comparison.Figures]]:
    """Returns the bars of the README's picture: network, label, colour and figures."""
    index, drawn = zoo.index(), []
    for verdict in VERDICTS[:2]:
        network = verdict.reason.split(": ")[1].split(", ")[0]
        files = [
            ("plain", _PLAIN, verdict.twin),
            ("narrow plain", _NARROW, verdict.narrow),
            ("DBF, on the fly", _DBF, verdict.dbf),
            ("DBF, folded", _FOLDED, File(verdict.dbf.name, verdict.dbf.role.replace("onthefly", "folded"))),
        ]
        drawn += [(network, label, colour, comparison.figures(index, file)) for label, colour, file in files]
    return drawn


def description() -> str:
    """Returns what the README's picture holds in its metadata, so that a test sees if the zoo has changed since."""
    return "; ".join(f"{network}, {label}: {found}" for network, label, _, found in bars())


def _draw_bars(figure) -> None:
    drawn = bars()
    networks = list(dict.fromkeys(network for network, *_ in drawn))
    places = [row + 0.9 * networks.index(network) for row, (network, *_) in enumerate(drawn)]
    panels = figure.subplots(1, 3, sharey=True)
    columns = [
        ("int8 file, kB", [found.bytes / 1e3 for *_, found in drawn], "{:.0f}"),
        ("int8 latency, ms", [1e3 * found.seconds for *_, found in drawn], "{:.2f}"),
        ("CIFAR-10 accuracy, %", [100 * found.accuracy for *_, found in drawn], "{:.2f}"),
    ]
    colours = [colour for _, _, colour, _ in drawn]
    for panel, (title, values, form) in zip(panels, columns, strict=True):
        if "accuracy" in title:  # A bar from 0 would show no difference, and one from elsewhere too much of it.
            panel.hlines(places, 85, values, color="#d5dae1", lw=1.5, zorder=1)
            panel.scatter(values, places, c=colours, s=110, zorder=2)
            panel.set_xlim(87, 92)
        else:
            panel.barh(places, values, color=colours, height=0.78)
            panel.set_xlim(0, 1.22 * max(values))
        for place, value in zip(places, values, strict=True):
            panel.annotate(
                form.format(value), (value, place), (7, 0), textcoords="offset points", va="center", fontsize=12
            )
        panel.set_title(title, fontsize=13.5)
        panel.tick_params(left=False, labelsize=12)
        panel.grid(axis="x", color="#e4e8ee")
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(places, [label for _, label, *_ in drawn])
    for network, ratios in zip(networks, ("ρ = ¼ in every layer", "ρ from 1 to ⅛, ¼ over all"), strict=True):
        first = next(place for place, (name, *_) in zip(places, drawn, strict=True) if name == network)
        heading = panels[0].text(
            0.02, first - 0.85, f"{network}, {ratios}", fontsize=13, fontweight="bold", va="center"
        )
        heading.set_in_layout(False)  # It may reach over the next panel.
        heading.set_bbox({"fc": "white", "ec": "none", "pad": 2})
    panels[0].set_zorder(3)
    panels[0].patch.set_visible(False)
    panels[0].set_ylim(max(places) + 0.6, -1.3)
    machine = zoo.index()["models"][VERDICTS[0].dbf.name]["machine"]
    figure.supxlabel(
        f"one thread of a server CPU ({machine}), not a phone; narrow: a plain network of as many bytes", fontsize=12
    )


def filter_sum() -> Figure:
    """Returns a trained 4×4 filter's channel as the sum of all 16 spatial codes, and what fewer of them give."""
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    kernels = _kernels(PLAIN_MODEL)
    norms = np.sqrt(np.sum(kernels[-1] ** 2, axis=(1, 2)))
    k, c = np.unravel_index(np.argmax(norms), norms.shape)
    taps = kernels[-1][k, :, :, c].astype(np.float64)
    taps /= np.max(np.abs(taps))
    weights = codes.inverse(taps[:, :, None], (4, 4, 1)).ravel()
    order = codes.order((4, 4, 1), codes.DEFAULT_SELECTION)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.6, 1))
    cells = top.subplots(2, 9, width_ratios=[1.5] + [1] * 8)
    for place, code in enumerate(order):
        cell = cells[place // 8, 1 + place % 8]
        _patch(cell, spatial_code(int(code)), f"{weights[code]:+.2f}".replace("-", "−"))
        if place < 4:
            for spine in cell.spines.values():
                spine.set(color="black", lw=3.5)
    _patch(cells[0, 0], taps, "filter, =")
    _write(cells[1, 0], "sum of α × code\n\nframed: kept\nat ρ = ¼", fontsize=12)
    top.suptitle("One channel of a trained filter is exactly the sum of 16 binary codes, each times its α", fontsize=14)
    shown = bottom.subplots(1, 5)
    for cell, ratio in zip(shown, (1, 0.75, 0.5, 0.25, 0.125), strict=True):
        kept = codes.select((4, 4, 1), ratio)
        fitted = codes.synthesize(codes.fit(taps[:, :, None], kept, (4, 4, 1)), kept, (4, 4, 1))[:, :, 0]
        error = np.linalg.norm(fitted - taps) / np.linalg.norm(taps)
        _patch(cell, fitted, f"ρ = {ratio:g}: {len(kept)} of 16\nerror {error:.0%}")
    bottom.suptitle("Closest filters of fewer codes, in the default order", fontsize=14)
    return figure


def code_tree() -> Figure:
    """Returns the tree of OVSF codes up to length 8, with the codes that ρ = ¼ keeps of the last."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    left, width, gap = 0.0, 2.0, 1.1
    lengths = (1, 2, 4, 8)
    last = lengths[-1]
    for level, length in enumerate(lengths):
        tree = codes.ovsf_tree(length)
        x = left + level * (width + gap)
        for number, code in enumerate(tree):
            y = -(number + 0.5) * last / length
            for position, sign in enumerate(code):
                cell = width / length
                face = _PLUS if sign > 0 else _MINUS
                axes.add_patch(
                    patches.Rectangle((x + position * cell, y - 0.26), cell, 0.52, fc=face, ec="white", lw=1.2)
                )
                if length <= 4:
                    shown = "+1" if sign > 0 else "−1"
                    axes.text(
                        x + (position + 0.5) * cell, y, shown, ha="center", va="center", color="white", fontsize=11
                    )
            if length == last and number < last // 4:
                axes.add_patch(
                    patches.Rectangle((x - 0.05, y - 0.34), width + 0.1, 0.68, fc="none", ec="black", lw=2.5)
                )
            if level:
                parent = -(number // 2 + 0.5) * 2 * last / length
                axes.plot([x - gap, x - 0.08], [parent, y], color="#7b8794", lw=1.4, zorder=0)
        axes.text(x + width / 2, 0.25, f"length {length}", ha="center", fontsize=13)
    axes.text(
        left + width / 2,
        -last + 0.4,
        "C → [C  C]  above,\nC → [C −C]  below",
        ha="center",
        fontsize=13,
        linespacing=1.6,
    )
    axes.set_xlim(-0.2, 4 * width + 3 * gap + 0.2)
    axes.set_ylim(-last - 0.05, 0.75)
    axes.set_title("OVSF codes: red is +1, blue −1; framed: the first quarter of length 8 in tree order", fontsize=14)
    return figure


def pipeline() -> Figure:
    """Returns how a layer is computed in each export mode, with the numbers of a 4×4 layer of 64 channels."""
    shape, filters, ratio = (4, 4, 64), 64, 0.25
    kept = codes.select(shape, ratio)
    pool = codes.pool_size(kept, shape)
    pools, left = f"{pool[0]}×{pool[1]}", f"{shape[0] // pool[0]}×{shape[1] // pool[1]}"
    taps, fewer = int(np.prod(shape)) * filters, len(kept) * filters
    rows = (
        ("explicit", _PLAIN, taps, ["standard convolution,\n4×4 taps"]),
        ("folded", _FOLDED, fewer, [f"depthwise op adds\n{pools} pixels up", f"standard convolution,\n{left} taps"]),
        (
            "on the fly, a separable set",
            _DBF,
            fewer,
            [f"sum pooling,\n{pools} pixels", f"convolution from α,\n{left} taps"],
        ),
        (
            "on the fly, any set (such as sequency)",
            _DBF,
            fewer,
            ["channel codes\n(additions only)", "spatial codes\n(additions only)", "matrix product\nwith α"],
        ),
    )
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.set_xlim(0, 11.1)
    axes.set_ylim(-0.7, 5.5)
    width, gap, height = 1.95, 0.32, 0.66
    for row, (mode, colour, count, steps) in enumerate(rows):
        y = 4.6 - 1.62 * row
        what = "filter taps" if mode in ("explicit", "folded") else "coefficients α"
        axes.text(
            0.02,
            y + 0.62,
            mode,
            fontsize=14,
            fontweight="bold",
            color=colour if colour != _FOLDED else "#2f7bb5",
            va="center",
        )
        work = count + (int(np.prod(pool)) * shape[2] if mode == "folded" else 0)  # A depthwise op multiplies by ones.
        axes.text(
            11.0, y + 0.62, f"{count:,} {what}, {work:,} multiply-adds a pixel", fontsize=12.5, va="center", ha="right"
        )
        boxes = ["input", *steps, "output"]
        for place, step in enumerate(boxes):
            end = place in (0, len(boxes) - 1)
            x = 0.05 + place * (width + gap)
            face, ink = ("#e3e8ee", _TEXT) if end else (colour, "white" if colour != _FOLDED else "#0b2239")
            shape_of_box = patches.FancyBboxPatch(
                (x + 0.06, y - height / 2), width - 0.12, height, "round,pad=0.06", fc=face, ec="none"
            )
            axes.add_patch(shape_of_box)
            axes.text(x + width / 2, y, step, ha="center", va="center", fontsize=12, color=ink)
            if place:
                axes.annotate("", (x, y), (x - gap, y), arrowprops={"arrowstyle": "-|>", "color": _TEXT, "lw": 1.5})
    axes.set_title(f"A layer of 4×4 filters, {shape[2]} → {filters} channels, ρ = ¼", fontsize=14)
    return figure


def energy() -> Figure:
    """Returns how much of trained filters each order keeps at each ρ."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    ratios = np.arange(1, 65) / 64
    titles = {PLAIN_MODEL: "filters of the plain twin", FULL_MODEL: "filters of DBF, trained at ρ = 1"}
    colours = ["#222222", _DBF, "#b5532a", "#2e8b57", "#8a8f98"]
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        kernels = _kernels(name)
        weights = [float(np.sum(kernel.astype(np.float64) ** 2)) for kernel in kernels]
        for (selection, label), colour, dashes in zip(
            _ORDERS.items(), colours, ("--", "-", "-", "-", ":"), strict=True
        ):
            kept = [energy_kept(kernel, selection, ratios) for kernel in kernels]
            panel.plot(ratios, 100 * np.average(kept, axis=0, weights=weights), dashes, c=colour, lw=2.2, label=label)
        panel.set(title=f"{title}\n({name})", xlabel="ρ, share of codes kept", xlim=(0, 1), ylim=(0, 100))
        panel.set_xticks([0.125, 0.25, 0.5, 0.75, 1], ["⅛", "¼", "½", "¾", "1"])
        panel.grid(color="#e4e8ee")
    panels[0].set_ylabel("energy of the filters kept, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


class Run(NamedTuple):
    """A row of the table of docs/selections.md.

    Attributes:
        name: The name of the runs, without the seed.
        kernel_size: Taps of a filter along each axis.
        parameters: Numbers that the network stores.
        accuracy: Mean over seeds, in percent.
        spread: Sample standard deviation over seeds, in points.
    """

    name: str
    kernel_size: int
    parameters: int
    accuracy: float
    spread: float


def study(text: str) -> list[Run]:
    """Returns the runs of the study of selections from the text of docs/selections.md."""
    runs = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        measured = re.fullmatch(r"([\d.]+) % ± ([\d.]+)", cells[-1])
        if measured:
            name, _, kernel_size, _, parameters, *_ = cells
            runs.append(Run(name, int(kernel_size), int(parameters.replace(",", "")), *map(float, measured.groups())))
    return runs


# The lines and points of the plot of the study: the start of the runs' names, label, colour, marker and line.
_STUDY = (
    ("dbf-selection=spatial_tree-", "spatial_tree, the default", _DBF, "o", "-"),
    ("dbf-selection=spatial_first-", "spatial_first", "#4fb3a5", "v", "-"),
    ("dbf-selection=sequency-", "sequency", "#b5532a", "^", "-"),
    ("energy-", "energy (needs a trained network)", "#222222", "D", "--"),
    ("dbf-selection=ovsf-", "ovsf, the paper's order", "#2e8b57", "s", "-"),
    ("random-", "random", "#8a8f98", "x", ":"),
    ("narrow-", "narrow plain network", _NARROW, "P", "-"),
    ("ratio_falls-selection=spatial_tree-", "spatial_tree, ρ falls with depth", _DBF, "*", ""),
    ("full-", "ρ = 1", "#7b3fa0", "o", ""),
    ("plain-", "plain network", _PLAIN, "s", ""),
)


def selections() -> Figure:
    """Returns accuracy against parameters of the selections in the study, for both kernel sizes."""
    runs = study((pathlib.Path(zoo.folder()).parent / "docs" / "selections.md").read_text())
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, kernel_size in zip(panels, (3, 4), strict=True):
        for start, label, colour, marker, dashes in _STUDY:
            found = [run for run in runs if run.name.startswith(start) and run.kernel_size == kernel_size]
            found.sort(key=lambda run: run.parameters)
            panel.errorbar(
                [run.parameters / 1e3 for run in found],
                [run.accuracy for run in found],
                [run.spread for run in found],
                fmt=marker + dashes if dashes else marker,
                c=colour,
                ms=13 if marker == "*" else 7,
                lw=2,
                elinewidth=1,
                capsize=3,
                label=label,
            )
        panel.set(title=f"{kernel_size}×{kernel_size} filters", xlabel="parameters, thousands", xscale="log")
        panel.set_xticks([20, 40, 80], ["20", "40", "80"])
        panel.minorticks_off()
        panel.grid(color="#e4e8ee")
    panels[0].set_ylabel("CIFAR-10 accuracy after two epochs, %")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


FIGURES = {
    "overview": overview,
    "filter": filter_sum,
    "code_tree": code_tree,
    "pipeline": pipeline,
    "energy": energy,
    "selections": selections,
}


def main(_: list[str]) -> None:
    """Draws all pictures."""
    folder = pathlib.Path(_FLAGS.output_dir)
    with matplotlib.rc_context(_STYLE):
        for name, draw in FIGURES.items():
            metadata = {"Software": None} | ({"Description": description()} if name == "overview" else {})
            save = functools.partial(draw().savefig, dpi=120, metadata=metadata)
            command.write_atomically(folder / f"{name}.png", save)


if __name__ == "__main__":
    command.run(main)
