"""Compare .tflite files: file size, peak memory, latency, and accuracy on a data set.

    python -m dbf_keras.benchmark explicit.tflite onthefly.tflite --dataset=cifar10 --html=result.html

Speed-ups are against the first file. With no file it compares all exports of the default zoo model. Results that
--json or the phone app wrote are shown, not measured, if they are among the files:

    python -m dbf_keras.benchmark phone.json onthefly.tflite --html=result.html
"""

import functools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from absl import flags, logging

from dbf_keras import command
from dbf_keras import runtime as runtime_lib
from dbf_keras.benchmark.accuracy import accuracy
from dbf_keras.benchmark.memory import count_op_memory, peak_memory
from dbf_keras.benchmark.page import to_html
from dbf_keras.benchmark.report import Report, Result, describe_machine, from_json, print_table, to_json, to_rows
from dbf_keras.benchmark.timing import prepare, time_interleaved
from dbf_keras.progress import progress

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "Data set to measure accuracy on: digits, mnist, cifar10, folder or tfrecords.")
flags.DEFINE_string("data_dir", None, "Where <dataset>.npz, or train/ and test/, or the TFRecords are.")
flags.DEFINE_integer("num_threads", 1, "Threads of each interpreter.", lower_bound=1)
flags.DEFINE_enum("runtime", None, list(runtime_lib.RUNTIMES), "TFLite runtime (default: the first installed).")
flags.DEFINE_integer("runs", 5000, "Most timed runs per file.", lower_bound=1)
flags.DEFINE_float("seconds", 3.0, "Time to spend on timing per file.", lower_bound=0.0)
flags.DEFINE_string("json", None, "File to write the results to as JSON.")
flags.DEFINE_string("html", None, "File to write the results to as a web page.")


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run(argv[1:], folder)
    except (ImportError, RuntimeError) as error:  # No runtime, or no C library; says what to do.
        raise ValueError(error) from error


def _run(paths: Sequence[str], folder: str) -> None:
    _check_outputs(FLAGS.json, FLAGS.html)
    dataset = FLAGS.dataset
    stored = [_read(path) for path in paths if path.endswith(".json")]
    models = [path for path in paths if not path.endswith(".json")]
    if stored and not models:
        if FLAGS.json:
            raise ValueError("--json writes what is measured here; give a .tflite file too.")
        reports = stored
    else:
        runtime = runtime_lib.resolve_runtime(FLAGS.runtime)
        if not models:
            models, own_dataset = _export_default(folder)
            dataset = dataset or own_dataset
        _check_models(models)
        settings = {
            **describe_machine(runtime),
            "num_threads": FLAGS.num_threads,
            "dataset": dataset,
            "peak_memory": "growth of peak resident memory, each model in a process of its own",
        }
        report = Report(settings, _measure(models, runtime, dataset))
        reports = [report, *stored]
    if FLAGS.json:
        _write(FLAGS.json, to_json(report))
    if FLAGS.html:
        _write(FLAGS.html, to_html(reports))
    for shown in reports:
        title = f"{shown.settings.get('runtime')}, threads: {shown.settings.get('num_threads')}"
        print_table(f"{shown.machine}, {title}" if stored else title, to_rows(shown.results))


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


def _measure(paths: Sequence[str], runtime: str, dataset: str | None) -> list[Result]:
    """Measures files; accuracy only if a data set is named."""
    interpreters, calls, op_memories, loads, firsts = [], [], [], [], []
    for path in paths:
        start = time.perf_counter()
        interpreters.append(runtime_lib.Interpreter(path, num_threads=FLAGS.num_threads, runtime=runtime))
        call, op_memory = count_op_memory(functools.partial(prepare, interpreters[-1]))
        loaded = time.perf_counter()
        call()
        firsts.append(time.perf_counter() - loaded)
        loads.append(loaded - start)
        calls.append(call)
        op_memories.append(op_memory)
    names, shares = _name(paths), [None] * len(paths)
    if dataset:
        images, labels = _load_images(dataset, interpreters[0].get_input_details()[0]["shape"][1])
        for number, interpreter in enumerate(interpreters):
            with progress(f"accuracy of {names[number]}") as tick:
                shares[number] = accuracy(interpreter, images, labels, tick)
    with progress("latency") as tick:
        times = time_interleaved(calls, FLAGS.seconds, FLAGS.runs, tick)
    memories = [peak_memory(path, runtime, FLAGS.num_threads) for path in paths]
    sizes = [os.path.getsize(path) for path in paths]
    columns = (names, paths, sizes, memories, op_memories, times, shares, loads, firsts)
    return [Result(*values) for values in zip(*columns, strict=True)]


def _export_default(folder: str) -> tuple[list[str], str]:
    """Exports the default zoo model in every mode to a folder.

    Args:
        folder: The folder.

    Returns:
        The files, the explicit one first, and the data set that the model was trained on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.WARNING)
    from dbf_keras import export, zoo  # TensorFlow: needed only here

    model = zoo.load_zoo()
    paths = []
    for quantize, suffix in ((None, ""), ("weights", "_int8_weights")):
        for mode in ("explicit", "onthefly", "folded"):
            paths.append(os.path.join(folder, f"{mode}{suffix}.tflite"))
            with open(paths[-1], "wb") as file:
                file.write(export.to_tflite(model, mode=mode, quantize=quantize))
    return paths, zoo.entry()["dataset"]


def _load_images(dataset: str, height: int) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """Returns test images, uint8 [N, H, W, C], and labels, int [N]; those of a folder are scaled to `height` pixels."""
    from dbf_keras import data

    loaded = data.load(dataset, FLAGS.data_dir, int(height))
    return loaded.x_test, loaded.y_test


def _check_models(paths: Sequence[str]) -> None:
    """Raises an error if a file is missing or no TFLite model."""
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no model file at {path!r}. Export one: python -m dbf_keras.export")
        with open(path, "rb") as file:
            if file.read(8)[4:] != b"TFL3":
                raise ValueError(f"{path!r} is not a TFLite model. Export one: python -m dbf_keras.export")


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


if __name__ == "__main__":
    main.takes_arguments = True
    command.run(main)
