"""What a benchmark found, where, and how to write it down: as a table or JSON, which is read back too.

The phone app of android_demo/ writes the same JSON.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from dbf_keras.runtime import RUNTIMES, OpMemory

# What the headings of `to_rows` mean that do not say it themselves.
CAPTION = (
    "Peak: by how much loading and running the model raised the process's peak memory. Part of it, held by the DBF "
    "ops: packed, their coefficients in the order in which they read them; scratch, their working memory."
)
_DETAILS = ("p90 ms", "p99 ms", "load ms", "first ms", "packed kB", "scratch kB")


@dataclasses.dataclass
class Result:
    """What was measured of one file.

    Attributes:
        name: What to call it.
        path: Path of the file.
        size: Bytes of the file.
        peak_memory: Bytes by which loading and running it raises peak resident memory.
        op_memory: Memory that its DBF ops hold.
        times: Seconds of each repetition, a timed inference; float [repetitions].
        accuracy: Share of test images classified correctly, or None if no data set was given.
        load: Seconds until its tensors were allocated, or None if that is not known.
        first: Seconds of the first inference, or None if that is not known.
        check: For a model that came with expected outputs, else None: the largest `difference` as a share of the
            largest output, the `tolerance`, and whether it `passed`.
    """

    name: str
    path: str
    size: int
    peak_memory: int
    op_memory: OpMemory
    times: np.ndarray
    accuracy: float | None = None
    load: float | None = None
    first: float | None = None
    check: dict[str, Any] | None = None

    @property
    def median(self) -> float:
        """Median latency in seconds."""
        return float(np.median(self.times))

    @property
    def p90(self) -> float:
        """The latency that nine repetitions of ten stay within, in seconds."""
        return self.percentile(90)

    def percentile(self, percent: float) -> float:
        """The latency that `percent` % of the repetitions stay within, in seconds."""
        return float(np.percentile(self.times, percent))


@dataclasses.dataclass
class Report:
    """The results of one benchmark.

    Attributes:
        settings: How they were measured, by name; values that JSON has.
        results: The results; speed-ups are against the first.
        failures: Models that did not run, with the reason.
    """

    settings: dict[str, Any]
    results: list[Result]
    failures: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def machine(self) -> str:
        """A short name of the machine."""
        return str(self.settings.get("device") or self.settings.get("cpu") or "unknown machine")


def to_rows(results: Sequence[Result]) -> list[list[str]]:
    """Returns the results as a table of text, its heading first; speed-ups are against the first model.

    What decides between models comes first; `CAPTION` explains the rest. Columns that are empty for every model are
    left out.
    """
    columns = {
        "model": lambda r: r.name,
        "accuracy": lambda r: "" if r.accuracy is None else f"{r.accuracy:.2%}",
        "output": lambda r: "" if r.check is None else "as expected" if r.check["passed"] else "WRONG",
        "speed-up": lambda r: f"{results[0].median / r.median:.2f}×",
        "median ms": lambda r: _milliseconds(r.median),
        "file kB": lambda r: f"{r.size / 1e3:,.1f}",
        "peak MB": lambda r: f"{r.peak_memory / 1e6:.2f}",
        "p90 ms": lambda r: _milliseconds(r.p90),
        "p99 ms": lambda r: _milliseconds(r.percentile(99)),
        "load ms": lambda r: _milliseconds(r.load),
        "first ms": lambda r: _milliseconds(r.first),
        "packed kB": lambda r: f"{r.op_memory.packed / 1e3:,.1f}",
        "scratch kB": lambda r: f"{r.op_memory.scratch / 1e3:,.1f}",
    }
    cells = [[heading, *map(column, results)] for heading, column in columns.items()]
    return [list(row) for row in zip(*(column for column in cells if any(column[1:])), strict=True)]


def split_details(rows: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Splits the table of `to_rows` into what decides and the details, each with the models' names."""
    details = [number for number, heading in enumerate(rows[0]) if heading in _DETAILS]
    others = [number for number in range(len(rows[0])) if number not in details]
    return [[row[number] for number in others] for row in rows], [
        [row[0], *(row[number] for number in details)] for row in rows
    ]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3f}"


def print_table(title: str, rows: Sequence[Sequence[str]], texts: int = 1, caption: str = "") -> None:
    """Prints a table to stdout, as wide as it needs to be; without the package rich, as on a board, in plain text.

    Args:
        title: What stands above it.
        rows: The rows, the heading first.
        texts: How many of the columns hold text; those after them hold numbers.
        caption: What stands below it.
    """
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print("\n".join([title, *_plain_lines(rows, texts), *filter(None, [caption])]))
        return
    # Text, unlike a string, is printed as it is: a model may be called "[/red]".
    grid = Table(title=Text(title), caption=Text(caption) if caption else None, caption_justify="left")
    for number, heading in enumerate(rows[0]):
        grid.add_column(Text(heading), justify="left" if number < texts else "right")
    for row in rows[1:]:
        grid.add_row(*map(Text, row))
    width = Console(width=1000).measure(grid).maximum
    Console(width=max(100, width)).print(grid)


def _plain_lines(rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Returns the lines of a table as plain text, its columns aligned."""
    rows = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < texts else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def to_json(report: Report) -> str:
    """Returns a report as JSON; sizes in bytes, times in milliseconds."""
    models = [
        {
            "name": result.name,
            "path": result.path,
            "file_bytes": result.size,
            "peak_memory_bytes": result.peak_memory,
            "op_packed_bytes": result.op_memory.packed,
            "op_scratch_bytes": result.op_memory.scratch,
            "load_ms": None if result.load is None else result.load * 1e3,
            "first_ms": None if result.first is None else result.first * 1e3,
            "median_ms": result.median * 1e3,
            "p90_ms": result.p90 * 1e3,
            "p99_ms": result.percentile(99) * 1e3,
            "runs": len(result.times),
            "speedup": report.results[0].median / result.median,
            "accuracy": result.accuracy,
            "check": result.check,
            "times_ms": np.round(result.times * 1e3, 6).tolist(),  # clocks count nanoseconds
        }
        for result in report.results
    ]
    return json.dumps({"settings": report.settings, "models": models, "failures": report.failures}, indent=2) + "\n"


def from_json(text: str) -> Report:
    """Reads what `to_json`, or the phone app, wrote.

    Raises:
        ValueError: If the text is something else.
    """
    try:
        read = json.loads(text)
        results = [
            Result(
                name=str(model["name"]),
                path=str(model["path"]),
                size=int(model["file_bytes"]),
                peak_memory=int(model["peak_memory_bytes"]),
                op_memory=OpMemory(int(model["op_packed_bytes"]), int(model["op_scratch_bytes"])),
                times=np.array(model["times_ms"], float) / 1e3,
                accuracy=model["accuracy"],
                load=None if model["load_ms"] is None else model["load_ms"] / 1e3,
                first=None if model["first_ms"] is None else model["first_ms"] / 1e3,
                check=model["check"],
            )
            for model in read["models"]
        ]
        report = Report(dict(read["settings"]), results, dict(read["failures"]))
    except KeyError as error:
        raise ValueError(f"not a result of the benchmark: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a result of the benchmark: {error}") from error
    if not results or any(result.times.ndim != 1 or not result.times.size for result in results):
        raise ValueError("not a result of the benchmark: it has no repetitions")
    return report


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
