"""How time and memory of one layer grow with its channels, filters, image and share of codes, one at a time.

python benchmarks/scaling.py --plot=scaling.png --json=scaling.json
"""

import itertools
from collections.abc import Mapping, Sequence

from absl import flags

import common
import plots
from common import FLAGS, Case, Shape
from dbf_keras import command

flags.DEFINE_string("base", "3x3x64-64@32", "The layer that is varied, as in layers.py; --ratios are its variations.")
flags.DEFINE_float("base_ratio", 0.25, "Its share of codes.")

_AXES = {"channels": "channels C", "filters": "filters K", "size": "pixels H·W", "ratio": "share of codes ρ"}
_SIZES = {"channels": (16, 32, 64, 128, 256), "filters": (16, 32, 64, 128, 256), "size": (8, 16, 32, 64)}
_COLUMNS = {
    "explicit": ("median_ms", "file_bytes"),
    "onthefly": ("median_ms", "speedup", "file_bytes", "op_packed_bytes", "op_scratch_bytes"),
    "folded": ("median_ms", "speedup", "file_bytes"),
}
_MEMORY: plots.Series = [
    ("explicit", "file_bytes", "explicit file"),
    ("onthefly", "file_bytes", "onthefly file"),
    ("onthefly", "op_packed_bytes", "packed coefficients"),
    ("onthefly", "op_scratch_bytes", "scratch"),
]


def along(axis: str, base: Case) -> dict[float, Case]:
    """Returns the layers that differ from one in one respect, by what the plot has on its x axis."""
    if axis == "ratio":
        return {ratio: base._replace(ratio=ratio) for ratio in map(float, FLAGS.ratios)}
    return {
        size**2 if axis == "size" else size: base._replace(subject=base.subject._replace(**{axis: size}))
        for size in _SIZES[axis]
    }


def panels(base: Case, results: Mapping[Case, common.Measured]) -> list[list[plots.Panel]]:
    """Returns what to draw: time above memory, for each respect."""
    rows = []
    for unit, series, scale in (("median ms", plots.TIMES, 1), ("kB", _MEMORY, 1e-3)):
        rows.append([])
        for axis, label in _AXES.items():
            found = {x: results[case] for x, case in along(axis, base).items()}
            rows[-1].append(plots.Panel("", label, unit, plots.lines(found, series, scale)))
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    del argv  # flags only
    settings = common.start()
    shape = Shape.parse(FLAGS.base)
    bases = [
        Case(threads, shape, selection, FLAGS.base_ratio)
        for threads, selection in itertools.product(settings["num_threads"], FLAGS.selections)
    ]
    todo = dict.fromkeys(case for base in bases for axis in _AXES for case in along(axis, base).values())
    export = common.exporter(common.single_layer)
    results = common.measure_all("layers", list(todo), lambda case: common.measure(export(case), case.threads))
    common.write_json(settings, results)
    common.print_tables(settings, results, "layer", _COLUMNS)
    if FLAGS.plot:
        base = bases[0]
        title = f"{base.subject}, {base.selection}, ρ = {base.ratio:g}; {common.title(settings, base.threads)}"
        plots.draw(title, panels(base, results))


if __name__ == "__main__":
    command.run(main)
