"""Models that leave height, width or batch open, exported in every form."""

import warnings

import numpy as np
import pytest

from dbf_keras import runtime
from dbf_keras.backend import keras
from dbf_keras.export import convert, converter, verify
from dbf_keras.forms import FORMS
from dbf_keras.layers import DBFConv2D, DBFDense

from .tools import layers, randomize

SIZES = [(1, 20, 24), (3, 33, 21), (2, 20, 24), (1, 19, 40)]


def network(padding="valid", convolution=DBFConv2D, dense=DBFDense, shape=(None, None, 4), **options):
    """A separable layer with strides, one of 3 × 3 taps with BatchNorm, a dense layer on pixels and one on means."""
    return keras.Sequential(
        [
            layers.Input(shape),
            convolution(32, 4, strides=2, padding=padding, activation="relu", **options),
            convolution(16, 3, padding=padding, **options),
            layers.BatchNormalization(),
            layers.ReLU(),
            dense(16, **options),
            layers.GlobalAveragePooling2D(),
            dense(10, **options),
        ]
    )


def typical(count=4):
    """Batches of images of several sizes."""
    random = np.random.default_rng(1)
    return [random.standard_normal((count, *size[1:], 4)).astype(np.float32) for size in SIZES]


def outputs(interpreter, images):
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(target["index"])


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.role)
def test_every_form_is_checked_and_runs_at_every_size(form, padding):
    model = network(padding, ratio=0.25, selection="ovsf")
    randomize(model)
    samples = typical() if form.quantize == "int8" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = convert(model, *form, representative_data=samples)
    tolerance = {None: 1e-5, "weights": 0.05, "int8": 0.1, "int4": 0.5}[form.quantize]
    assert result.noise < tolerance
    interpreter = runtime.Interpreter(model_content=result.data)
    random = np.random.default_rng(0)
    for size in [*SIZES, *SIZES[::-1]]:
        images = random.standard_normal((*size, 4)).astype(np.float32)
        expected = [np.asarray(values) for values in converter.run(model, [images])]
        assert verify.noise(expected, [outputs(interpreter, images)]) < tolerance, size


def test_before_a_size_is_known_it_is_as_in_the_twin():
    """Where one pixel is too small for 'valid' filters, allocating fails in both, and a size that fits mends it."""
    twin = network(convolution=layers.Conv2D, dense=layers.Dense)
    images = np.ones((1, 20, 24, 4), np.float32)
    for model, mode in ((twin, "explicit"), (network(ratio=0.5), "explicit"), (network(ratio=0.5), "onthefly")):
        interpreter = runtime.Interpreter(model_content=convert(model, mode, check=False).data)
        with pytest.raises(RuntimeError, match="failed to prepare"):
            interpreter.allocate_tensors()
        assert outputs(interpreter, images).shape == (1, 10)
    interpreter = None
    before = runtime.op_memory()
    interpreter = runtime.Interpreter(model_content=convert(network(ratio=0.5), "onthefly", check=False).data)
    assert runtime.op_memory() == before


@pytest.mark.parametrize("form", [form for form in FORMS if form.mode == "onthefly"], ids=lambda form: form.role)
@pytest.mark.parametrize("threads", [1, 2])
def test_empty_batches_run(form, threads):
    model = network(ratio=0.25)
    samples = typical() if form.quantize == "int8" else None
    data = convert(model, *form, representative_data=samples, check=False).data
    interpreter = runtime.Interpreter(model_content=data, num_threads=threads)
    random = np.random.default_rng(0)
    first = random.standard_normal((2, 20, 24, 4)).astype(np.float32)
    expected = outputs(interpreter, first)
    for size in ((0, 20, 24), (0, 33, 21)):
        assert outputs(interpreter, np.zeros((*size, 4), np.float32)).shape == (0, 10)
        np.testing.assert_array_equal(outputs(interpreter, first), expected)


@pytest.mark.parametrize("shape", [(8,), (None, 8), (5, 8)])
def test_empty_batches_of_dense_ops_run(shape):
    model = keras.Sequential([layers.Input(shape), DBFDense(16, ratio=0.5), DBFDense(4, ratio=0.5)])
    interpreter = runtime.Interpreter(model_content=convert(model, check=False).data)
    sizes = [size or 3 for size in shape]
    for batch in (0, 2, 0, 1):
        assert outputs(interpreter, np.ones((batch, *sizes), np.float32)).shape == (batch, *sizes[:-1], 4)


@pytest.mark.parametrize("shape", [(None, 20, 4), (20, None, 4)])
def test_one_axis_may_be_open(shape):
    assert convert(network(shape=shape, ratio=0.25)).relative_difference < 1e-5


def test_labels_of_a_model_of_open_size():
    data = convert(network(ratio=0.25), labels=list("abcdefghij")).data
    assert outputs(runtime.Interpreter(model_content=data), np.ones((1, 20, 20, 4), np.float32)).shape == (1, 10)
