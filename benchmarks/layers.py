"""Speed of single DBF convolutions in each export mode, against the same layer as explicit filters on XNNPACK.

    python benchmarks/layers.py                                    # every row of the table of targets, some minutes
    python benchmarks/layers.py --shapes=3x3x64-64@32 --selections=ovsf --ratios=0.25 --types=float32
    python benchmarks/layers.py --isa=avx2 --json=layers.json

All files of a case are timed in turn in one process. "peak" is the share of the processor's float32 peak that a file's
own multiply-adds reach; GFLOP/s are those of the explicit convolution by the time taken.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from absl import flags

import common
from common import FLAGS, Case, Shape, Side
from dbf_keras import command

flags.DEFINE_list(
    "shapes",
    (
        "3x3x64-64@56 3x3x64-64@32 3x3x128-128@28 3x3x128-128@16 3x3x256-256@14 3x3x256-256@8 3x3x512-512@7 "
        "4x4x64-64@32 4x4x128-128@16 4x4x256-256@8 3x3x16-16@32 4x4x16-16@32 "
        "3x3x128-128@28/2 4x4x64-64@32/2 1x1x64-64@32 1x1x256-256@14"
    ).split(),
    "Layers, each as KHxKWxCHANNELS-FILTERS@SIZE: a convolution on a square input of SIZE pixels, padding 'same'; "
    "append /STRIDE for a stride other than 1, which is judged if its stride 1 is there too.",
)
FLAGS.set_default("selections", ["ovsf", "random"])


_SHARES = ("gflops", "peak_share")
_COLUMNS = {
    "explicit": ("median_ms", *_SHARES),
    "onthefly": ("median_ms", "speedup", *_SHARES),
    "folded": ("median_ms", "speedup", *_SHARES),
}


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


def target(case: Case, kind: str, results: Mapping[Case, common.Measured]) -> float | None:
    """Returns the speed-up that on-the-fly is to have, or None; targets are for one thread.

    Args:
        case: The case.
        kind: Type of the files.
        results: What was measured; the target of a stride is a share of what its stride 1 has.
    """
    shape = case.subject
    if case.threads > 1:
        return None
    if shape.stride > 1:
        unstrided = results.get(case._replace(subject=shape._replace(stride=1)), {}).get(Side("onthefly", kind))
        return _STRIDED * unstrided["speedup"] if unstrided else None
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


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    del argv  # flags only
    settings = common.start()
    export = common.exporter(common.single_layer)
    cases = common.cases([Shape.parse(shape) for shape in FLAGS.shapes])
    results = common.measure_all("layers", cases, lambda case: common.measure(export(case), case.threads))
    common.write_json(settings, results)
    judged = {
        (case, kind): (least, measured[side]["speedup"] >= least)
        for case, measured in results.items()
        for kind in FLAGS.types
        if (least := target(case, kind, results)) and (side := Side("onthefly", kind)) in measured
    }
    more = {
        "target": lambda *key: f"{judged[key][0]:.2f}" if key in judged else "",
        "met": lambda *key: ("yes" if judged[key][1] else "no") if key in judged else "",
    }
    common.print_tables(settings, results, "layer", _COLUMNS, more)
    print(f"Targets met: {sum(met for _, met in judged.values())} of {len(judged)}")


if __name__ == "__main__":
    command.run(main)
