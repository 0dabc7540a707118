"""Memory: what the DBF ops of a model hold, and the peak of a model, measured in a process of its own.

`python -m dbf_keras.benchmark.memory model.tflite litert 1 224 224` is that process; it prints bytes, or why there are
none.
"""

import resource
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

from dbf_keras import runtime as runtime_lib
from dbf_keras.benchmark.timing import prepare
from dbf_keras.command import OPEN_SIZE

_INFERENCES = 3
_Made = TypeVar("_Made")


def count_op_memory(make: Callable[[], _Made]) -> tuple[_Made, runtime_lib.OpMemory]:
    """Makes something that allocates the tensors of interpreters.

    Args:
        make: Makes it.

    Returns:
        It, and the memory that its DBF ops hold from then on.
    """
    before = runtime_lib.op_memory()
    made = make()
    after = runtime_lib.op_memory()
    return made, runtime_lib.OpMemory(after.packed - before.packed, after.scratch - before.scratch)


def peak_memory(
    path: str,
    runtime: str | None = None,
    num_threads: int = 1,
    repeats: int = 3,
    size: tuple[int, int] = OPEN_SIZE,
) -> int:
    """Measures by how much loading and running a model raises a process's peak resident memory.

    The process has loaded numpy, the runtime and the op's library before. What the runtime itself sets up for its first
    model is included: about 4 MB, the same for every model.

    Args:
        path: Path of a .tflite file.
        runtime: As for `dbf_keras.runtime.Interpreter`.
        num_threads: As for `dbf_keras.runtime.Interpreter`.
        repeats: Processes to start; the median counts.
        size: As for `dbf_keras.benchmark.prepare`.

    Returns:
        Bytes.

    Raises:
        RuntimeError: If the model cannot be loaded or run, with the reason; a model that kills its process counts too.
    """
    numbers = map(str, (num_threads, *size))
    command = [sys.executable, "-m", __name__, path, runtime_lib.resolve_runtime(runtime), *numbers]
    measured = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]
            if done.returncode < 0:
                reason = f"the process was killed by {signal.Signals(-done.returncode).name}"
            raise RuntimeError(f"{path!r} cannot be loaded and run: {reason}")
        measured.append(int(done.stdout.split()[-1]))
    return int(statistics.median(measured))


def _measure(path: str, runtime: str, num_threads: int, height: int, width: int) -> int:
    """Does `peak_memory` in this very process."""
    runtime_lib.import_runtime(runtime)
    if runtime_lib.library_path():
        runtime_lib.load_delegate(runtime)
    before = _restart_peak()
    invoke = prepare(runtime_lib.Interpreter(path, num_threads=num_threads, runtime=runtime), size=(height, width))
    for _ in range(_INFERENCES):
        invoke()
    return _peak() - before


def _restart_peak() -> int:
    """Sets the peak back to what is resident now, where the system can, and returns it in bytes."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:  # not Linux, or not allowed: the peak so far is the start
        pass
    return _peak()


def _peak() -> int:
    """Returns the peak resident memory in bytes."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    try:
        print(_measure(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
    except Exception as error:  # noqa: BLE001 - the other process tells, whatever it is
        print(error or type(error).__name__)
        sys.exit(1)
