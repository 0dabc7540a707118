import numpy as np
import pytest

from dbf_keras import runtime
from dbf_keras.backend import keras
from dbf_keras.export import verify
from dbf_keras.export.conversion import to_tflite
from dbf_keras.layers import DBFConv2D

from .tools import layers


def test_difference_is_absolute_and_relative_to_the_largest_output():
    reference = [np.array([1.0, -4.0], np.float32), np.array([[0.5]], np.float32)]
    outputs = [np.array([1.5, -4.0], np.float32), np.array([[0.25]], np.float32)]
    assert verify.difference(reference, outputs) == (0.5, 0.5)
    assert verify.difference(reference, reference) == (0, 0)


def test_outputs_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match=r"\(2,\), Keras one of \(3,\)"):
        verify.difference([np.zeros(3)], [np.zeros(2)])


def test_not_a_number_is_not_a_match():
    absolute, relative = verify.difference([np.ones(2, np.float32)], [np.array([1, np.nan], np.float32)])
    assert np.isnan(absolute) and np.isnan(relative)


def test_inputs_are_pixels_where_a_model_preprocesses():
    inputs = keras.Input((None, 9, 3), batch_size=4)
    plain = keras.Model(inputs, layers.ReLU()(inputs))
    scaled = keras.Model(inputs, layers.Rescaling(1 / 255)(inputs))
    nested = keras.Model(inputs, scaled(inputs))
    assert [verify.takes_pixels(model) for model in (plain, scaled, nested)] == [False, True, True]
    (normal,), (pixels,) = verify.random_inputs(plain), verify.random_inputs(scaled)
    assert normal.shape == pixels.shape == (4, 32, 9, 3)
    assert normal.dtype == pixels.dtype == np.float32
    assert normal.min() < 0 and np.abs(normal).max() < 10
    assert pixels.min() == 0 and pixels.max() == 255
    np.testing.assert_array_equal(pixels, np.rint(pixels))
    np.testing.assert_array_equal(verify.random_inputs(plain)[0], normal)
    assert verify.random_inputs(plain, pixels=True)[0].max() == 255


def test_open_sizes_get_as_many_pixels_as_the_layers_need():
    inputs = keras.Input((None, None, 3))
    x = inputs
    for _ in range(3):
        x = layers.Conv2D(4, 4, strides=4)(x)
    deep = keras.Model(inputs, x)
    assert verify.leaves_size_open(deep)
    assert verify.random_inputs(deep)[0].shape == (2, 64, 64, 3)
    assert verify.random_inputs(deep, size=(70, 90))[0].shape == (2, 70, 90, 3)
    assert verify.takes_size(deep, (64, 64)) and not verify.takes_size(deep, (64, 63))


def test_without_the_library_the_error_says_what_to_do(monkeypatch):
    inputs = keras.Input((8, 8, 8))
    model = keras.Model(inputs, DBFConv2D(8, 3, ratio=0.5)(inputs))
    monkeypatch.setattr(runtime, "library_path", lambda: None)
    with pytest.raises(RuntimeError, match="pip install .*--mode explicit or --mode folded"):
        verify.run_file(model, to_tflite(model), verify.random_inputs(model))
