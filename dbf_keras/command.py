"""What the command lines share: flags, short errors, quiet libraries, files that are written whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO


def run(
    main: Callable[[list[str]], int | None],
    module: str | None = None,
    arguments: Sequence[str] | None = None,
    takes_arguments: bool = False,
) -> None:
    """Runs ``main`` under absl, and ends the process.

    What the user can mend (ValueError, OSError) is one line on stderr, and the exit status 2.

    Args:
        main: takes what of the command line is no flag, the program's name first.
        module: the module that defines the flags, and whose docstring --help prints; by default the main module.
        arguments: the command line without the program's name; by default this process's.
        takes_arguments: whether ``main`` takes more than the program's name.
    """
    from absl import app, flags, logging

    logging.set_verbosity(logging.ERROR)  # Libraries warn of what users cannot change, such as fonts.

    def parse(argv: list[str]) -> list[str]:
        if module is not None and {"--help", "-h", "-help", "--helpshort"}.intersection(argv):
            print(f"{sys.modules[module].__doc__}\nflags:{flags.FLAGS.module_help(module)}")
            sys.exit(0)
        try:
            remaining: list[str] = flags.FLAGS(argv)
            return remaining
        except flags.Error as error:
            sys.exit(f"error: {error}; see --help")

    def guarded(arguments: list[str]) -> int | None:
        if len(arguments) > 1 and not takes_arguments:
            sys.exit(f"error: unexpected argument {arguments[1]!r}; see --help")
        try:
            with quiet_libraries():
                return main(arguments)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    argv = sys.argv if arguments is None else [sys.argv[0], *arguments]
    app.run(guarded, argv=argv, flags_parser=parse)


class Parser(argparse.ArgumentParser):
    """Raises its errors, for a line of their own. For commands of boards, which have no absl."""

    def error(self, message: str) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(f"{message}; see --help")


def at_least(kind: type, least: float) -> Callable[[str], Any]:
    """A reader of numbers that are not smaller, for a `Parser`."""

    def read(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    read.__name__ = kind.__name__  # what argparse calls the type in its errors
    return read


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Holds back what native code, TensorFlow above all, writes to stderr past Python's ``sys.stderr``.

    It is shown if the block ends in an error that a user cannot mend. Where TF_CPP_MIN_LOG_LEVEL is set, nothing is
    held back.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or not _writes_to(sys.stderr, 2):
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    python_stderr = sys.stderr
    with tempfile.TemporaryFile() as held, os.fdopen(os.dup(2), "w", buffering=1) as shown:
        os.dup2(held.fileno(), 2)
        sys.stderr = shown
        try:
            yield
        except (ValueError, OSError, ImportError, RuntimeError):
            raise
        except Exception:
            held.seek(0)
            shown.write(held.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr = python_stderr
            shown.flush()
            os.dup2(shown.fileno(), 2)
            del os.environ["TF_CPP_MIN_LOG_LEVEL"]


def _writes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, AttributeError, ValueError):
        return False


# (height, width) of images where a model leaves them open and nobody says which.
OPEN_SIZE = (224, 224)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of the flag --input_size, ``224`` or ``224x160``; None if it is not given.

    Raises:
        ValueError: it is something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text.strip().lower())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not height or not width:
        raise ValueError(f"--input_size takes a side or HEIGHTxWIDTH in pixels, as in 224 or 224x160; got {text!r}.")
    return height, width


def parse_normalization(
    mean: Sequence[str] | None, std: Sequence[str] | None
) -> tuple[list[float], list[float]] | None:
    """What the flags --mean and --std say; None if neither is given.

    Raises:
        ValueError: they are no finite numbers, or those of --std are not over 0.
    """
    if mean is None and std is None:
        return None
    wanted = "--mean and --std take numbers, by channel or one"
    try:
        means, deviations = [float(text) for text in mean or ["0"]], [float(text) for text in std or ["1"]]
    except ValueError as error:
        raise ValueError(f"{wanted}: {error}.") from None
    for value in (*means, *deviations):
        if not math.isfinite(value):
            raise ValueError(f"{wanted}; got {value:g}.")
    if min(deviations) <= 0:
        raise ValueError(f"{wanted}, those of --std over 0; got {min(deviations):g}.")
    return means, deviations


def read_lines(path: str) -> list[str]:
    """The lines of the text file of the flag --labels.

    Raises:
        ValueError: it is no UTF-8 text.
    """
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"--labels: {path} is no UTF-8 text: {error}.") from None


def check_writable(output: pathlib.Path, suffix: str) -> None:
    """Checks the path of the flag --output before any work is done for it.

    Raises:
        ValueError: it has another suffix.
        OSError: it is a folder, or in none that can be written to.
    """
    if output.is_dir():
        raise IsADirectoryError(f"--output names the file to write; {str(output)!r} is a folder.")
    if output.suffix != suffix:
        raise ValueError(f"--output must end in {suffix}; got {str(output)!r}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(output.parent)!r} to write {output.name!r} into.")
    if not os.access(output.parent, os.W_OK):
        raise PermissionError(f"The folder {str(output.parent)!r} is not writable; choose another --output.")


def size_text(size: Sequence[int | None]) -> str:
    """A (height, width) for people."""
    return "×".join("?" if pixels is None else str(pixels) for pixels in size)


def write_atomically(path: str | os.PathLike, write: Callable[[pathlib.Path], object]) -> None:
    """Calls ``write(temporary)`` for a file beside ``path`` with the same suffixes, then renames it to ``path``."""
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = pathlib.Path(folder) / path.name
        write(temporary)
        os.replace(temporary, path)
