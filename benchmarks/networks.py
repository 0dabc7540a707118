"""Size, memory and speed of whole networks in each export mode, against the same network as explicit filters.

    python benchmarks/networks.py                              # all of it: an hour
    python benchmarks/networks.py --networks=resnet18_cifar --num_threads=1,2 --plot=networks.png --json=networks.json
    python benchmarks/networks.py --networks=dbfnet_mnist --ratios=0.25 --types=float32 --profile

Weights are random; all DBF layers have the same share of codes. Peak memory is that of a process of its own, on its
best instruction set.
"""

import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

import common
import plots
from common import FLAGS, Case, Side
from dbf_keras import command
from dbf_keras.benchmark import time_interleaved
from dbf_keras.benchmark.memory import peak_memory
from dbf_keras.benchmark.report import print_table
from dbf_keras.forms import MODES

if TYPE_CHECKING:
    import keras

_IMAGENET = {"input_shape": (224, 224, 3), "classes": 1000}
_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {  # and its function's name and arguments
    "resnet18_cifar": ("resnet18", {"input_shape": (32, 32, 3)}),
    "resnet34_cifar": ("resnet34", {"input_shape": (32, 32, 3)}),
    "squeezenet_imagenet": ("squeezenet", _IMAGENET),
    "dbfnet_mnist": ("dbfnet", {"input_shape": (28, 28, 1)}),
    "resnet18_imagenet": ("resnet18", {**_IMAGENET, "kernel_size": 3}),
}

flags.DEFINE_list("networks", list(_NETWORKS), "Networks.")
flags.DEFINE_bool("profile", False, "Instead, time every op of the files, each cut out and alone.")

_SIZES = ("file_bytes", "peak_memory_bytes")
_COLUMNS = {
    "explicit": ("median_ms", *_SIZES),
    "onthefly": ("median_ms", "speedup", *_SIZES, "op_packed_bytes", "op_scratch_bytes"),
    "folded": ("median_ms", "speedup", *_SIZES),
}


def build(network: str, selection: str, ratio: float) -> "keras.Model":
    """Builds a network with random weights, for raw pixels."""
    from dbf_keras import networks

    name, options = _NETWORKS[network]
    return networks.build(name, ratio=ratio, selection=selection, **options)


@functools.cache
def _memory(file: bytes, threads: int) -> int:
    with tempfile.NamedTemporaryFile(suffix=".tflite") as written:
        written.write(file)
        written.flush()
        return peak_memory(written.name, FLAGS.runtime, threads)


def measure(files: Mapping[Side, bytes], threads: int) -> common.Measured:
    """Measures files, their peak memory too."""
    measured = common.measure(files, threads)
    return {side: {**values, "peak_memory_bytes": _memory(files[side], threads)} for side, values in measured.items()}


def cut(file: bytes) -> Iterator[tuple[str, bytes]]:
    """Cuts a file into files of one op each, without those that only compute shapes or need one computed.

    Yields:
        The name of an op, with the size of its filters in standard convolutions, and its file; in the order of running.
    """
    from dbf_keras.export import flatfile

    schema = flatfile.schema()
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    for index in range(len(flatfile.load(file).subgraphs[0].operators)):
        model = flatfile.load(file)
        graph = model.subgraphs[0]
        operator = graph.operators[index]
        tensors = {int(number): graph.tensors[number] for number in operator.inputs if number >= 0}
        inputs = [number for number, tensor in tensors.items() if model.buffers[tensor.buffer].data is None]
        if any(graph.tensors[number].type == schema.TensorType.INT32 for number in [*inputs, *operator.outputs]):
            continue
        custom = model.operatorCodes[operator.opcodeIndex].customCode
        name = custom.decode() if custom else names[flatfile.code_of(model, operator)]
        if name.endswith("CONV_2D"):
            name += " {}x{}".format(*tensors[int(operator.inputs[1])].shape[1:3])
        graph.operators, graph.inputs, graph.outputs = [operator], inputs, operator.outputs
        model.signatureDefs = []
        yield name, flatfile.dump(model)


def profile(file: bytes, threads: int) -> list[list[str]]:
    """Times a file and every op of it alone, in turn.

    Returns:
        Rows of a table, the heading first: for every kind of op how many there are, their time and its share of all;
        and the whole file, in which ops find other caches than alone.
    """
    kinds, parts = zip(*cut(file), strict=True)
    calls = [common.load(part, threads) for part in (file, *parts)]
    whole, *alone = (1e3 * float(np.median(row)) for row in time_interleaved(calls, FLAGS.seconds))
    times = dict.fromkeys(kinds, 0.0)
    for kind, milliseconds in zip(kinds, alone, strict=True):
        times[kind] += milliseconds
    rows = [
        [kind, str(kinds.count(kind)), f"{times[kind]:.3f}", f"{times[kind] / sum(alone):.1%}"]
        for kind in sorted(times, key=times.get, reverse=True)
    ]
    totals = [["all, each alone", str(len(kinds)), f"{sum(alone):.3f}", "100.0%"], ["the file", "", f"{whole:.3f}", ""]]
    return [["op", "count", "ms", "share"], *rows, *totals]


_PANELS = {
    "median_ms": ("median ms", 1),
    "file_bytes": ("file, MB", 1e-6),
    "peak_memory_bytes": ("peak memory, MB", 1e-6),
}


def panels(results: Mapping[Case, common.Measured]) -> list[list[plots.Panel]]:
    """Returns what to draw: time, file and memory by share of codes, for each network."""
    rows = []
    for field, (unit, scale) in _PANELS.items():
        series = [(mode, field, mode) for mode in MODES]
        rows.append([])
        for network in FLAGS.networks:
            by_ratio = {case.ratio: measured for case, measured in results.items() if case.subject == network}
            rows[-1].append(plots.Panel(network, "share of codes ρ", unit, plots.lines(by_ratio, series, scale)))
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    del argv  # flags only
    if unknown := set(FLAGS.networks) - set(_NETWORKS):
        raise ValueError(f"Got networks {', '.join(sorted(unknown))}; use some of {', '.join(_NETWORKS)}.")
    settings = common.start()
    export = common.exporter(build)
    cases = common.cases(FLAGS.networks)
    if FLAGS.profile:
        for case in cases:
            for side, file in export(case).items():
                name = f"{case.subject}, {case.selection}, ρ = {case.ratio:g}, {side}"
                print_table(f"{name}; {common.title(settings, case.threads)}", profile(file, case.threads))
        return
    results = common.measure_all("networks", cases, lambda case: measure(export(case), case.threads))
    common.write_json(settings, results)
    common.print_tables(settings, results, "network", _COLUMNS)
    if FLAGS.plot:
        threads, selection = settings["num_threads"][0], FLAGS.selections[0]
        drawn = {
            case: measured
            for case, measured in results.items()
            if (case.threads, case.selection) == (threads, selection)
        }
        plots.draw(f"{selection}; {common.title(settings, threads)}", panels(drawn))


if __name__ == "__main__":
    command.run(main)
