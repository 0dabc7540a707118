import functools
import json
import re

import numpy as np
import pytest

from dbf_keras import data, keras_file
from dbf_keras.backend import keras
from dbf_keras.compress.compression import compress
from dbf_keras.train.recipes import Recipe

layers = keras.layers
DIGITS = data.load("digits")
RECIPE = Recipe(epochs=1, batch_size=128, learning_rate=0.02)


@functools.cache
def trained(classes=10, seed=0):
    """A network that has adapted to pixels, of one score for two classes, and its images and labels."""
    keras.utils.set_random_seed(seed)
    images, labels = DIGITS.x_train, DIGITS.y_train if classes > 1 else DIGITS.y_train // 5
    normalization = layers.Normalization(axis=None, name="pixels")
    normalization.adapt(images.astype("float32"))
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(normalization(inputs))
    x = layers.Flatten()(layers.Conv2D(16, 3, activation="relu", name="second")(x))
    outputs = layers.Dense(classes, "softmax" if classes > 1 else "sigmoid", name="scores")(x)
    model = keras.Model(inputs, outputs, name="original")
    model.compile("adam", "sparse_categorical_crossentropy" if classes > 1 else "binary_crossentropy")
    model.fit(images.astype("float32"), labels, epochs=6, batch_size=32, verbose=0)
    return model, (images, labels)


def augmentation_of(output):
    """How images were augmented in the training that wrote a model."""
    return json.loads(output.with_suffix(".history.json").read_text())["run"]["recipe"]["augmentation"]


def test_what_the_original_does_not_bear_is_no_augmentation(tmp_path, capsys):
    """It has learnt the digits where they are, and cannot teach them elsewhere, but of nearly the same size."""
    model, given = trained()
    far = RECIPE.change(augmentation={"shift": 3})
    fine_tuned(model, given, tmp_path / "far.tflite", recipe=far, verbose=True)
    assert augmentation_of(tmp_path / "far.keras") == {}
    said = re.search(r"not augmented: the original knows (\S+) % .* and (\S+) % if they are", capsys.readouterr().out)
    plain, augmented = map(float, said.groups())
    assert plain > 90 and augmented < 0.9 * plain
    near = RECIPE.change(augmentation={"zoom": 0.02})
    fine_tuned(model, given, tmp_path / "near.tflite", recipe=near)
    assert augmentation_of(tmp_path / "near.keras") == {"zoom": 0.02}


def fine_tuned(model, given, output, **options):
    """A compression whose codes do not depend on what is fastest at the moment."""
    arguments = {"ratio": 0.5, "selection": "energy", "epochs": 1, "recipe": RECIPE, "slower": True, "verbose": False}
    return compress(model, given, output=output, **(arguments | options))


@pytest.mark.parametrize("classes", [10, 1])
def test_what_was_fine_tuned_already_is_taken_as_it_is(classes, tmp_path):
    """By a second command, whose weights are then those of the file and not those before the training.

    That of another original, be it one of the same name, is another.
    """
    model, given = trained(classes)
    before = [np.array(weight) for weight in model.get_weights()]
    first, second = (fine_tuned(model, given, tmp_path / "x.tflite") for _ in range(2))
    assert first.report.history == second.report.history and len(first.report.history) == 1
    for one, other in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.data == second.data == (tmp_path / "x.tflite").read_bytes()
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert keras_file.labels(tmp_path / "x.keras") == (None if classes == 1 else list("0123456789"))
    with pytest.raises(ValueError, match="x.keras is a finished model, trained with another .*teacher"):
        fine_tuned(trained(classes, seed=1)[0], given, tmp_path / "x.tflite")


def test_a_fine_tuning_that_makes_it_worse_is_dropped(tmp_path, capsys):
    """By a second command, too, which takes the training as done."""
    model, given = trained()
    untrained = fine_tuned(model, given, None, epochs=0)
    for _ in range(2):
        found = fine_tuned(model, given, tmp_path / "x.tflite", learning_rate=1.0, verbose=True)
        assert found.data == untrained.data == (tmp_path / "x.tflite").read_bytes()
        assert found.report.history[0]["val_accuracy"] < found.report.before
        weights = keras_file.load(tmp_path / "x.keras").get_weights()
        for one, other, kept in zip(found.model.get_weights(), untrained.model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(one, kept)
    shown = capsys.readouterr().out
    assert shown.count("has made it worse") == 1 and shown.count("is trained already") == 1
