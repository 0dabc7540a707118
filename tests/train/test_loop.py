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

from dbf_keras import data, keras_file, networks, train
from dbf_keras.backend import keras, ops
from dbf_keras.layers import DBFConv2D
from dbf_keras.train import engine
from dbf_keras.train.curve import plot_history
from dbf_keras.train.recipes import RECIPES
from dbf_keras.train.teacher import Teacher

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
from dbf_keras.train import engine
evaluate, calls = engine.Engine.evaluate, iter((False, True))

def evaluate_once(*arguments):
    if next(calls):
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(*arguments)

engine.Engine.evaluate = evaluate_once
"""
_RUN = """
import tests.train.test_loop as t
t.run(t.pathlib.Path({folder!r}), {names!r})
"""


def run(folder, names, patience=None):
    for name in names:
        output = folder / f"{name}.keras"
        train.train(tiny, small_digits(), RECIPE, output, seed=3, patience=patience, verbose=False)


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
    """As `run`, but "killed" ends with an exception in the second epoch and goes on from there; the first is best."""
    evaluate = engine.Engine.evaluate

    def worse_and_worse(trainer, *arguments):
        return evaluate(trainer, *arguments)[0], 1 / int(trainer.optimizer.iterations)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Engine, "evaluate", worse_and_worse)
        with killed_in_the_second_epoch():
            run(folder, ["killed"], patience=3)
        assert (folder / "killed.checkpoint.npz").exists()
        run(folder, ["killed", "straight"], patience=3)


def start(script, backend):
    """One thread each, without which sums may be in any order."""
    environment = {"KERAS_BACKEND": backend, "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    environment |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=pathlib.Path(__file__).parents[2], env=os.environ | environment
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
    """With patience: the weights of the best epoch are not those that JAX writes over."""
    script = f"import tests.train.test_loop as t; t.run_cut(t.pathlib.Path({str(tmp_path)!r}))"
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
    training = keras_file.training(tmp_path / "x.keras")
    assert training["recipe"]["epochs"] == 12 and (training["seed"], training["train_images"]) == (0, 1437)
    assert training["test_accuracy"] == pytest.approx(history[-1]["val_accuracy"], abs=1e-6)
    digits = data.load("digits")
    predictions = keras.models.load_model(tmp_path / "x.keras").predict(digits.x_test.astype("float32"), verbose=0)
    accuracy = (predictions.argmax(axis=1) == digits.y_test).mean()
    assert accuracy == pytest.approx(history[-1]["val_accuracy"], abs=1e-6)


def test_a_finished_model_is_not_overwritten_by_another(tmp_path):
    output = tmp_path / "x.keras"
    recipe = dataclasses.replace(RECIPE, epochs=1)
    history = train.train(tiny, small_digits(), recipe, output, verbose=False)
    content = output.read_bytes()
    assert train.train(tiny, small_digits(), recipe, output, verbose=False) == history
    with pytest.raises(ValueError, match="x.keras is a finished model, trained with another seed. .*--overwrite"):
        train.train(tiny, small_digits(), recipe, output, seed=1, verbose=False)
    with pytest.raises(ValueError, match="trained with another labels_sha256, train_images"):
        train.train(tiny, data.load("digits").part(256), recipe, output, verbose=False)
    assert output.read_bytes() == content
    train.train(tiny, small_digits(), recipe, output, seed=1, overwrite=True, verbose=False)
    assert output.read_bytes() != content
    (tmp_path / "x.history.json").unlink()
    with pytest.raises(ValueError, match="no x.history.json says how it was trained"):
        train.train(tiny, small_digits(), recipe, output, verbose=False)


DIVERGING = dataclasses.replace(RECIPE, schedule="one_cycle", learning_rate=1e30, weight_decay=0.0)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    """It says where, and writes nothing: neither over a good model nor over its history."""
    told = (
        "The loss is nan in epoch 1 of 4, at step 2 of 5, with a learning rate of 2.5e[+]29. Nothing was written. Try"
    )
    output = tmp_path / "x.keras"
    with pytest.raises(ValueError, match=told):
        train.train(tiny, small_digits(), DIVERGING, output, verbose=False)
    assert not list(tmp_path.iterdir())
    train.train(tiny, small_digits(), dataclasses.replace(RECIPE, epochs=1), output, verbose=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=told):
        train.train(tiny, small_digits(), DIVERGING, output, overwrite=True, verbose=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("method, told", [("train", "at step 1 of 5"), ("evaluate", "in the test")])
def test_the_last_good_checkpoint_stays(method, told, tmp_path, monkeypatch):
    """The loss of the third epoch is not finite; a later training goes on after the second."""
    output, calls, whole = tmp_path / "x.keras", iter(range(9)), getattr(engine.Engine, method)

    def broken(self, *arguments):
        values = whole(self, *arguments)
        if next(calls) < 2:
            return values
        self.finite_steps = 0
        return float("inf"), 0.1

    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match=f"loss is inf in epoch 3 of 4, {told}.*poch 2"),
    ):
        patch.setattr(engine.Engine, method, broken)
        train.train(tiny, small_digits(), RECIPE, output, seed=3, verbose=False)
    assert not output.exists() and output.with_suffix(".checkpoint.npz").exists()
    history = train.train(tiny, small_digits(), RECIPE, output, seed=3, verbose=False)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4] and "finite_steps" not in history[0]


def test_an_overwriting_that_is_cut_short_leaves_the_model_and_its_history(tmp_path):
    output = tmp_path / "x.keras"
    train.train(tiny, small_digits(), dataclasses.replace(RECIPE, epochs=1), output, verbose=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with killed_in_the_second_epoch():
        train.train(tiny, small_digits(), RECIPE, output, overwrite=True, verbose=False)
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    history = train.train(tiny, small_digits(), RECIPE, output, overwrite=True, verbose=False)
    assert len(history) == 4 and not output.with_suffix(".checkpoint.npz").exists()


def test_what_cannot_be_trained_on_is_refused_before_the_first_step(tmp_path):
    digits, late = small_digits(), small_digits()
    late.y_train = late.y_train - 1  # After the set was made.
    cases = [
        (dataclasses.replace(digits, x_train=digits.x_train // 255), tiny, {}, "x_train is black"),
        (dataclasses.replace(digits, y_train=0 * digits.y_train), tiny, {}, "have no training image"),
        (late, tiny, {}, "the smallest -1"),
        (digits, lambda: networks.DBFNetMicro(classes=7), {}, r"outputs of shape \(7,\); the data has .* 10 classes"),
        (digits, lambda: networks.DBFNetMicro(input_shape=(9, 9, 1)), {}, r"takes inputs of shape \(9, 9, 1\)"),
        (digits, tiny, {"seed": -1}, "--seed must be a whole number at least 0"),
    ]
    for dataset, model_fn, options, message in cases:
        with pytest.raises(ValueError, match=message):
            train.train(model_fn, dataset, RECIPE, tmp_path / "x.keras", verbose=False, **options)
    assert not list(tmp_path.iterdir())


class Scripted:
    """Takes the place of what is evaluated: numbers of each epoch, and the weights that the model had."""

    def __init__(self, monkeypatch, accuracies, losses=None, coded_kb=None):
        self.weights, self._epochs = {}, len(accuracies)
        losses = losses or [1.0] * len(accuracies)

        def evaluate(trainer, *_):
            epoch = self.epoch(trainer)
            self.weights[epoch] = [np.array(ops.convert_to_numpy(weight)) for weight in trainer.model.weights]
            return losses[epoch - 1], accuracies[epoch - 1]

        monkeypatch.setattr(engine.Engine, "evaluate", evaluate)
        if coded_kb is not None:
            row = train.coding.Coding.row

            def scripted(coding, layers):
                return row(coding, layers) | {"coded_kb": coded_kb[max(self.weights) - 1]}

            monkeypatch.setattr(train.coding.Coding, "row", scripted)

    @staticmethod
    def epoch(trainer):
        """The epoch that has been trained, from 1; of `RECIPE` on `small_digits` one has 5 steps."""
        return int(ops.convert_to_numpy(trainer.optimizer.iterations)) // 5

    def check(self, output, best, history):
        """The file holds the weights of the best epoch and says how good they are."""
        for ours, theirs in zip(keras.models.load_model(output).get_weights(), self.weights[best], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert keras_file.training(output)["test_accuracy"] == history[best - 1]["val_accuracy"]
        others = [epoch for epoch in self.weights if epoch != best]
        assert others and all(np.any(self.weights[epoch][0] != self.weights[best][0]) for epoch in others)


LONG = dataclasses.replace(RECIPE, epochs=7)


@pytest.mark.parametrize(
    "accuracies, losses, patience, best, last",
    [
        ([0.2, 0.5, 0.4, 0.3, 0.9, 0.9, 0.9], None, 2, 2, 4),
        ([0.2, 0.5, 0.4, 0.3, 0.6, 0.1, 0.1], None, 3, 5, 7),
        ([0.2, 0.5, 0.5, 0.5, 0.1, 0.9, 0.9], [1.0, 0.9, 0.8, 0.8, 0.1, 0.1, 0.1], 2, 3, 5),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], None, 1, 7, 7),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], None, 1, 1, 2),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], None, None, 7, 7),
    ],
)
def test_patience_keeps_the_best_epoch(accuracies, losses, patience, best, last, tmp_path, monkeypatch):
    """Of as accurate ones that of the least loss, and of those the first."""
    scripted, output = Scripted(monkeypatch, accuracies, losses), tmp_path / "x.keras"
    history = train.train(tiny, small_digits(), LONG, output, patience=patience, verbose=False)
    assert [row["val_accuracy"] for row in history] == accuracies[:last]
    assert json.loads((tmp_path / "x.history.json").read_text())["history"] == history
    scripted.check(output, best, history)


def equal(array):
    return lambda other: np.array_equal(array, other)


def coded():
    layers = [
        keras.layers.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 255),
        DBFConv2D(8, 3, ratio=0.5, alpha_step=0.4),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax", name="classifier"),
    ]
    return keras.Sequential(layers, name="coded")


@pytest.mark.parametrize(
    "coded_kb, accuracies, best, last",
    [
        ([3.0, 2.0, 1.51, 1.5, 1.0, 1.0, 1.0], [0.9, 0.9, 0.6, 0.5, 0.4, 0.9, 0.9], 3, 5),
        ([3.0, 2.0, 1.53, 1.5, 1.0, 0.9, 1.0], [0.9, 0.9, 0.6, 0.5, 0.4, 0.3, 0.9], 4, 6),
        ([3.0, 2.0, 1.9, 1.8, 1.7, 1.6, 1.55], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 7, 7),
    ],
)
def test_patience_counts_epochs_that_keep_a_target_only(coded_kb, accuracies, best, last, tmp_path, monkeypatch):
    """One per cent more is near enough; where no epoch keeps it, the last has to do."""
    scripted, output = Scripted(monkeypatch, accuracies, coded_kb=coded_kb), tmp_path / "x.keras"
    coding = train.coding.Coding(coded_kb=1.5)
    history = train.train(coded, small_digits(), LONG, output, patience=2, coding=coding, verbose=False)
    assert [row["coded_kb"] for row in history] == coded_kb[:last]
    assert keras_file.training(output)["test_accuracy"] == accuracies[best - 1]
    dense = keras.models.load_model(output).get_layer("classifier")  # The other layer is rounded in the end.
    for weight in dense.get_weights():
        assert [epoch for epoch, held in scripted.weights.items() if any(map(equal(weight), held))] == [best]


def test_all_epochs_count_where_bytes_are_held_from_the_start(tmp_path, monkeypatch):
    """They are all near the target, be they over it: the best is kept, not the first, which is nearest."""
    scripted, output = Scripted(monkeypatch, [0.4, 0.5, 0.7, 0.6], coded_kb=[1.5, 1.6, 1.7, 1.6]), tmp_path / "x.keras"
    coding = train.coding.Coding(coded_kb=1.5, first_price=0.1)
    recipe = dataclasses.replace(LONG, epochs=4)
    train.train(coded, small_digits(), recipe, output, patience=2, coding=coding, verbose=False)
    assert keras_file.training(output)["test_accuracy"] == 0.7 and len(scripted.weights) == 4


@pytest.mark.parametrize("where", ["evaluate", "_finish"])
def test_a_killed_run_keeps_the_best_epoch_so_far(where, tmp_path, monkeypatch):
    """Killed after the best epoch, or when all that was left to do was to write: then no further epoch is trained."""
    output = tmp_path / "x.keras"
    options = {"recipe": LONG, "output": output, "patience": 2, "verbose": False}
    scripted = Scripted(monkeypatch, [0.2, 0.5, 0.4, 0.3, 0.9, 0.9, 0.9])
    whole = engine.Engine.evaluate

    def killed(trainer, *arguments):
        if scripted.epoch(trainer) == 3:
            raise Killed
        return whole(trainer, *arguments)

    def finish(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*((engine.Engine, where, killed) if where == "evaluate" else (train.loop, where, finish)))
        train.train(tiny, small_digits(), **options)
    assert not output.exists() and max(scripted.weights) == (2 if where == "evaluate" else 4)
    history = train.train(tiny, small_digits(), **options)
    assert [row["val_accuracy"] for row in history] == [0.2, 0.5, 0.4, 0.3] and max(scripted.weights) == 4
    scripted.check(output, 2, history)
    assert train.train(tiny, small_digits(), **options) == history


def normalizing(normalization=None):
    """`tiny`, but for its scaling, and with these mean and standard deviation of pixels, if there are any."""
    keras.utils.set_random_seed(1)
    model = tiny()
    inputs = x = keras.layers.Input((8, 8, 1), name="image")
    if normalization is not None:
        mean, std = normalization
        x = keras.layers.Normalization(mean=mean, variance=np.square(std), name="pixels")(x)
    for layer in model.layers[1:]:
        x = layer(x)
    return keras.Model(inputs, x, name="tiny")


@pytest.mark.parametrize("normalization", [([70.0], [90.0]), (70.0, 90.0)])
def test_pixels_are_normalised_as_by_a_layer(normalization, tmp_path):
    """For the model and for its teacher, after the same random changes."""
    results = []
    for name, layer, ours in (("a", None, normalization), ("b", normalization, None)):
        teacher = train.Teacher(name, model=normalizing(layer))
        options = {"normalization": ours, "teacher": teacher, "verbose": False}
        output = tmp_path / f"{name}.keras"
        recipe = dataclasses.replace(RECIPE, epochs=2)
        history = train.train(lambda: normalizing(layer), small_digits(), recipe, output, **options)  # noqa: B023
        results.append((history, keras.models.load_model(output).get_weights()))
    for ours, theirs in zip(*(rows for rows, _ in results), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    for ours, theirs in zip(*(weights for _, weights in results), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_images_as_the_model_takes_them_train_as_pixels_do(tmp_path):
    digits, results = small_digits(), []
    changes = {part: getattr(digits, part).astype(np.float32) for part in ("x_train", "x_test")}
    for name, dataset in (("a", digits), ("b", dataclasses.replace(digits, **changes, preprocessed=True))):
        recipe = dataclasses.replace(RECIPE, epochs=1)
        results.append(train.train(tiny, dataset, recipe, tmp_path / f"{name}.keras", verbose=False))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)


def single(activation):
    model = tiny()
    inputs = model.inputs[0]
    x = keras.layers.Dense(1, activation, name="score")(model.layers[-2].output)
    return keras.Model(inputs, x, name="single")


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_two_classes_may_have_one_score(activation, tmp_path):
    """What is told of the test is the binary cross-entropy, and the model keeps its kind of score."""
    digits = small_digits()
    labels = {part: getattr(digits, part) // 5 for part in ("y_train", "y_test")}
    dataset = dataclasses.replace(digits, **labels, classes=2, class_names=("low", "high"))
    recipe = dataclasses.replace(RECIPE, epochs=8, batch_size=32)
    history = train.train(lambda: single(activation), dataset, recipe, tmp_path / "x.keras", verbose=False)
    model = keras.models.load_model(tmp_path / "x.keras")
    assert model.layers[-1].activation is keras.activations.get(activation) and model.output_shape == (None, 1)
    scores = model.predict(dataset.x_test.astype("float32"), verbose=0).astype(np.float64)[:, 0]
    chance = scores if activation == "sigmoid" else 1 / (1 + np.exp(-scores))
    losses = -np.log(np.where(dataset.y_test == 1, chance, 1 - chance))
    assert history[-1]["val_loss"] == pytest.approx(losses.mean(), rel=1e-3)
    assert history[-1]["val_accuracy"] == pytest.approx(((chance > 0.5) == dataset.y_test).mean(), abs=1e-6)
    assert history[-1]["val_accuracy"] > 0.75
    assert keras_file.labels(tmp_path / "x.keras") is None  # Names are those of scores.
    with pytest.raises(ValueError, match=r"to outputs of shape \(1,\); .* 10 classes"):
        train.train(lambda: single(activation), digits, recipe, tmp_path / "y.keras", verbose=False)


def test_images_set_aside_are_called_so(tmp_path, capsys):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    for dataset, name, key in (
        (small_digits(), "test", "test_accuracy"),
        (small_digits().hold_out(64), "held out", "held_out_accuracy"),
    ):
        history = train.train(tiny, dataset, recipe, tmp_path / f"{key}.keras")
        assert f"; {name}: loss {history[0]['val_loss']:.4f}, accuracy" in capsys.readouterr().out
        kept = keras_file.training(tmp_path / f"{key}.keras")
        assert kept[key] == pytest.approx(history[0]["val_accuracy"], abs=1e-6)
        assert [other for other in kept if other.endswith("_accuracy")] == [key]
    digits = small_digits().hold_out(64)
    model = keras.models.load_model(tmp_path / "held_out_accuracy.keras")
    found = model.predict(digits.x_test.astype("float32"), verbose=0).argmax(axis=1)
    assert history[0]["val_accuracy"] == pytest.approx((found == digits.y_test).mean(), abs=1e-6)


def test_trainings_of_other_settings_are_told_apart(tmp_path):
    """Whichever of the two has a setting that the other leaves out."""
    output, recipe = tmp_path / "x.keras", dataclasses.replace(RECIPE, epochs=1)
    teachers = [train.Teacher("the original", model=tiny()) for _ in range(2)]

    def fit(**options):
        return train.train(tiny, small_digits(), recipe, output, **({"verbose": False} | options))

    for options, name in (
        ({"patience": 2}, "patience"),
        ({"normalization": ([1.0], [2.0])}, "normalization"),
        ({"teacher": teachers[0]}, "teacher"),
    ):
        fit(**options, overwrite=True)
        fit(**options)
        with pytest.raises(ValueError, match=f"trained with another {name}"):
            fit()
    with pytest.raises(ValueError, match="trained with another teacher"):
        fit(teacher=teachers[1])


def test_losses_far_above_the_others_are_outside_of_the_curve(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    rows = [{"epoch": n + 1, "loss": 2 - n / 4, "accuracy": n / 4, "val_accuracy": n / 4} for n in range(4)]
    for first, limit in ((3111.0, 2.2), (2.0, None)):
        history = [{**row, "val_loss": first if row["epoch"] == 1 else row["loss"]} for row in rows]
        plot_history(history, tmp_path / "x.png")
        axes = drawn[-1].axes[0]
        assert ("1 outside, up to 3.11e+03" in axes.get_title(loc="right")) == (limit is not None)
        assert 2 < axes.get_ylim()[1] < 2.3
        assert all(tick == int(tick) for tick in axes.get_xticks())


def test_the_teacher_computes_in_the_precision_of_the_training(tmp_path, monkeypatch):
    seen, ask = set(), engine.Engine.ask_teacher

    def noted(self, *arguments):
        seen.update(layer.compute_dtype for layer in self._lesson.teacher.layers if layer.weights)
        return ask(self, *arguments)

    monkeypatch.setattr(engine.Engine, "ask_teacher", noted)
    recipe, teacher = dataclasses.replace(RECIPE, epochs=1), Teacher("tiny", model=tiny())
    train.train(
        tiny, small_digits(), recipe, tmp_path / "x.keras", teacher=teacher, precision="mixed_bfloat16", verbose=False
    )
    assert seen == {"bfloat16"}
    assert {layer.compute_dtype for layer in keras_file.load(tmp_path / "x.keras").layers} == {"float32"}


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`precision` must be one of .*; got 'bf16'"):
        train.train(tiny, small_digits(), RECIPE, tmp_path / "x.keras", precision="bf16", verbose=False)
