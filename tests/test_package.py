"""What the package offers as a whole: its names, its command, and what each of its parts needs."""

import os
import pathlib
import subprocess
import sys

import pytest

import dbf_keras
from dbf_keras import __main__ as dbf
from dbf_keras.version import __version__

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=kept | environment, capture_output=True, text=True
    )


def test_dir_lists_the_public_names():
    assert dir(dbf_keras) == sorted(dbf_keras.__all__)
    assert {"DBFConv2D", "CodeSGD", "Interpreter", "__version__", "load_zoo"} <= set(dir(dbf_keras))
    assert all(getattr(dbf_keras, name) is not None for name in dir(dbf_keras))
    assert dbf_keras.__version__ == __version__
    with pytest.raises(AttributeError, match="'dbf_keras' has no attribute 'nothing'"):
        dbf_keras.nothing  # noqa: B018


def test_parts_of_the_layers_may_be_the_first_that_is_imported():
    """Keras is to know the layers as soon as it is imported, which need all of their parts."""
    names = sorted(path.stem for path in (ROOT / "dbf_keras" / "mixins").glob("[a-z]*.py"))
    done = run("-c", f"from dbf_keras.mixins import {', '.join(names)}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(arguments, capsys):
    assert dbf.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in ("train", "export", "benchmark", "sweep"))


def test_the_version_is_told(capsys):
    assert dbf.main(["--version"]) == 0
    assert capsys.readouterr().out == f"dbf {__version__}\n"


@pytest.mark.parametrize("arguments, told", [([], "commands:"), (["trian"], "'trian' is no command of dbf.")])
def test_what_is_no_command_is_an_error(arguments, told, capsys):
    assert dbf.main(arguments) == 2
    shown = capsys.readouterr()
    assert told in shown.err and not shown.out


@pytest.mark.parametrize("name", ["train", "export", "benchmark", "sweep"])
def test_a_command_has_both_names_and_a_help_of_its_own(name):
    short, long = (run("-m", *module, "--help") for module in (["dbf_keras", name], [f"dbf_keras.{name}"]))
    assert short.returncode == long.returncode == 0
    assert short.stdout == long.stdout and f"``dbf {name}``" in short.stdout
    assert not short.stderr


def test_an_export_prints_nothing_of_tensorflow(tmp_path):
    done = run("-m", "dbf_keras", "export", "--mode=explicit", f"--output={tmp_path / 'x.tflite'}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.rstrip().endswith(f"written to {tmp_path / 'x.tflite'}")


def test_a_fault_of_ours_shows_what_was_held_back():
    program = (
        "import os\nfrom dbf_keras import command\n"
        "with command.quiet_libraries():\n    os.write(2, b'native words')\n    raise {error}('told')"
    )
    assert "native words" in run("-c", program.format(error="AssertionError")).stderr
    mended = run("-c", program.format(error="ValueError")).stderr
    assert "native words" not in mended and "ValueError: told" in mended
    shown = run("-c", program.format(error="ValueError"), TF_CPP_MIN_LOG_LEVEL="0").stderr
    assert "native words" in shown
