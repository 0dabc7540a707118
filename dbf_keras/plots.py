"""Plots, where matplotlib is installed: the extra ``plots``."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from collections.abc import Callable

from dbf_keras import command


def write(path: pathlib.Path, draw: Callable[[pathlib.Path], object]) -> None:
    """Has a plot drawn to a file, whole or not at all; without matplotlib says on stderr that it is left out.

    Args:
        path: the path of the PNG.
        draw: draws to the path that it is given.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print(f"{path.name} is left out: plots need matplotlib (pip install matplotlib).", file=sys.stderr)
    else:
        command.write_atomically(path, draw)
