"""What the command lines share: short errors, and files that are written whole or not at all."""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
from collections.abc import Callable


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs ``main`` under absl; what the user can mend (ValueError, OSError) is one line on stderr, status 2."""
    from absl import app  # Here, for a board has no absl and writes files all the same.

    def guarded(arguments):
        if len(arguments) > 1 and not getattr(main, "takes_arguments", False):
            sys.exit(f"error: unexpected argument {arguments[1]!r}; see --help")
        try:
            return main(arguments)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    app.run(guarded)


def write_atomically(path: str | os.PathLike, write: Callable[[pathlib.Path], object]) -> None:
    """Calls ``write(temporary)`` for a file beside ``path`` with the same suffixes, then renames it to ``path``."""
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = pathlib.Path(folder) / path.name
        write(temporary)
        os.replace(temporary, path)
