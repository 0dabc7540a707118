"""What a benchmark found, where, and how to write it down: as a table or JSON."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dbf_keras.runtime import RUNTIMES, OpMemory


@dataclasses.dataclass
class Result:
    """What was measured of one file.

    Attributes:
        name: What to call it.
        path: Path of the file.
        size: Bytes of the file.
        peak_memory: Bytes by which loading and running it raises peak resident memory.
        op_memory: Memory that its DBF ops hold.
        times: Seconds of each timed run, float [runs].
        accuracy: Share of test images classified correctly, or None if no data set was given.
    """

    name: str
    path: str
    size: int
    peak_memory: int
    op_memory: OpMemory
    times: np.ndarray
    accuracy: float | None = None

    @property
    def median(self) -> float:
        """Median latency in seconds."""
        return float(np.median(self.times))

    @property
    def p90(self) -> float:
        """The latency that nine runs of ten stay within, in seconds."""
        return float(np.percentile(self.times, 90))


def to_rows(results: Sequence[Result]) -> list[list[str]]:
    """Returns the results as a table of text, its heading first; speed-ups are against the first model.

    Peak is that of the process; packed coefficients and scratch are of the DBF ops and part of it.
    """
    rows = [["model", "file kB", "peak MB", "packed kB", "scratch kB", "median ms", "p90 ms", "speed-up", "accuracy"]]
    for result in results:
        rows.append(
            [
                result.name,
                f"{result.size / 1e3:,.1f}",
                f"{result.peak_memory / 1e6:.2f}",
                *(f"{size / 1e3:,.1f}" for size in result.op_memory),
                f"{result.median * 1e3:.3f}",
                f"{result.p90 * 1e3:.3f}",
                f"{results[0].median / result.median:.2f}×",
                "" if result.accuracy is None else f"{result.accuracy:.2%}",
            ]
        )
    return rows if results[0].accuracy is not None else [row[:-1] for row in rows]


def print_table(title: str, rows: Sequence[Sequence[str]], texts: int = 1) -> None:
    """Prints a table to stdout, as wide as it needs to be.

    Args:
        title: What stands above it.
        rows: The rows, the heading first.
        texts: How many of the columns hold text; those after them hold numbers.
    """
    grid = Table(*rows[0][:texts], title=title)
    for heading in rows[0][texts:]:
        grid.add_column(heading, justify="right")
    for row in rows[1:]:
        grid.add_row(*row)
    width = Console(width=1000).measure(grid).maximum
    Console(width=max(100, width)).print(grid)


def to_json(results: Sequence[Result], settings: dict[str, Any]) -> str:
    """Returns the results and how they were measured as JSON; sizes in bytes, times in milliseconds."""
    models = [
        {
            "name": result.name,
            "path": result.path,
            "file_bytes": result.size,
            "peak_memory_bytes": result.peak_memory,
            "op_packed_bytes": result.op_memory.packed,
            "op_scratch_bytes": result.op_memory.scratch,
            "median_ms": result.median * 1e3,
            "p90_ms": result.p90 * 1e3,
            "runs": len(result.times),
            "speedup": results[0].median / result.median,
            "accuracy": result.accuracy,
        }
        for result in results
    ]
    return json.dumps({"settings": settings, "models": models}, indent=2) + "\n"


def describe_machine(runtime: str) -> dict[str, Any]:
    """Describes where results come from.

    Args:
        runtime: The runtime's name, as in `dbf_keras.runtime.RUNTIMES`.

    Returns:
        The date, the runtime with its version, the processor and the system.
    """
    version = ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(RUNTIMES[runtime][1].split()[0])
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        cpu = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), cpu)
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"date": now, "runtime": f"{runtime} {version}".strip(), "cpu": cpu, "system": platform.platform()}
