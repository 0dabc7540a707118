"""What the benchmark scripts share: flags, single layers, and files that are exported and timed side by side."""

import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags, logging

import native
from dbf_keras import command
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.memory import count_op_memory
from dbf_keras.benchmark.report import describe_machine, print_table
from dbf_keras.forms import MODES, QUANTIZATIONS
from dbf_keras.progress import progress
from dbf_keras.runtime import RUNTIMES, Interpreter, resolve_runtime

if TYPE_CHECKING:  # TensorFlow comes late: quiet, and after the instruction set is chosen
    import keras

TYPES = {quantize or "float32": quantize for quantize in QUANTIZATIONS}  # and `quantize` of the export
_REPRESENTATIVE_INPUTS = 8
_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)-(\d+)@(\d+)(?:/(\d+))?")

FLAGS = flags.FLAGS
flags.DEFINE_list("ratios", ["1", "0.5", "0.25", "0.125"], "Shares of the codes that are kept, each in (0, 1].")
flags.DEFINE_list("selections", ["ovsf"], "Which codes are kept: ovsf is separable, random is any set; see DBFConv2D.")
flags.DEFINE_list("modes", list(MODES), "Export modes, of these; explicit is always measured.")
flags.DEFINE_list(
    "types",
    ["float32", "int8"],
    f"Types of the files, of {', '.join(TYPES)} (weights: int8 weights only; int4: int4 coefficients only).",
)
flags.DEFINE_list("num_threads", ["1"], "Threads of each interpreter; all is measured for each number.")
flags.DEFINE_enum("runtime", None, list(RUNTIMES), "TFLite runtime (default: the first installed).")
flags.DEFINE_enum("isa", None, ["avx2"], "Instruction set of our op and of XNNPACK (default: the best of the machine).")
flags.DEFINE_float("seconds", 0.5, "Time to spend on each file.", lower_bound=0.0)
flags.DEFINE_string("json", None, "File to write the results to as JSON.")


class Side(NamedTuple):
    """One of the files that are compared: its export mode, and its type, one of `TYPES`."""

    mode: str
    type: str

    def __str__(self) -> str:
        return f"{self.mode} {self.type}"

    @property
    def explicit(self) -> "Side":
        """What this side is held against: the explicit file of the same type."""
        return Side("explicit", self.type)


Measured = Mapping[Side, Mapping[str, float]]


class Shape(NamedTuple):
    """A convolution on a square image."""

    height: int
    width: int
    channels: int
    filters: int
    size: int
    stride: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Reads KHxKWxCHANNELS-FILTERS@SIZE or KHxKWxCHANNELS-FILTERS@SIZE/STRIDE.

        Raises:
            ValueError: If `text` is malformed.
        """
        match = _SHAPE.fullmatch(text)
        if not match:
            raise ValueError(f"Got shape {text!r}; write it like 3x3x64-64@32 or, with stride 2, 3x3x64-64@32/2.")
        return cls(*(int(number or 1) for number in match.groups()))

    def __str__(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.height}x{self.width}x{self.channels}-{self.filters}@{self.size}{stride}"


class Case(NamedTuple):
    """What is measured at once.

    Attributes:
        threads: Threads of each interpreter.
        subject: A layer's shape, or a network's name.
        selection: Which codes are kept.
        ratio: Share of the codes that is kept.
    """

    threads: int
    subject: Shape | str
    selection: str
    ratio: float


def cases(subjects: Sequence[Shape | str]) -> list[Case]:
    """Returns what the flags ask for; with all codes kept, one selection is like another."""
    return [
        Case(int(threads), subject, selection, ratio)
        for subject, selection, ratio, threads in itertools.product(
            subjects, FLAGS.selections, map(float, FLAGS.ratios), FLAGS.num_threads
        )
        if ratio < 1 or selection == FLAGS.selections[0]
    ]


def start() -> dict[str, Any]:
    """Checks the flags and sets the instruction set up.

    Returns:
        Where and how is measured, for the results.

    Raises:
        ValueError: If a flag names a mode or type that does not exist.
        OSError: If the processor cannot be made to look as asked.
    """
    for given, known in ((FLAGS.modes, MODES), (FLAGS.types, TYPES)):
        if unknown := set(given) - set(known):
            raise ValueError(f"Got {', '.join(sorted(unknown))}; use some of {', '.join(known)}.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    if FLAGS.isa:
        native.mask_cpuid()
    runtime = resolve_runtime(FLAGS.runtime)
    return {**describe_machine(runtime), "isa": FLAGS.isa, "num_threads": [int(count) for count in FLAGS.num_threads]}


def sides() -> list[Side]:
    """Returns what the flags ask for; of each type the explicit side comes first."""
    return [Side(mode, kind) for kind in FLAGS.types for mode in MODES if mode in ("explicit", *FLAGS.modes)]


def single_layer(shape: Shape, selection: str, ratio: float) -> "keras.Model":
    """Builds a model of one layer with random weights.

    Args:
        shape: The layer's shape; padding is 'same'.
        selection: Which codes are kept.
        ratio: Share of the codes that is kept.

    Returns:
        A model with an input [batch, size, size, channels].
    """
    from dbf_keras.backend import keras
    from dbf_keras.layers import DBFConv2D

    layer = DBFConv2D(
        shape.filters,
        (shape.height, shape.width),
        strides=shape.stride,
        padding="same",
        ratio=ratio,
        selection=selection,
        bias_initializer="random_normal",
        name="layer",
    )
    image = keras.Input((shape.size, shape.size, shape.channels))
    return keras.Model(image, layer(image))


def export(model: "keras.Model", side: Side) -> bytes | None:
    """Exports a model.

    Int8 files have int8 inputs and outputs, and ranges of random pixels. What goes with int4 in other modes than
    onthefly are int8 weights.

    Returns:
        The file, or None if no layer is written in that mode: it would be the explicit file by another name.
    """
    from dbf_keras.export import convert

    arguments = {"quantize": TYPES[side.type]}
    if side.type == "int4" and side.mode != "onthefly":
        arguments["quantize"] = "weights"
    if side.type == "int8":
        pixels = np.random.default_rng(0).uniform(0, 255, (_REPRESENTATIVE_INPUTS, *model.input_shape[1:]))
        arguments |= {"representative_data": [pixels.astype(np.float32)], "io_type": "int8"}
    result = convert(model, side.mode, check=False, **arguments)
    return result.data if any(layer.form == side.mode for layer in result.layers) else None


def exporter(build: Callable[[Any, str, float], "keras.Model"]) -> Callable[[Case], dict[Side, bytes]]:
    """Makes a function that exports cases in every mode and type that the flags ask for and that can be written.

    Explicit files, which are as large and fast whichever codes their filters are made of, are made once a subject.

    Args:
        build: Builds a model, from a subject, a selection and a ratio.
    """

    @functools.lru_cache(maxsize=len(TYPES))
    def explicit(subject: Shape | str, side: Side) -> bytes:
        return export(build(subject, "ovsf", 1.0), side)

    @functools.lru_cache(maxsize=1)
    def files(subject: Shape | str, selection: str, ratio: float) -> dict[Side, bytes]:
        model = build(subject, selection, ratio)
        found = {side: explicit(subject, side) if side == side.explicit else export(model, side) for side in sides()}
        return {side: file for side, file in found.items() if file}

    return lambda case: files(case.subject, case.selection, case.ratio)


def multiply_adds(file: bytes) -> int:
    """Counts the multiply-adds of the convolutions and dense layers of a file, ours and the standard ones."""
    from dbf_keras.export import flatfile

    model = flatfile.load(file)
    builtin = flatfile.schema().BuiltinOperator
    counted = (builtin.CONV_2D, builtin.DEPTHWISE_CONV_2D, builtin.FULLY_CONNECTED, builtin.CUSTOM)
    total = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = flatfile.code_of(model, operator)
            if code in counted:
                weights, output = graph.tensors[operator.inputs[1]].shape, graph.tensors[operator.outputs[0]].shape
                inner = weights[1:3] if code == builtin.DEPTHWISE_CONV_2D else weights[1:]
                total += int(np.prod(output) * np.prod(inner))
    return total


def load(file: bytes, threads: int) -> Callable[[], None]:
    """Loads a file as the flags say and returns the call that runs one inference."""
    options = {"isa": FLAGS.isa} if FLAGS.isa else None
    interpreter = Interpreter(model_content=file, num_threads=threads, runtime=FLAGS.runtime, delegate_options=options)
    return prepare(interpreter)


@functools.cache
def _peak() -> tuple[Callable[[], float], float]:
    return native.fma_peak(FLAGS.isa)


def measure(files: Mapping[Side, bytes], threads: int) -> Measured:
    """Times files in turn, in one process.

    Args:
        files: The files, with the explicit side of each type.
        threads: Threads of each interpreter.

    Returns:
        For each: `file_bytes`; `op_packed_bytes` and `op_scratch_bytes`, what our ops hold; `median_ms` and `p90_ms`;
        `speedup` against explicit of the same type; `gflops`, the operations of the explicit file by this file's time;
        and `peak_share`, the operations that this file itself does by what the processor could do, in float32, in its
        time. Operations are multiplications and additions in multiply-adds; the additions of transforms and pooling are
        not counted.
    """
    run_peak, peak_operations = _peak()
    calls, op_memories = {}, {}
    for side, file in files.items():
        calls[side], op_memories[side] = count_op_memory(functools.partial(load, file, threads))
    times = time_interleaved([run_peak, *calls.values()], FLAGS.seconds)
    peak = threads * peak_operations / np.median(times[0])
    rows = dict(zip(files, times[1:], strict=True))
    seconds = {side: float(np.median(row)) for side, row in rows.items()}
    operations = {side: 2 * multiply_adds(file) for side, file in files.items()}
    return {
        side: {
            "file_bytes": len(file),
            "op_packed_bytes": op_memories[side].packed,
            "op_scratch_bytes": op_memories[side].scratch,
            "median_ms": 1e3 * seconds[side],
            "p90_ms": 1e3 * float(np.percentile(rows[side], 90)),
            "speedup": seconds[side.explicit] / seconds[side],
            "gflops": 1e-9 * operations[side.explicit] / seconds[side],
            "peak_share": float(operations[side] / seconds[side] / peak),
        }
        for side, file in files.items()
    }


def measure_all(title: str, cases: Sequence[Case], measure_one: Callable[[Case], Measured]) -> dict[Case, Measured]:
    """Measures cases one after another, under a progress bar.

    Args:
        title: What the bar says.
        cases: The cases.
        measure_one: What measures a case, as `measure` does.

    Returns:
        What was measured, by case.
    """
    results = {}
    with progress(title) as tick:
        for case in cases:
            results[case] = measure_one(case)
            tick(len(results) / len(cases))
    return results


def _kilobytes(size: float) -> str:
    return f"{size / 1e3:,.1f}"


# What tables show of what is measured: heading, and how to write it.
_FIELDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "median_ms": ("ms", "{:.3f}".format),
    "speedup": ("×", "{:.2f}".format),
    "gflops": ("GFLOP/s", "{:.0f}".format),
    "peak_share": ("peak", "{:.0%}".format),
    "file_bytes": ("file kB", _kilobytes),
    "op_packed_bytes": ("packed kB", _kilobytes),
    "op_scratch_bytes": ("scratch kB", _kilobytes),
    "peak_memory_bytes": ("memory MB", lambda size: f"{size / 1e6:.1f}"),
}
Columns = Mapping[str, Sequence[str]]  # what is shown of every mode


def headings(subject: str, columns: Columns) -> list[str]:
    """Returns the headings of a table of cases."""
    shown = [
        f"{'' if number else mode}\n{_FIELDS[field][0]}"
        for mode, fields in columns.items()
        for number, field in enumerate(fields)
    ]
    return [subject, "codes", "ρ", "type", *shown]


def to_row(case: Case, kind: str, measured: Measured, columns: Columns) -> list[str]:
    """Returns a row of a table of cases: the files of one type, blank where there is none."""
    shown = [
        _FIELDS[field][1](measured[Side(mode, kind)][field]) if Side(mode, kind) in measured else ""
        for mode, fields in columns.items()
        for field in fields
    ]
    return [str(case.subject), case.selection, f"{case.ratio:g}", kind, *shown]


def title(settings: Mapping[str, Any], threads: int) -> str:
    """Returns what stands above a table or plot."""
    return f"{settings['runtime']}, {FLAGS.isa or 'best'} instruction set, threads: {threads}"


def print_tables(
    settings: Mapping[str, Any],
    results: Mapping[Case, Measured],
    subject: str,
    columns: Columns,
    more: Mapping[str, Callable[[Case, str], str]] | None = None,
) -> None:
    """Prints a table for each number of threads, with a row for each case and type.

    Args:
        settings: What `start` returned.
        results: What was measured.
        subject: What the cases are of.
        columns: What is shown.
        more: Further columns by heading: what their cells are, by case and type.
    """
    more = more or {}
    for threads in settings["num_threads"]:
        rows = [
            [*to_row(case, kind, measured, columns), *(cell(case, kind) for cell in more.values())]
            for case, measured in results.items()
            for kind in FLAGS.types
            if case.threads == threads
        ]
        print_table(title(settings, threads), [[*headings(subject, columns), *more], *rows], texts=4)


def write_json(settings: Mapping[str, Any], results: Mapping[tuple, Measured]) -> None:
    """Writes settings and results by case to the file of the flag `--json`, if it is given: a record for each file."""
    if not FLAGS.json:
        return
    records = [
        {key: str(value) if isinstance(value, Shape) else value for key, value in case._asdict().items()}
        | {**side._asdict(), **values}
        for case, measured in results.items()
        for side, values in measured.items()
    ]
    text = json.dumps({"settings": settings, "results": records}, indent=2) + "\n"
    command.write_atomically(FLAGS.json, lambda temporary: temporary.write_text(text))
