"""The command ``dbf``, also ``python -m dbf_keras``: trains, exports, measures and uses models with binary filters.

    dbf train --dataset=digits --ratio=0.25 --output=model.keras
    dbf compress model.keras --dataset=digits --max_kb=20 --output=small.tflite
    dbf export --model=model.keras --mode=onthefly --quantize=weights
    dbf benchmark model_onthefly_int8_weights.tflite
    dbf predict model_onthefly_int8_weights.tflite picture.png

``dbf COMMAND --help`` tells the flags of a command.
"""

import importlib
import sys
from collections.abc import Sequence

from dbf_keras import command
from dbf_keras.version import __version__

# Each has its module `dbf_keras.COMMAND.command`, with a function `run`.
_COMMANDS = {
    "train": "trains a network; goes on where it was killed",
    "compress": "makes a trained Keras network smaller and faster, within a budget",
    "export": "writes a model as a .tflite file and checks it against Keras",
    "benchmark": "compares .tflite files by bytes, memory, latency and accuracy",
    "predict": "says what is in pictures, by a .tflite or .keras file",
    "sweep": "trains a list or grid of runs, makes one table and plot of them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: its name and its arguments; by default this process's.

    Returns:
        The exit status of what is no command; a command ends the process itself.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in _COMMANDS:
        with command.quiet_libraries():
            importlib.import_module(f"dbf_keras.{name}.command").run(rest)
    elif name == "--version":
        print(f"dbf {__version__}")
    elif name in ("--help", "-h", "help"):
        print(_help())
    else:
        print(f"error: {name!r} is no command of dbf.\n\n{_help()}" if name else _help(), file=sys.stderr)
        return 2
    return 0


def _help() -> str:
    lines = [f"  {name:<10} {what}" for name, what in _COMMANDS.items()]
    return f"{__doc__}\ncommands:\n" + "\n".join(lines) + "\n  --version  the version"


if __name__ == "__main__":
    sys.exit(main())
