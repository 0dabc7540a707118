"""The command line of sweeps, described in `dbf_keras.sweep`."""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from dbf_keras import command, sweep


def define_flags() -> None:
    """Defines the flags of the command line."""
    flags.DEFINE_string("output_dir", None, "Where results, models, table and plot are written.", required=True)
    flags.DEFINE_string("data_dir", None, "Where the data sets are, for runs that do not say.")


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
        raise ValueError(f"Give one file of runs: python -m dbf_keras.sweep runs.yaml; got {arguments[1:]}.")
    output_dir = flags.FLAGS.output_dir
    runs, plot_options = sweep.read(arguments[1])
    errors = sweep.sweep(runs, plot_options, output_dir, flags.FLAGS.data_dir)
    table = pathlib.Path(output_dir) / "results.md"
    if table.exists():
        print(table.read_text(), end="", flush=True)
    if errors:  # Why, is told where it happened.
        print(f"{len(errors)} of {len(runs)} runs failed: {', '.join(errors)}", file=sys.stderr)
    return 1 if errors else 0


main.takes_arguments = True

if __name__ == "__main__":
    define_flags()
    command.run(main)
