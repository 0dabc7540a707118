"""``dbf benchmark``: compares .tflite files by file size, peak memory, latency, and accuracy on a data set.

    dbf benchmark explicit.tflite onthefly.tflite --dataset=cifar10 --html=result.html

Speed-ups are against the first file. With no file it compares all exports of the default zoo model. Results that
--json or the phone app wrote are shown, not measured, if they are among the files:

    dbf benchmark phone.json onthefly.tflite --html=result.html

Files on a board need numpy and a TFLite runtime only.
"""

import argparse
import contextlib
import functools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from dbf_keras import command, data
from dbf_keras import runtime as runtime_lib
from dbf_keras.benchmark.accuracy import accuracy
from dbf_keras.benchmark.memory import count_op_memory, peak_memory
from dbf_keras.benchmark.page import to_html
from dbf_keras.benchmark.report import (
    CAPTION,
    Report,
    Result,
    describe_machine,
    from_json,
    print_table,
    to_json,
    to_rows,
)
from dbf_keras.benchmark.timing import open_axes, prepare, time_interleaved
from dbf_keras.command import size_text
from dbf_keras.forms import FORMS
from dbf_keras.images import Images
from dbf_keras.progress import progress


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command on these arguments, by default this process's, and ends the process."""
    with command.quiet_libraries():
        sys.exit(main(sys.argv[1:] if arguments is None else arguments))


def main(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments, without the program's name.

    Returns:
        The exit status: 0, or 2 after an error that the user can mend, which is told in a line on stderr.
    """
    try:
        flags = _parser().parse_intermixed_args(arguments)
        with tempfile.TemporaryDirectory() as folder:
            _benchmark(flags, folder)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        "dbf benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help=".tflite files to measure, .json files to show")
    add("--dataset", help=f"data set to measure accuracy on: {', '.join(data.DATASETS)}")
    add("--data_dir", help=data.WHERE)
    add(
        "--input_size",
        metavar="SIZE",
        help="height and width of images, such as 224 or 224x160, for files that leave them open (default: those of "
        f"the data set's images, else {size_text(command.OPEN_SIZE)})",
    )
    add("--num_threads", type=command.at_least(int, 1), default=1, help="threads of each interpreter (default: 1)")
    add("--runtime", choices=list(runtime_lib.RUNTIMES), help="TFLite runtime (default: the first installed)")
    add(
        "--repetitions",
        "--runs",
        type=command.at_least(int, 1),
        default=5000,
        help="most timed inferences per file (default: 5000)",
    )
    add("--seconds", type=command.at_least(float, 0), default=3.0, help="time to spend on timing per file (default: 3)")
    add("--json", metavar="FILE", help="file to write the results to as JSON")
    add("--html", metavar="FILE", help="file to write the results to as a web page")
    return parser


def _benchmark(flags: argparse.Namespace, folder: str) -> None:
    """Measures and shows what the flags ask for; the default model's files go to a folder."""
    _check_outputs(flags.json, flags.html)
    dataset = flags.dataset
    stored = [_read(path) for path in flags.files if path.endswith(".json")]
    models = [path for path in flags.files if not path.endswith(".json")]
    if stored and not models:
        if flags.json:
            raise ValueError("--json writes what is measured here; give a .tflite file too.")
        reports = stored
    else:
        runtime = runtime_lib.resolve_runtime(flags.runtime)
        if not models:
            models, own_dataset = _export_default(folder)
            dataset = dataset or own_dataset
        _check_models(models)
        results, size = _measure(models, runtime, dataset, flags)
        settings = {
            **describe_machine(runtime),
            "num_threads": flags.num_threads,
            "dataset": dataset,
            **({"input_size": size_text(size)} if size else {}),
            "peak_memory": "growth of peak resident memory, each model in a process of its own",
        }
        report = Report(settings, results)
        reports = [report, *stored]
    if flags.json:
        _write(flags.json, to_json(report))
    if flags.html:
        _write(flags.html, to_html(reports))
    for shown in reports:
        title = f"{shown.settings.get('runtime')}, threads: {shown.settings.get('num_threads')}"
        if shown.settings.get("input_size"):
            title += f", images of open size: {shown.settings['input_size']}"
        caption = CAPTION if shown is reports[-1] else ""
        print_table(f"{shown.machine}, {title}" if stored else title, to_rows(shown.results), caption=caption)
    if models and reports[0].settings.get("input_size") and not flags.input_size:
        used = reports[0].settings["input_size"]
        print(f"A file leaves the size of images open; measured with {used}. --input_size gives another.")


def _write(path: str, text: str) -> None:
    command.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _read(path: str) -> Report:
    """Reads results from a file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There are no results at {path!r}. Write some with --json.")
    try:
        with open(path, encoding="utf-8") as file:
            return from_json(file.read())
    except ValueError as error:
        raise ValueError(f"{path!r} is {error}.") from error


def _measure(
    paths: Sequence[str], runtime: str, dataset: str | None, flags: argparse.Namespace
) -> tuple[list[Result], tuple[int, int] | None]:
    """Measures files; accuracy only if a data set is named.

    Returns:
        The results, and the (height, width) of images where a file leaves them open; None if none does.
    """
    size = _open_size(dataset, flags)
    # First, for these processes are others: a file that kills its process is told like any that cannot be run.
    memories = [peak_memory(path, runtime, flags.num_threads, size=size) for path in paths]
    interpreters, calls, op_memories, loads, firsts = [], [], [], [], []
    for path in paths:
        start = time.perf_counter()
        with _naming(path):
            interpreters.append(runtime_lib.Interpreter(path, num_threads=flags.num_threads, runtime=runtime))
            _check_size(interpreters[-1], flags.input_size)
            call, op_memory = count_op_memory(functools.partial(prepare, interpreters[-1], size=size))
            loaded = time.perf_counter()
            call()
        firsts.append(time.perf_counter() - loaded)
        loads.append(loaded - start)
        calls.append(call)
        op_memories.append(op_memory)
    names = _name(paths)
    shares: list[float | None] = [None] * len(paths)
    if dataset:
        shape = interpreters[0].get_input_details()[0]["shape"]
        images, labels = _load_images(dataset, flags.data_dir, shape)
        for number, interpreter in enumerate(interpreters):
            with progress(f"accuracy of {names[number]}") as tick, _naming(paths[number]):
                shares[number] = accuracy(interpreter, images, labels, tick)
    with progress("latency") as tick:
        times = time_interleaved(calls, flags.seconds, flags.repetitions, tick)
    sizes = [os.path.getsize(path) for path in paths]
    columns = (names, paths, sizes, memories, op_memories, times, shares, loads, firsts)
    results = [Result(*values) for values in zip(*columns, strict=True)]
    return results, size if any(map(_is_open, interpreters)) else None


def _open_size(dataset: str | None, flags: argparse.Namespace) -> tuple[int, int]:
    """The (height, width) of images where a file leaves them open."""
    given = command.parse_size(flags.input_size)
    if given is None and dataset is not None:
        if dataset in data.ARRAYS:
            height, width, _ = data.load(dataset, flags.data_dir).image_shape
            return height, width
    return given or command.OPEN_SIZE


def _is_open(interpreter: runtime_lib.Interpreter) -> bool:
    return any(map(open_axes, interpreter.get_input_details()))


def _check_size(interpreter: runtime_lib.Interpreter, given: str | None) -> None:
    """Raises an error if a file does not leave the size of images open that a flag gives."""
    details = interpreter.get_input_details()
    if given is not None and not _is_open(interpreter):
        shapes = ", ".join(str(tuple(detail["shape"].tolist())) for detail in details)
        raise ValueError(f"It takes inputs of {shapes}, and --input_size is for files of open size. Leave it out.")


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Says of which file an error of the runtime is."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path!r}: {error}") from error


def _export_default(folder: str) -> tuple[list[str], str]:
    """Exports the default zoo model in every mode to a folder.

    Args:
        folder: The folder.

    Returns:
        The files, the explicit one first, and the data set that the model was trained on.

    Raises:
        ImportError: If a package that exporting needs is not installed.
    """
    try:
        from dbf_keras import export, zoo  # TensorFlow: needed only here

        model = zoo.load_zoo()
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Without a file, the default model is exported, which needs {error.name}, not installed here. Give "
            ".tflite files, or install this package with all that it needs (pip install .)."
        ) from error
    paths = []
    for form in FORMS:
        if form.quantize in (None, "weights"):
            paths.append(os.path.join(folder, f"{form.role}.tflite"))
            with open(paths[-1], "wb") as file:
                file.write(export.to_tflite(model, *form))
    return paths, zoo.entry()["dataset"]


def _load_images(
    dataset: str, data_dir: str | None, input_shape: Sequence[int]
) -> tuple[np.ndarray | Images, np.ndarray]:
    """Returns test images, uint8 [N, H, W, C], and labels, int [N]; image files are scaled to the input's size."""
    size = (int(input_shape[1]), int(input_shape[2])) if len(input_shape) == 4 else command.OPEN_SIZE
    loaded = data.load(dataset, data_dir, size)
    return loaded.x_test, loaded.y_test


def _check_models(paths: Sequence[str]) -> None:
    """Raises an error if a file is missing or no TFLite model."""
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no model file at {path!r}. Export one: dbf export")
        with open(path, "rb") as file:
            if file.read(8)[4:] != b"TFL3":
                raise ValueError(f"{path!r} is not a TFLite model. Export one: dbf export")


def _check_outputs(*paths: str | None) -> None:
    """Raises an error if a file to write is in no folder, before any time is spent."""
    for path in filter(None, paths):
        if os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise FileNotFoundError(f"Cannot write {path!r}: give a file name in a folder that exists.")


def _name(paths: Sequence[str]) -> list[str]:
    """Returns a short name for each file: its own without ending, or the path where that is not unique."""
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]
