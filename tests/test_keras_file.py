import numpy as np
import pytest

from dbf_keras import keras_file, networks
from dbf_keras.backend import keras


def test_labels_travel_with_the_model(tmp_path):
    path = tmp_path / "x.keras"
    model = networks.DBFNetMicro(width=0.5, ratio=0.25)
    keras_file.save(model, path, ["a", "ß"])
    assert keras_file.labels(path) == ["a", "ß"]
    for ours, theirs in zip(keras_file.load(path).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert keras_file.training(path) is None
    keras_file.save(model, path, ["a"], {"seed": 3})
    assert keras_file.labels(path) == ["a"] and keras_file.training(path) == {"seed": 3}
    model.save(path)
    assert keras_file.labels(path) is None and keras_file.training(path) is None


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--teacher: there is no file '.*gone.keras'"):
        keras_file.load(tmp_path / "gone.keras", "--teacher")
    for name, message in (("x.zip", "'.*x.zip' is not a .keras file"), ("x.keras", "Keras cannot load '.*x.keras'")):
        (tmp_path / name).write_text("no model")
        with pytest.raises(ValueError, match=message):
            keras_file.load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_models_in_keras_s_older_format_are_loaded(tmp_path, suffix):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    path = tmp_path / f"old{suffix}"
    model.save(path)
    loaded = keras_file.load(path)
    for weight, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert keras_file.labels(path) is None and keras_file.training(path) is None
