"""Speed of single DBF convolutions in each export mode, against the same layer as explicit filters on XNNPACK.

    python benchmarks/layers.py                                    # every row of the table of targets, some minutes
    python benchmarks/layers.py --shapes=3x3x64-64@32 --selections=ovsf --ratios=0.25 --types=float32
    python benchmarks/layers.py --isa=avx2 --json=layers.json

All files of a case are timed in turn in one process. "peak" is the share of the processor's float32 peak that a file's
own multiply-adds reach; GFLOP/s are those of the explicit convolution by the time taken.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from absl import flags

import common
from common import FLAGS, Shape, Side
from dbf_keras import command
from dbf_keras.benchmark.progress import progress
from dbf_keras.benchmark.report import print_table

flags.DEFINE_list(
    "shapes",
    (
        "3x3x64-64@56 3x3x64-64@32 3x3x128-128@28 3x3x128-128@16 3x3x256-256@14 3x3x256-256@8 3x3x512-512@7 "
        "4x4x64-64@32 4x4x128-128@16 4x4x256-256@8 3x3x16-16@32 4x4x16-16@32 "
        "3x3x128-128@28/2 4x4x64-64@32/2 1x1x64-64@32 1x1x256-256@14"
    ).split(),
    "Layers, each as KHxKWxCHANNELS-FILTERS@SIZE: a convolution on a square input of SIZE pixels, padding 'same'; "
    "append /STRIDE for a stride other than 1. A stride 2 needs its stride 1 before it to be judged.",
)
flags.DEFINE_list("selections", ["ovsf", "random"], "Which codes are kept: ovsf is separable, random is any set.")


class Target(NamedTuple):
    """The least speed-ups of a kind of layer.

    Attributes:
        selection: Which codes are kept, or None for any.
        type: Type of both files.
        kernel: Height and width of the filters, or None for 3 and 4.
        channels: Least number of channels and of filters.
        speedups: By ratio.
    """

    selection: str | None
    type: str
    kernel: int | None
    channels: int
    speedups: dict[float, float]


def _speedups(*values: float) -> dict[float, float]:
    return dict(zip((0.5, 0.25, 0.125), values, strict=True))


# The first row that fits counts.
_TARGETS = (
    Target(None, "float32", None, 64, {1.0: 0.95}),
    Target("ovsf", "float32", None, 64, _speedups(1.95, 3.9, 7)),
    Target("random", "float32", 4, 64, _speedups(1.8, 3.2, 5)),
    Target("random", "float32", 3, 128, _speedups(1.8, 3.2, 5.5)),
    Target("random", "float32", 3, 64, _speedups(1.7, 2.7, 4.2)),
    Target(None, "float32", None, 16, _speedups(1.5, 2.5, 3.5)),
    Target("ovsf", "int8", None, 128, _speedups(1.75, 3.4, 6)),
    Target("ovsf", "int8", None, 64, _speedups(1.6, 3, 4.7)),
    Target("random", "int8", None, 128, _speedups(1.3, 2.2, 3.5)),
)
_STRIDED = 0.9  # of the speed-up at stride 1


class Case(NamedTuple):
    """What is measured at once."""

    threads: int
    shape: Shape
    selection: str
    ratio: float


Speedups = Mapping[tuple[Case, str], float]


def target(case: Case, kind: str, speedups: Speedups) -> float | None:
    """Returns the speed-up that on-the-fly is to have, or None.

    Args:
        case: The case.
        kind: Type of the files.
        speedups: What was measured, for the target of a stride, by case and type.
    """
    shape = case.shape
    if shape.stride > 1:
        unstrided = speedups.get((case._replace(shape=shape._replace(stride=1)), kind))
        return unstrided and _STRIDED * unstrided
    for row in _TARGETS:
        if (
            row.selection in (None, case.selection)
            and row.type == kind
            and shape.height == shape.width
            and shape.height in ((row.kernel,) if row.kernel else (3, 4))
            and min(shape.channels, shape.filters) >= row.channels
            and case.ratio in row.speedups
        ):
            return row.speedups[case.ratio]
    return None


def cases() -> list[Case]:
    """Returns what the flags ask for; with all codes kept, one selection is like another."""
    return [
        Case(int(threads), Shape.parse(shape), selection, ratio)
        for threads, shape, selection, ratio in itertools.product(
            FLAGS.num_threads, FLAGS.shapes, FLAGS.selections, map(float, FLAGS.ratios)
        )
        if ratio < 1 or selection == FLAGS.selections[0]
    ]


@functools.lru_cache(maxsize=len(common.TYPES))
def _explicit(shape: Shape, side: Side) -> bytes:
    """The explicit file, which takes the same time whichever codes its filters are made of."""
    return common.export(common.single_layer(shape, 1.0, "ovsf"), side)


def export(case: Case) -> dict[Side, bytes]:
    """Exports a layer in every mode and type that it can be written in."""
    model = common.single_layer(case.shape, case.ratio, case.selection)
    sides = common.sides()
    files = {
        side: _explicit(case.shape, side) if side == side.explicit else common.export(model, side) for side in sides
    }
    return {side: file for side, file in files.items() if file}


def to_row(case: Case, kind: str, measured: Mapping[Side, Mapping[str, float]], least: float | None) -> list[str]:
    """Returns a row of the table: a case's files of one type, and the speed-up that is to be reached."""
    cells = [str(case.shape), case.selection, f"{case.ratio:g}", kind]
    for mode in common.MODES:
        values = measured.get(Side(mode, kind))
        speedup = [] if mode == "explicit" else [f"{values['speedup']:.2f}" if values else ""]
        if mode == "onthefly":
            judged = least is not None and values is not None
            speedup += [f"{least:.2f}", "yes" if values["speedup"] >= least else "no"] if judged else ["", ""]
        rest = [f"{values['gflops']:.0f}", f"{values['peak_share']:.0%}"] if values else ["", ""]
        cells += [f"{values['median_ms']:.3f}" if values else "", *speedup, *rest]
    return cells


_HEADING = (
    *("layer", "codes", "ρ", "type", "explicit\nms", "\nGFLOP/s", "\npeak"),
    *("onthefly\nms", "\n×", "\ntarget", "\nmet", "\nGFLOP/s", "\npeak"),
    *("folded\nms", "\n×", "\nGFLOP/s", "\npeak"),
)


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    del argv  # flags only
    settings = common.start()
    todo, results, speedups, tables = cases(), [], {}, {}
    with progress("layers") as tick:
        for number, case in enumerate(todo, 1):
            measured = common.measure(export(case), case.threads)
            for kind in FLAGS.types:
                least = target(case, kind, speedups)
                if side := measured.get(Side("onthefly", kind)):
                    speedups[case, kind] = side["speedup"]
                tables.setdefault(case.threads, [_HEADING]).append(to_row(case, kind, measured, least))
            results += [
                {**case._asdict(), "shape": str(case.shape), **side._asdict(), **values}
                for side, values in measured.items()
            ]
            tick(number / len(todo))
    common.write_json(settings, "layers", results)
    for threads, rows in tables.items():
        print_table(f"{settings['runtime']}, {FLAGS.isa or 'best'} instruction set, threads: {threads}", rows, texts=4)
    judged = [row[_HEADING.index("\nmet")] for row in itertools.chain(*tables.values())]
    print(f"Targets met: {judged.count('yes')} of {judged.count('yes') + judged.count('no')}")


if __name__ == "__main__":
    command.run(main)
