import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from dbf_keras.backend import keras
from dbf_keras.train import distributed

from .test_loop import KILLED

ROOT = pathlib.Path(__file__).parents[2]

# 50 steps of a network with BatchNorm and dropout on augmented images, read as they are needed; a test set on the
# device that does not divide evenly; files of one process only. The figures of each process go into its own folder.
_STEPS = """
import json, pathlib, sys
import numpy as np
from dbf_keras.train import augmentation, distributed, engine
folder, process, processes, coordinator = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4]
if processes > 1:
    distributed.join(coordinator, processes, process)
import tests.train.test_loop as t
from dbf_keras.train.recipes import Recipe
from dbf_keras.train.teacher import to_logits

t.keras.utils.set_random_seed(0)
augmentation = augmentation.Augmentation(shift=1, mirror=True)
trainer = engine.Engine(to_logits(t.tiny()), Recipe(1, 32).optimizer(50), 10, augmentation=augmentation)
digits = t.small_digits()
rng = np.random.default_rng(0)
order = rng.integers(640, size=(50, 1, 32), dtype=np.int32)
seeds = rng.integers(2**30, size=(50, 1, 2), dtype=np.int32)
source = engine.streamed(digits.x_train, digits.y_train)
figures = [trainer.train(source, *step) for step in zip(order, seeds)]
figures.append(trainer.evaluate(engine.resident(digits.x_test, digits.y_test), 360, batch_size=101))

folder.mkdir()
(folder / f"of_{process}").write_bytes(bytes(range(256)))
assert distributed.read(folder / "of_0") == bytes(range(256))
assert distributed.read(folder / "of_1") is None
(folder / "figures.json").write_text(json.dumps(figures))
"""

_KILLED_TRAINING = f"""{KILLED}
from dbf_keras import command
from dbf_keras.train import command as train
train.define_flags()
command.run(train.main)
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(arguments, cache):
    """One thread each, so that two processes on few cores do not wait for each other's; nothing is compiled twice."""
    environment = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "PYTHONPATH": str(ROOT)}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=os.environ | environment)


def stop(processes):
    for process in processes:
        process.kill()
        process.wait()


def test_two_processes_do_what_one_does_with_the_joint_batch(tmp_path):
    """Loss and accuracy at each of 50 steps, and after them on the test set."""
    coordinator = f"localhost:{free_port()}"
    runs = [(0, 1), (0, 2), (1, 2)]
    folders = [tmp_path / f"{process}_of_{processes}" for process, processes in runs]
    started = [
        start(["-c", _STEPS, str(folder), *map(str, run), coordinator], tmp_path / "cache")
        for folder, run in zip(folders, runs, strict=True)
    ]
    try:
        assert [process.wait(timeout=900) for process in started] == [0, 0, 0]
    finally:
        stop(started)
    one, first, second = (np.array(json.loads((folder / "figures.json").read_text())) for folder in folders)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first[:, 0], one[:, 0], atol=1e-3)
    np.testing.assert_allclose(first[:, 1], one[:, 1], atol=1 / 32 + 1e-6)  # A single image's doubtful answer.
    assert one[49, 0] < 0.8 * one[0, 0]


def command_line(output, process, coordinator):
    settings = ["--dataset", "digits", "--train_images", "640", "--option", "width=0.25", "--epochs", "3"]
    settings += [
        "--option",
        "plain=True",
        "--batch_size",
        "128",
        "--output",
        str(output),
        "--coordinator",
        coordinator,
        "--processes",
        "2",
    ]
    return ["-m", "dbf_keras.train", *settings, "--process", str(process)]


def test_a_job_that_lost_a_worker_goes_on_from_its_checkpoint(tmp_path):
    """The same commands again; only process 0 writes."""
    outputs = [tmp_path / "first" / "x.keras", tmp_path / "second" / "x.keras"]
    checkpoint, history = (outputs[0].with_suffix(suffix) for suffix in (".checkpoint.npz", ".history.json"))
    coordinator = f"localhost:{free_port()}"
    commands = [command_line(output, number, coordinator) for number, output in enumerate(outputs)]
    started = [start(commands[0], tmp_path / "cache")]
    started.append(start(["-c", _KILLED_TRAINING, *commands[1][2:]], tmp_path / "cache"))
    try:
        assert started[1].wait(timeout=900) == -signal.SIGKILL
    finally:
        stop(started)  # The others end, too, but only after minutes without a sign of life.
    assert checkpoint.exists() and not outputs[0].exists()
    rows = json.loads(history.read_text())["history"]
    assert len(rows) == 1
    started = [start(command, tmp_path / "cache") for command in commands]
    try:
        assert [process.wait(timeout=900) for process in started] == [0, 0]
    finally:
        stop(started)
    after = json.loads(history.read_text())["history"]
    assert after[: len(rows)] == rows and [row["epoch"] for row in after] == [1, 2, 3]
    assert {path.suffix for path in outputs[0].parent.iterdir()} == {".keras", ".json", ".png"}
    model = keras.models.load_model(outputs[0])
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())
    assert not outputs[1].parent.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["localhost:1234", 2, 0], "KERAS_BACKEND=jax"),
        (["localhost", 2, 0], "host:port"),
        (["localhost:1234", 2, 2], "--process must be from 0"),
    ],
)
def test_jobs_that_cannot_be_are_refused(arguments, message, monkeypatch):
    if "jax" not in message:
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=message):
        distributed.join(*arguments)
