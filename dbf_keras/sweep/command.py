"""``dbf sweep``: trains a list or grid of runs, makes one table and plot of them; see `dbf_keras.sweep`.

dbf sweep runs.yaml --output_dir=runs --data_dir=data
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from dbf_keras import command
from dbf_keras.sweep.execution import sweep
from dbf_keras.sweep.runs import read


def define_flags() -> None:
    """Defines the flags of the command line."""
    flags.DEFINE_string("output_dir", None, "Where results, models, table and plot are written.", required=True)
    flags.DEFINE_string("data_dir", None, "Where the data sets are, for runs that do not say.")


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command on these arguments, by default this process's."""
    define_flags()
    command.run(main, __name__, arguments, takes_arguments=True)


def main(arguments: list[str]) -> int:
    """Sweeps as the command line says.

    Args:
        arguments: the program's name, which counts for nothing, and the file of runs; flags are absl's.

    Returns:
        The exit status: 1 if a run failed.

    Raises:
        ValueError: no file of runs, more than one, or one that cannot be used.
    """
    if len(arguments) != 2:
        raise ValueError(f"Give one file of runs: dbf sweep runs.yaml; got {arguments[1:]}.")
    output_dir = flags.FLAGS.output_dir
    runs, plot_options = read(arguments[1])
    errors = sweep(runs, plot_options, output_dir, flags.FLAGS.data_dir)
    table = pathlib.Path(output_dir) / "results.md"
    if table.exists():
        print(table.read_text(), end="", flush=True)
    if errors:  # Why, is told where it happened.
        print(f"{len(errors)} of {len(runs)} runs failed: {', '.join(errors)}", file=sys.stderr)
    return 1 if errors else 0
