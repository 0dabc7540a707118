"""Speed of files on several threads, where there are as many free processors, or fewer.

    python benchmarks/threads.py                       # the processors as they are
    python benchmarks/threads.py --cpus=1              # one processor for all threads
    python benchmarks/threads.py --cpus=1 --busy=1     # which another process wants too
    python benchmarks/threads.py --libraries=old.so    # beside the package's op, other builds of it

A file is a stack of equal layers, each computed in a few dozen microseconds, so that what it costs to share a layer
between threads shows. All files, builds and numbers of threads are timed in turn in one process.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

import common
from common import FLAGS, Case, Shape, Side
from dbf_keras import command
from dbf_keras.benchmark import prepare, time_interleaved
from dbf_keras.benchmark.report import print_table
from dbf_keras.runtime import import_runtime, library_path, resolve_runtime

if TYPE_CHECKING:  # TensorFlow comes late and quiet
    import keras

flags.DEFINE_list("shapes", ["3x3x64-64@16"], "Layers as in layers.py, of as many channels as filters.")
flags.DEFINE_integer("layers", 20, "Layers of a file.", lower_bound=1)
flags.DEFINE_integer("cpus", None, "Processors that this process may use (default: all that it has).", lower_bound=1)
flags.DEFINE_integer("busy", 0, "Processes that do nothing but keep these processors busy.", lower_bound=0)
flags.DEFINE_list("libraries", [], "Other builds of the op's library, to compare with the package's.")
FLAGS.set_default("ratios", ["0.5"])
FLAGS.set_default("modes", ["onthefly"])
FLAGS.set_default("num_threads", ["1", "2", "4"])


class Timed(NamedTuple):
    """What is timed: a file, the build of the op that runs it, and threads."""

    case: Case
    side: Side
    library: str
    threads: int

    @property
    def alone(self) -> "Timed":
        """The same on one thread."""
        return self._replace(threads=1)


def stack(shape: Shape, selection: str, ratio: float) -> "keras.Model":
    """Builds a model of `--layers` layers with random weights, each followed by a ReLU."""
    from dbf_keras.backend import keras
    from dbf_keras.layers import DBFConv2D

    model = keras.Sequential([keras.Input((shape.size, shape.size, shape.channels))])
    for _ in range(FLAGS.layers):
        window = (shape.height, shape.width)
        model.add(DBFConv2D(shape.filters, window, padding="same", ratio=ratio, selection=selection, activation="relu"))
    return model


def load(file: bytes, library: str, threads: int) -> Callable[[], None]:
    """Loads a file with a build of the op and returns the call that runs one inference."""
    runtime = import_runtime(resolve_runtime(FLAGS.runtime))
    delegate = runtime.load_delegate(library, {"isa": FLAGS.isa} if FLAGS.isa else {})
    interpreter: Any = runtime.Interpreter(model_content=file, num_threads=threads, experimental_delegates=[delegate])
    return prepare(interpreter)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keeps the processors of this process busy with so many others."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    del argv  # flags only
    settings = common.start()
    own = library_path()
    if own is None:
        raise FileNotFoundError("The op's C library is not built: pip install .")
    export = common.exporter(stack)
    files = {case: export(case) for case in common.cases([Shape.parse(shape) for shape in FLAGS.shapes])}
    if FLAGS.cpus:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: FLAGS.cpus])
    calls = {
        Timed(case._replace(threads=0), side, library, case.threads): load(file, library, case.threads)
        for case, sides in files.items()
        for side, file in sides.items()
        for library in ([own] if side == side.explicit else [own, *FLAGS.libraries])
    }
    with busy(FLAGS.busy):
        times = time_interleaved(list(calls.values()), FLAGS.seconds)
    medians = {timed: 1e3 * float(np.median(row)) for timed, row in zip(calls, times, strict=True)}
    heading = ["layer", "codes", "ρ", "file", "library", "threads", "ms", "× of one thread"]
    rows = [
        [
            str(timed.case.subject),
            timed.case.selection,
            f"{timed.case.ratio:g}",
            str(timed.side),
            "" if timed.library == own else os.path.basename(timed.library),
            str(timed.threads),
            f"{median:.3f}",
            f"{median / medians[timed.alone]:.2f}" if timed.alone in medians else "",
        ]
        for timed, median in medians.items()
    ]
    allowed = len(os.sched_getaffinity(0))
    print_table(
        f"{settings['runtime']}, processors: {allowed}, busy processes: {FLAGS.busy}", [heading, *rows], texts=5
    )


if __name__ == "__main__":
    command.run(main)
