"""Compare .tflite files: file size, peak memory, latency, and accuracy on a data set.

    python -m dbf_keras.benchmark explicit.tflite onthefly.tflite --dataset=cifar10 --html=result.html

Speed-ups are against the first file. With no file it compares all exports of the default zoo model.
"""

import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dbf_keras import runtime as runtime_lib
from dbf_keras.benchmark.accuracy import accuracy
from dbf_keras.benchmark.memory import peak_memory
from dbf_keras.benchmark.page import to_html
from dbf_keras.benchmark.report import Result, describe_machine, to_json, to_rows, write_atomically
from dbf_keras.benchmark.timing import prepare, time_interleaved

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "Data set to measure accuracy on: digits, mnist, cifar10, or a folder of images.")
flags.DEFINE_string("data_dir", None, "Folder of the data sets (default: the environment's DBF_DATA_DIR).")
flags.DEFINE_integer("num_threads", 1, "Threads of each interpreter.", lower_bound=1)
flags.DEFINE_enum("runtime", None, list(runtime_lib.RUNTIMES), "TFLite runtime (default: the first installed).")
flags.DEFINE_integer("runs", 1000, "Most timed runs per file.", lower_bound=1)
flags.DEFINE_float("seconds", 3.0, "Time to spend on timing per file.", lower_bound=0.0)
flags.DEFINE_string("json", None, "File to write the results to as JSON.")
flags.DEFINE_string("html", None, "File to write the results to as a web page.")


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run(argv[1:], folder)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logging.debug("Where the error came from:", exc_info=True)  # shown with --verbosity=1
        sys.exit(f"error: {error}")


def _run(paths: Sequence[str], folder: str) -> None:
    _check_outputs(FLAGS.json, FLAGS.html)
    runtime = runtime_lib.resolve_runtime(FLAGS.runtime)
    dataset = FLAGS.dataset
    if not paths:
        paths, dataset = _export_default(folder), dataset or "digits"
    _check_models(paths)
    images = _load_images(dataset, FLAGS.data_dir) if dataset else None
    results = _measure(paths, runtime, images)
    settings = {**describe_machine(runtime), "num_threads": FLAGS.num_threads, "dataset": dataset}
    if FLAGS.json:
        write_atomically(FLAGS.json, to_json(results, settings))
    if FLAGS.html:
        write_atomically(FLAGS.html, to_html(results, settings))
    heading, *rows = to_rows(results)
    grid = Table(heading[0], title=f"{settings['runtime']}, threads: {FLAGS.num_threads}")
    for title in heading[1:]:
        grid.add_column(title, justify="right")
    for row in rows:
        grid.add_row(*row)
    Console().print(grid)


def _measure(paths: Sequence[str], runtime: str, images: tuple[np.ndarray, np.ndarray] | None) -> list[Result]:
    """Measures files; `images` are uint8 [N, H, W, C] and labels [N], or None for no accuracy."""
    interpreters = [runtime_lib.Interpreter(path, num_threads=FLAGS.num_threads, runtime=runtime) for path in paths]
    calls = [prepare(interpreter) for interpreter in interpreters]
    with _progress("latency") as tick:
        times = time_interleaved(calls, FLAGS.seconds, FLAGS.runs, tick)
    results = []
    for name, path, interpreter, row in zip(_name(paths), paths, interpreters, times, strict=True):
        share = None
        if images is not None:
            with _progress(f"accuracy of {name}") as tick:
                share = accuracy(interpreter, *images, tick)
        memory = peak_memory(path, runtime, FLAGS.num_threads)
        results.append(Result(name, path, os.path.getsize(path), memory, row, share))
    return results


def _export_default(folder: str) -> list[str]:
    """Exports the default zoo model in every mode to a folder and returns the files, the explicit one first."""
    from dbf_keras import export, zoo  # TensorFlow: needed only here

    model = zoo.load_zoo()
    paths = []
    for quantize, suffix in ((None, ""), ("weights", "_int8_weights")):
        for mode in ("explicit", "onthefly", "folded"):
            paths.append(os.path.join(folder, f"{mode}{suffix}.tflite"))
            with open(paths[-1], "wb") as file:
                file.write(export.to_tflite(model, mode=mode, quantize=quantize))
    return paths


def _load_images(dataset: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the test images, uint8 [N, H, W, C], and labels, int [N], of a data set."""
    from dbf_keras import data

    _, _, images, labels = data.load(dataset, data_dir)
    return images, labels


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


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[float], None]]:
    """Shows a progress bar, drawn only when it is told of progress so that it never runs beside what is timed."""
    with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as bars:
        task = bars.add_task(title, total=1.0)
        yield lambda done: bars.update(task, completed=done, refresh=True)


if __name__ == "__main__":
    app.run(main)
