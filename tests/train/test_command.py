import json
import os
import pathlib
import subprocess
import sys

# Each command line in a fork of one process, to import Keras once.
_COMMAND_LINES = """
import json, os, sys
from dbf_keras import command, data
from dbf_keras.train import command as train
train.define_flags()
data.load("digits")  # Imports scikit-learn, once, too.
for number, arguments in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if not child:
        os.dup2(os.open(f"{number}.log", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv[1:] = arguments
        command.run(train.main)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_the_command_line_says_what_is_wrong(tmp_path):
    data_dir = ["--dataset", "mnist", "--data_dir", "/nowhere"]
    messages = {
        ("--output", "x.h5"): "must end in .keras",
        ("--output", "x.keras", "--ratio", "2"): "0 < ratio <= 1",
        (
            "--output",
            "x.keras",
            "--selection",
            "energy:gone.keras",
        ): "energy:…: there is no file 'gone.keras'",
        ("--output", "x.keras", *data_dir): "/nowhere/mnist.npz does not exist",
        ("--output", "x.keras", "--start", "gone.keras"): "--start: there is no file 'gone.keras'",
        ("--output", "x.keras", "--epochs", "0"): "--epochs",
        ("--output", "x.keras", "--crop", "0"): "--crop is a share",
        ("--output", "x.keras", "--batch_size", "5000"): "A batch of 5000 is more than the 1437",
        ("--output", "x.keras", "--teacher", "gone.keras"): "--teacher: there is no file 'gone.keras'",
        ("--output", "x.keras", "--processes", "2"): "--processes needs --coordinator",
        ("--output", "x.keras", "--coordinator", "host"): "set KERAS_BACKEND=jax",
        ("--output", "x.keras", "extra"): "extra",
        ("--output", "x.keras", "--network", "resnet"): "Unknown network 'resnet'",
        ("--output", "x.keras", "--epochs", "many"): "--epochs",
    }
    script = [sys.executable, "-c", _COMMAND_LINES, json.dumps(list(messages))]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2]), "KERAS_BACKEND": "tensorflow"}
    result = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, env=environment)
    statuses = result.stdout.split()
    assert len(statuses) == len(messages), result.stderr
    for number, (arguments, message) in enumerate(messages.items()):
        log = (tmp_path / f"{number}.log").read_text()
        assert statuses[number] != "0" and message in log and "Traceback" not in log, arguments
    assert all(path.suffix == ".log" for path in tmp_path.iterdir())
