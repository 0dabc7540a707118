import numpy as np
import pytest

from dbf_keras import runtime
from dbf_keras.compress.stopwatch import Geometry, Stopwatch, layer_file
from dbf_keras.export import flatfile

GEOMETRIES = [
    Geometry((3, 3, 8), 5, (7, 6)),
    Geometry((4, 4, 4), 8, (9, 9), strides=(2, 2)),
    Geometry((3, 2, 3), 4, (8, 9), padding="valid"),
    Geometry((3, 3, 6), 4, (9, 9), dilations=(2, 2)),
    Geometry((1, 1, 24), 16, (5, 5)),
    Geometry((1, 1, 24), 16, (3, 1), dense=True),
]

needs_library = pytest.mark.skipif(runtime.library_path() is None, reason="the op's C library is not built")


def some_codes(geometry, share=0.5, seed=0):
    taps = int(np.prod(geometry.shape))
    return np.sort(np.random.default_rng(seed).permutation(taps)[: max(1, round(share * taps))])


def run(file, seed=0):
    interpreter = runtime.Interpreter(model_content=file)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    random = np.random.default_rng(seed)
    values = random.integers(-90, 90, detail["shape"])
    interpreter.set_tensor(
        detail["index"], (values / 32 if detail["dtype"] == np.float32 else values).astype(detail["dtype"])
    )
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def custom(file):
    return [code.customCode for code in flatfile.load(file).operatorCodes]


@needs_library
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_standard_op_and_ours_of_all_codes_compute_the_same(geometry):
    every = np.arange(int(np.prod(geometry.shape)))
    for int8, tolerance in ((False, 1e-5), (True, 1.01)):
        plain, ours = layer_file(geometry, None, int8), layer_file(geometry, every, int8)
        assert custom(plain) == [None] and custom(ours) == [b"DBFDense" if geometry.dense else b"DBFConv2D"]
        expected, actual = run(plain).astype(float), run(ours).astype(float)
        assert expected.std() > 0.1 and expected.shape == actual.shape
        if not geometry.dense:
            assert expected.shape[1:3] == geometry.outputs
        # Ours of int8 rounds features as well.
        assert np.quantile(np.abs(expected - actual), 0.9) <= tolerance


@needs_library
@pytest.mark.parametrize("int8", [False, True])
def test_layers_are_timed(int8):
    geometry = Geometry((3, 3, 32), 64, (24, 24))
    ((plain, whole, half),) = (
        Stopwatch(int8)
        .times({"a": [(geometry, None), (geometry, np.arange(288)), (geometry, some_codes(geometry, 0.05))]})
        .values()
    )
    assert plain > 0 and whole > half > 0


def counting():
    asked = []

    def measure(files):
        asked.append(len(files))
        return [1e-6 + 1e-9 * len(file) for file in files]

    return measure, asked


def test_each_kind_of_layer_is_timed_once_and_a_runtime_s_own_time_is_left_out():
    measure, asked = counting()
    stopwatch = Stopwatch(False, measure)
    geometry = Geometry((2, 2, 4), 3, (4, 4))
    # Channel codes 1 and 3 with all spatial codes, and 1 and 2: as many, and neither in groups of channels.
    alike = [np.array([place * 4 + code for place in range(4) for code in pair]) for pair in ((1, 3), (1, 2))]
    rows = {"a": [(geometry, None), (geometry, alike[0])], "b": [(geometry, alike[1])]}
    times = stopwatch.times(rows)
    assert asked == [1, 2]
    assert times["b"][0] == times["a"][1] > 0
    nothing = stopwatch.times({"nothing": [(Geometry((1, 1, 1), 1, (1, 1)), None)]})
    assert nothing == {"nothing": [0.0]}
    assert stopwatch.times(rows) == times and sum(asked) == 4


@pytest.mark.parametrize("geometry", GEOMETRIES[:4])
def test_output_sizes_are_keras_s(geometry):
    from dbf_keras.backend import keras

    layer = keras.layers.Conv2D(
        geometry.filters, geometry.shape[:2], geometry.strides, geometry.padding, dilation_rate=geometry.dilations
    )
    shape = layer.compute_output_shape((None, *geometry.inputs, geometry.shape[2]))
    assert shape[1:3] == geometry.outputs
