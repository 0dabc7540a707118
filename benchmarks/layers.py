"""Latency of single DBF convolutions in each export mode, against the same layer exported as explicit filters.

    python benchmarks/layers.py
    python benchmarks/layers.py --ratios=1,0.5,0.25,0.125 --shapes=3x3x64-64@56,3x3x256-256@14 --json=layers.json

All modes of a shape are timed in turn in one process. The explicit side is an ordinary float32 CONV_2D on XNNPACK.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from dbf_keras import command
from dbf_keras.backend import keras
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.progress import progress
from dbf_keras.benchmark.report import describe_machine, print_table
from dbf_keras.export import to_tflite
from dbf_keras.layers import DBFConv2D
from dbf_keras.runtime import RUNTIMES, Interpreter, resolve_runtime

_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)-(\d+)@(\d+)(?:/(\d+))?")

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "shapes",
    ["3x3x64-64@32", "4x4x128-128@16"],
    "Layers, each as KHxKWxCHANNELS-FILTERS@SIZE: a convolution on a square input of SIZE pixels, padding 'same'; "
    "append /STRIDE for a stride other than 1.",
)
flags.DEFINE_list("ratios", ["0.25"], "Shares of the codes that are kept, each in (0, 1].")
flags.DEFINE_list("selections", ["ovsf"], "Which codes are kept; see DBFConv2D.")
flags.DEFINE_list("modes", ["explicit", "onthefly", "folded"], "Export modes; speed-ups are against the first.")
flags.DEFINE_enum("quantize", None, ["weights"], "Quantise weights and coefficients (default: float32).")
flags.DEFINE_integer("num_threads", 1, "Threads of each interpreter.", lower_bound=1)
flags.DEFINE_enum("runtime", None, list(RUNTIMES), "TFLite runtime (default: the first installed).")
flags.DEFINE_float("seconds", 2.0, "Time to spend on each file.", lower_bound=0.0)
flags.DEFINE_string("json", None, "File to write the results to as JSON.")


def build(shape: str, ratio: float, selection: str) -> "keras.Model":
    """Builds a model of one layer.

    Args:
        shape: As in the flag `--shapes`.
        ratio: Share of the codes that is kept.
        selection: Which codes are kept.

    Returns:
        A model with an input [batch, size, size, channels].

    Raises:
        ValueError: If `shape` is malformed.
    """
    match = _SHAPE.fullmatch(shape)
    if not match:
        raise ValueError(f"Got shape {shape!r}; write it like 3x3x64-64@32 or, with stride 2, 3x3x64-64@32/2.")
    height, width, channels, filters, size, stride = (int(number or 1) for number in match.groups())
    layer = DBFConv2D(
        filters,
        (height, width),
        strides=stride,
        padding="same",
        ratio=ratio,
        selection=selection,
        bias_initializer="random_normal",
        name="layer",
    )
    image = keras.Input((size, size, channels))
    return keras.Model(image, layer(image))


def measure(shape: str, ratio: float, selection: str) -> dict[str, Any]:
    """Exports one layer in every mode and times the files in turn.

    Args:
        shape: As in the flag `--shapes`.
        ratio: Share of the codes that is kept.
        selection: Which codes are kept.

    Returns:
        The arguments, and for every mode the file's bytes and latency.
    """
    model = build(shape, ratio, selection)
    files = [to_tflite(model, mode=mode, quantize=FLAGS.quantize) for mode in FLAGS.modes]
    calls = [
        prepare(Interpreter(model_content=file, num_threads=FLAGS.num_threads, runtime=FLAGS.runtime)) for file in files
    ]
    times = time_interleaved(calls, FLAGS.seconds)
    modes = {
        mode: {
            "file_bytes": len(file),
            "median_ms": 1e3 * float(np.median(row)),
            "p90_ms": 1e3 * float(np.percentile(row, 90)),
            "speedup": float(np.median(times[0]) / np.median(row)),
        }
        for mode, file, row in zip(FLAGS.modes, files, times, strict=True)
    }
    return {"shape": shape, "ratio": ratio, "selection": selection, "runs": len(times[0]), "modes": modes}


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    del argv  # flags only
    runtime = resolve_runtime(FLAGS.runtime)
    cases = [
        (shape, float(ratio), selection)
        for shape in FLAGS.shapes
        for selection in FLAGS.selections
        for ratio in FLAGS.ratios
    ]
    with progress("layers") as tick:
        results = []
        for case in cases:
            results.append(measure(*case))
            tick(len(results) / len(cases))
    settings = {**describe_machine(runtime), "num_threads": FLAGS.num_threads, "quantize": FLAGS.quantize}
    if FLAGS.json:
        text = json.dumps({"settings": settings, "layers": results}, indent=2) + "\n"
        command.write_atomically(FLAGS.json, lambda temporary: temporary.write_text(text))
    rows = [["layer", "selection", "ratio", *FLAGS.modes]]
    for result in results:
        cells = [f"{mode['median_ms']:.3f} ({mode['speedup']:.2f}×)" for mode in result["modes"].values()]
        rows.append([result["shape"], result["selection"], f"{result['ratio']:g}", *cells])
    title = f"{settings['runtime']}, threads: {FLAGS.num_threads}; median ms (speed-up against {FLAGS.modes[0]})"
    print_table(title, rows, texts=2)


if __name__ == "__main__":
    command.run(main)
