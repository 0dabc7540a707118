import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from dbf_keras.optimizers import CodeSGD
from dbf_keras.recipes import RECIPES

from dbf_keras import codes, data, engine, networks, train
from dbf_keras.backend import keras, ops
from dbf_keras.layers import DBFConv2D

RECIPE = dataclasses.replace(RECIPES["digits"], epochs=4, batch_size=128)


def small_digits():
    return data.load("digits").part(640)


def network():
    return networks.DBFNetMicro(width=0.5, ratio=0.25)


def tiny():
    """Quick to compile, with dropout."""
    layers = [
        keras.layers.Input((8, 8, 1), name="image"),
        keras.layers.Rescaling(1 / 255, name="rescaling"),
        DBFConv2D(8, 3, ratio=0.5, strides=2, activation="relu", name="convolution"),
        keras.layers.BatchNormalization(name="normalization"),
        keras.layers.Dropout(0.2, name="dropout"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(10, activation="softmax", name="classifier"),
    ]
    return keras.Sequential(layers, name="tiny")


# Put before what trains in a process: kills it, as kill -9 does, in its second epoch.
KILLED = """
import os, signal
from dbf_keras import engine
evaluate, calls = engine.Engine.evaluate, iter((False, True))

def evaluate_once(*arguments):
    if next(calls):
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(*arguments)

engine.Engine.evaluate = evaluate_once
"""
_RUN = """
import tests.test_train as t
t.run(t.pathlib.Path({folder!r}), {names!r})
"""


def run(folder, names):
    for name in names:
        train.train(tiny, small_digits(), RECIPE, folder / f"{name}.keras", seed=3, verbose=False)


class Killed(Exception):
    pass


@contextlib.contextmanager
def killed_in_the_second_epoch():
    """What trains inside ends with an exception in its second epoch."""
    evaluate, calls = engine.Engine.evaluate, iter(range(9))

    def evaluate_once(*arguments):
        if next(calls):
            raise Killed
        return evaluate(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(engine.Engine, "evaluate", evaluate_once)
        yield


def run_cut(folder):
    """As `run`, but "killed" ends with an exception in the second epoch and goes on from there."""
    with killed_in_the_second_epoch():
        run(folder, ["killed"])
    assert (folder / "killed.checkpoint.npz").exists()
    run(folder, ["killed", "straight"])


def start(script, backend):
    """One thread each, without which sums may be in any order."""
    environment = {"KERAS_BACKEND": backend, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    environment |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=pathlib.Path(__file__).parents[1], env=os.environ | environment
    )


def check_equal(folder):
    written = [json.loads((folder / f"{name}.history.json").read_text()) for name in ("killed", "straight")]
    assert written[0] == written[1] and [row["epoch"] for row in written[0]["history"]] == [1, 2, 3, 4]
    ours, theirs = (keras.models.load_model(folder / f"{name}.keras") for name in ("killed", "straight"))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}{suffix}" for name in ("killed", "straight") for suffix in (".keras", ".history.json", ".png")
    )


def test_a_killed_run_ends_bit_for_bit_where_an_uninterrupted_one_ends(tmp_path):
    killed = start(KILLED + _RUN.format(folder=str(tmp_path), names=["killed"]), "tensorflow")
    assert killed.wait() == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {"killed.checkpoint.npz", "killed.history.json"}
    assert start(_RUN.format(folder=str(tmp_path), names=["killed", "straight"]), "tensorflow").wait() == 0
    check_equal(tmp_path)


def test_a_cut_run_goes_on_bit_for_bit_on_jax(tmp_path):
    script = f"import tests.test_train as t; t.run_cut(t.pathlib.Path({str(tmp_path)!r}))"
    assert start(script, "jax").wait() == 0
    check_equal(tmp_path)


def test_a_checkpoint_of_another_run_is_not_continued(tmp_path):
    output = tmp_path / "x.keras"
    state = json.dumps({"run": {"seed": 1}, "history": []})
    np.savez(tmp_path / "x.checkpoint.npz", state=state)
    with pytest.raises(ValueError, match="belongs to a run with another .*recipe, seed"):
        train.train(network, small_digits(), RECIPE, output)


def test_a_checkpoint_of_a_run_from_other_weights_is_not_continued(tmp_path):
    settings = train.Settings(network="dbfnet_micro", epochs=2, train_images=32, start=str(tmp_path / "a.keras"))
    digits, output = settings.load_data(), tmp_path / "x.keras"
    for name in "ab":
        networks.DBFNetMicro(plain=True).save(tmp_path / f"{name}.keras")
    with killed_in_the_second_epoch():
        settings.train(digits, output, verbose=False)
    with pytest.raises(ValueError, match="belongs to a run with another start"):
        dataclasses.replace(settings, start=str(tmp_path / "b.keras")).train(digits, output, verbose=False)
    assert len(settings.train(digits, output, verbose=False)) == 2


def test_training_learns_and_writes_its_history(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=12, batch_size=32)
    history = train.train(lambda: networks.DBFNetMicro(ratio=0.25), data.load("digits"), recipe, tmp_path / "x.keras")
    assert history[-1]["val_accuracy"] > 0.9 > history[0]["val_accuracy"]
    written = json.loads((tmp_path / "x.history.json").read_text())
    assert written["history"] == history and written["run"]["recipe"]["epochs"] == 12
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    digits = data.load("digits")
    predictions = keras.models.load_model(tmp_path / "x.keras").predict(digits.x_test.astype("float32"), verbose=0)
    accuracy = (predictions.argmax(axis=1) == digits.y_test).mean()
    assert accuracy == pytest.approx(history[-1]["val_accuracy"], abs=1e-6)


@pytest.mark.parametrize("kernel_size", [1, 3, 4, (2, 5)])
def test_code_sgd_moves_the_filters_as_sgd_moves_the_twin(kernel_size):
    """At ρ = 1, momentum and weight decay included."""
    layer, twin = DBFConv2D(6, kernel_size), keras.layers.Conv2D(6, kernel_size)
    layer.build((1, 8, 8, 16))
    twin.build((1, 8, 8, 16))
    twin.set_weights([ops.convert_to_numpy(layer.kernel), np.zeros(6)])
    ours = CodeSGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    theirs = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    theirs.exclude_from_weight_decay(var_names=["bias"])
    rng = np.random.default_rng(0)
    for _ in range(5):
        dkernel, dbias = rng.standard_normal(twin.kernel.shape).astype("f"), rng.standard_normal(6).astype("f")
        dalpha = codes.analyze(np.moveaxis(dkernel, -1, 0), layer.codes, dkernel.shape[:3]).T
        ours.apply([ops.convert_to_tensor(g) for g in (dalpha, dbias)], layer.trainable_variables)
        theirs.apply([ops.convert_to_tensor(g) for g in (dkernel, dbias)], twin.trainable_variables)
    np.testing.assert_allclose(layer.kernel, twin.kernel, atol=1e-5)
    np.testing.assert_allclose(layer.bias, twin.bias, atol=1e-6)


@pytest.mark.parametrize("selection", ["ovsf", "sequency", "random"])
@pytest.mark.parametrize("kernel_size", [3, 4])
def test_code_sgd_moves_the_filters_along_their_projected_gradient(selection, kernel_size):
    layer = DBFConv2D(6, kernel_size, ratio=0.3, selection=selection, use_bias=False)
    layer.build((1, 8, 8, 16))
    before = ops.convert_to_numpy(layer.kernel)
    dkernel = np.random.default_rng(0).standard_normal(before.shape)
    filters, shape = np.moveaxis(dkernel, -1, 0), before.shape[:3]
    dalpha = codes.analyze(filters, layer.codes, shape).T.astype("f")
    CodeSGD(1.0).apply([ops.convert_to_tensor(dalpha)], layer.trainable_variables)
    projection = codes.synthesize(codes.fit(filters, layer.codes, shape), layer.codes, shape)
    np.testing.assert_allclose(before - layer.kernel, np.moveaxis(projection, 0, -1), atol=2e-5)


def test_flags_are_parsed():
    assert train.parse_ratio("0.25") == 0.25
    assert train.parse_ratio("stage3_*=0.0625,*=1") == {"stage3_*": 0.0625, "*": 1.0}
    assert train.parse_options(["kernel_size=3", "plain=True", "weights=a.h5"]) == {
        "kernel_size": 3,
        "plain": True,
        "weights": "a.h5",
    }
    for text in ("a quarter", "a=b", "a=1,b"):
        with pytest.raises(ValueError, match="--ratio"):
            train.parse_ratio(text)
    with pytest.raises(ValueError, match="--option"):
        train.parse_options(["plain"])


def test_selections_are_parsed(tmp_path):
    """Mappings, and the codes that a plain model's filters hold, from a file whose name has an equals sign."""
    assert train.parse_selection("random:3") == "random:3" and train.parse_selection([2, 1]) == [2, 1]
    assert train.parse_selection("*conv1=ovsf,*=random:3") == {"*conv1": "ovsf", "*": "random:3"}
    model = networks.DBFNetMicro(width=0.5, plain=True)
    wanted = np.array([5, 0, 17])
    layer = model.get_layer("cascade1_module1_conv2")
    alpha = np.outer(np.ones(layer.filters), [3.0, 2.0, 1.0])
    layer.kernel.assign(np.moveaxis(codes.synthesize(alpha, wanted, layer.kernel.shape[:3]), 0, -1))
    model.save(tmp_path / "a=1.keras")
    selection = train.parse_selection(f"energy:{tmp_path / 'a=1.keras'}")
    student = networks.DBFNetMicro(width=0.5, ratio=0.25, selection=selection)
    np.testing.assert_array_equal(student.get_layer(layer.name).codes[:3], wanted)


def test_training_starts_from_a_trained_model(tmp_path):
    """At ρ = 1 as the same function, at less with the nearest filters, from a plain model or one with DBF layers."""
    digits, path = data.load("digits"), tmp_path / "plain.keras"
    options = {"ratio": 1.0, "dataset": "digits", "start": str(path)}
    plain = networks.DBFNetMicro(plain=True)
    plain.get_layer("stem_bn").moving_mean.assign(np.full(16, 0.1))
    plain.save(path)
    images = digits.x_test[:8].astype(np.float32)
    full = train.Settings(**options).build(digits)
    np.testing.assert_allclose(full.predict(images, verbose=0), plain.predict(images, verbose=0), rtol=0, atol=1e-5)

    full.save(path)
    half = train.Settings(**options | {"ratio": 0.5}).build(digits)
    for layer in half.layers:
        if isinstance(layer, DBFConv2D):
            kept = ops.convert_to_numpy(full.get_layer(layer.name).coefficients)[: len(layer.codes)]
            np.testing.assert_allclose(ops.convert_to_numpy(layer.coefficients), kept, rtol=0, atol=1e-6)

    with pytest.raises(ValueError, match="filters of shape|weight shape"):
        train.Settings(**options, options={"width": 0.5}).build(digits)
    with pytest.raises(ValueError, match="no layer 'stage1_block1_conv1'"):
        train.Settings(**options, network="resnet8").build(digits)


# Each command line in a fork of one process, to import Keras once.
_COMMAND_LINES = """
import json, os, sys
from dbf_keras import command, data, train
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
        ("--output", "x.keras", "--selection", "energy:gone.keras"): "gone.keras: there is no such file",
        ("--output", "x.keras", *data_dir): "/nowhere/mnist.npz does not exist",
        ("--output", "x.keras", "--start", "gone.keras"): "gone.keras: there is no such file to start from",
        ("--output", "x.keras", "--epochs", "0"): "--epochs",
        ("--output", "x.keras", "--crop", "0"): "--crop is a share",
        ("--output", "x.keras", "--batch_size", "5000"): "A batch of 5000 is more than the 1437",
        ("--output", "x.keras", "--teacher", "gone.keras"): "The teacher gone.keras does not exist",
        ("--output", "x.keras", "--processes", "2"): "--processes needs --coordinator",
        ("--output", "x.keras", "--coordinator", "host"): "set KERAS_BACKEND=jax",
        ("--output", "x.keras", "extra"): "extra",
    }
    script = [sys.executable, "-c", _COMMAND_LINES, json.dumps(list(messages))]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1]), "KERAS_BACKEND": "tensorflow"}
    result = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, env=environment)
    statuses = result.stdout.split()
    assert len(statuses) == len(messages), result.stderr
    for number, (arguments, message) in enumerate(messages.items()):
        log = (tmp_path / f"{number}.log").read_text()
        assert statuses[number] != "0" and message in log and "Traceback" not in log, arguments
    assert all(path.suffix == ".log" for path in tmp_path.iterdir())
