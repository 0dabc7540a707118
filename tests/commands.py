"""Command lines and functions, each in a fork of a process that has imported what they need: that takes seconds."""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

_IMPORTED = [
    "ai_edge_litert.interpreter",
    "dbf_keras.export",
    "dbf_keras.train.loop",
    "matplotlib.pyplot",
    "sklearn.datasets",
]


def fork(function, *arguments):
    """Calls a function of a test module in a process of its own.

    Args:
        function: one that can be pickled.
        arguments: likewise.

    Returns:
        The exit status; the negative number of the signal that has ended it, if one has.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def run(module, *arguments, folder, **environment):
    """Runs ``python -m MODULE ARGUMENT …`` and returns what `subprocess.run` does, outputs as text.

    Args:
        module: a module's name.
        arguments: strings or paths.
        folder: the working directory.
        environment: more variables; those that are read at imports have no effect.
    """
    command = [module, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as kept:
        paths = [os.path.join(kept, name) for name in ("stdout", "stderr")]
        status = fork(_run_module, command, folder, environment, paths)
        return subprocess.CompletedProcess(command, status, *(pathlib.Path(path).read_text() for path in paths))


def _run_module(command, folder, environment, paths):
    for stream, path in zip((1, 2), paths, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
