"""Latency, the sides taken in turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import default_rng  # loads what numpy would load late, which memory.py must not count

from dbf_keras.command import OPEN_SIZE, size_text
from dbf_keras.runtime import Interpreter

_BURST = 3  # repetitions of a side in a row, after one untimed inference that brings its weights back into the caches
_MIN_ROUNDS = 4


def open_axes(detail: Mapping[str, Any]) -> list[int]:
    """Returns the axes of an input, besides the batch, whose length a file leaves open.

    Args:
        detail: The input's entry of `get_input_details()`.
    """
    return [axis for axis, length in enumerate(detail.get("shape_signature", ())) if axis and length < 0]


def prepare(interpreter: Interpreter, seed: int = 0, size: tuple[int, int] = OPEN_SIZE) -> Callable[[], None]:
    """Makes an interpreter ready to be timed.

    Args:
        interpreter: An interpreter, allocated or not.
        seed: Seed of the random pixels its inputs are filled with: 0 to 255 in float inputs, the type's whole range in
            integer ones.
        size: Height and width of the inputs where the file leaves them open.

    Returns:
        The call that computes one inference.

    Raises:
        RuntimeError: If the model cannot be prepared, for this size or at all.
        ValueError: If it leaves other axes open.
    """
    is_open = False
    for detail in interpreter.get_input_details():
        shape = detail["shape"].tolist()
        for axis in open_axes(detail):
            if axis > len(size):
                raise ValueError(f"its input {detail['name']!r} leaves axis {axis} open, which is no height or width")
            shape[axis], is_open = size[axis - 1], True
        if is_open:
            interpreter.resize_tensor_input(detail["index"], shape)
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        if not is_open:
            raise
        advice = f"Its size is open, and was set to {size_text(size)}; --input_size gives another."
        raise RuntimeError(f"{error} {advice}") from error
    rng = default_rng(seed)
    for detail in interpreter.get_input_details():
        dtype = np.dtype(detail["dtype"])
        drawn = dtype if np.issubdtype(dtype, np.integer) else np.dtype(np.uint8)
        limits = np.iinfo(drawn)
        values = rng.integers(limits.min, limits.max, detail["shape"], drawn, endpoint=True)
        interpreter.set_tensor(detail["index"], values.astype(dtype))
    return interpreter.invoke


def time_interleaved(
    sides: Sequence[Callable[[], object]],
    seconds: float = 3.0,
    repetitions: int = 5000,
    tick: Callable[[float], None] = lambda done: None,
) -> list[np.ndarray]:
    """Times several calls in one process, a few repetitions of each in turn, so that noise meets all alike.

    Args:
        sides: The calls to time.
        seconds: Time to spend per side, of all repetitions together.
        repetitions: Repetitions per side at which to stop earlier. At least a few are made, however long they take.
        tick: Called between rounds with the share done, from 0 to 1.

    Returns:
        For each side the time of every repetition, in seconds. All sides have equally many.
    """
    times: list[list[float]] = [[] for _ in sides]
    started = time.monotonic()
    rounds = max(1, -(-repetitions // _BURST))
    for number in range(1, rounds + 1):
        for side, row in zip(sides, times, strict=True):
            side()
            for _ in range(min(_BURST, repetitions - len(row))):
                before = time.perf_counter_ns()
                side()
                row.append((time.perf_counter_ns() - before) * 1e-9)
        spent = (time.monotonic() - started) / max(seconds * len(sides), 1e-9)
        tick(min(1.0, max(spent, number / rounds)))
        if spent >= 1 and number >= _MIN_ROUNDS:
            break
    return [np.array(row) for row in times]
