import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dbf_keras import data, networks, train
from dbf_keras.backend import keras, ops
from dbf_keras.layers import DBFDense
from dbf_keras.optimizers import CodeSGD

RECIPE = dataclasses.replace(train.RECIPES["digits"], epochs=4, batch_size=128)


def small_digits():
    digits = data.load("digits")
    return dataclasses.replace(digits, x_train=digits.x_train[:640], y_train=digits.y_train[:640])


def network():
    return networks.DBFNetMicro(width=0.5, ratio=0.25)


_RUN = """
import tests.test_train as t
t.train.train(t.network, t.small_digits(), t.RECIPE, {output!r}, seed=3, verbose=0)
"""


def test_a_killed_run_goes_on_and_ends_where_an_uninterrupted_one_ends(tmp_path):
    output = tmp_path / "killed.keras"
    checkpoint = tmp_path / "killed.checkpoint.keras"
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN.format(output=str(output))], cwd=pathlib.Path(__file__).parents[1]
    )
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not output.exists()

    history = train.train(network, small_digits(), RECIPE, output, seed=3, verbose=0)
    straight = train.train(network, small_digits(), RECIPE, tmp_path / "straight.keras", seed=3, verbose=0)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    for resumed, uninterrupted in zip(history, straight, strict=True):
        assert resumed == pytest.approx(uninterrupted, rel=1e-3, abs=1e-3)
    ours, theirs = (keras.models.load_model(tmp_path / f"{name}.keras") for name in ("killed", "straight"))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}{suffix}" for name in ("killed", "straight") for suffix in (".keras", ".history.json", ".png")
    )


def test_a_checkpoint_of_another_run_is_not_continued(tmp_path):
    output = tmp_path / "x.keras"
    (tmp_path / "x.checkpoint.keras").write_bytes(b"")
    (tmp_path / "x.history.json").write_text(json.dumps({"run": {"seed": 1}, "history": []}))
    with pytest.raises(ValueError, match="another network, recipe or seed"):
        train.train(network, small_digits(), RECIPE, output)


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


def test_code_sgd_moves_the_filters_as_sgd_moves_the_twin():
    """At ρ = 1 on an orthogonal grid, momentum and weight decay included."""
    layer, twin = DBFDense(4), keras.layers.Dense(4)
    layer.build((1, 16))
    twin.build((1, 16))
    twin.set_weights([ops.convert_to_numpy(layer.kernel), np.zeros(4)])
    ours = CodeSGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    theirs = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    theirs.exclude_from_weight_decay(var_names=["bias"])
    rng = np.random.default_rng(0)
    from dbf_keras import codes

    for _ in range(5):
        dkernel, dbias = rng.standard_normal((16, 4)).astype("f"), rng.standard_normal(4).astype("f")
        dalpha = codes.short_codes(16)[layer.codes].astype("f") @ dkernel
        ours.apply([ops.convert_to_tensor(g) for g in (dalpha, dbias)], layer.trainable_variables)
        theirs.apply([ops.convert_to_tensor(g) for g in (dkernel, dbias)], twin.trainable_variables)
    np.testing.assert_allclose(layer.kernel, twin.kernel, atol=1e-5)
    np.testing.assert_allclose(layer.bias, twin.bias, atol=1e-6)


@pytest.mark.parametrize(
    "recipe, rates",
    [
        (train.Recipe(10, drops=(4, 8)), {0: 0.1, 39: 0.1, 41: 0.01, 79: 0.01, 81: 0.001}),
        (train.Recipe(20, learning_rate=0.2), {0: 0.0, 5: 0.1, 10: 0.2, 105: 0.1, 200: 0.0}),
    ],
)
def test_schedules_are_the_recipe_s(recipe, rates):
    model = network()
    train.compile_model(model, recipe, steps_per_epoch=10)
    schedule = model.optimizer._learning_rate
    for step, rate in rates.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-7), step


def test_the_paper_s_recipes():
    assert train.RECIPES["paper"].drops == (90, 150, 190, 220) and train.RECIPES["paper"].epochs == 250
    assert train.RECIPES["paper_dbfnet"].drops == (40, 70, 90)
    assert train.RECIPES["paper_imagenet"].drops == (30, 60, 90) and train.RECIPES["paper_imagenet"].batch_size == 64


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


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output", "x.h5"], "must end in .keras"),
        (["--output", "x.keras", "--ratio", "2"], "0 < ratio <= 1"),
        (["--output", "x.keras", "--dataset", "mnist", "--data_dir", "/nowhere"], "/nowhere/mnist.npz does not exist"),
        (["--output", "x.keras", "--epochs", "0"], "--epochs"),
        (["--output", "x.keras", "extra"], "extra"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "dbf_keras.train", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
    )
    assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
