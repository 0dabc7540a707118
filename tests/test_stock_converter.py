"""Keras' and TensorFlow's own routes to TFLite give for a DBF layer the file that they give for its plain twin."""

import numpy as np
import pytest

from dbf_keras.backend import LEGACY, keras
from dbf_keras.layers import DBFConv2D, DBFDense
from tests.export import tools

layers = keras.layers
pytestmark = pytest.mark.skipif(
    LEGACY or keras.backend.backend() != "tensorflow", reason="the converter takes TensorFlow's models of Keras 3"
)

SELECTIONS = ["spatial_tree", "ovsf", "sequency", "random:2", "separable_random", "sp_ovsf", "listed"]


def pair(arguments, shape, ratio, selection="spatial_tree", dense=False, **more):
    """Models of one DBF layer and of its plain twin with the same filters and bias."""
    if selection == "listed":
        taps = int(np.prod([shape[-1], *np.broadcast_to(arguments.get("kernel_size", 1), 2)]))
        selection = np.random.default_rng(1).permutation(taps).tolist()
    ours, plain = (DBFDense, layers.Dense) if dense else (DBFConv2D, layers.Conv2D)
    layer, twin = ours(**arguments, ratio=ratio, selection=selection, **more), plain(**arguments)
    models = [keras.Sequential([layers.Input(shape), one]) for one in (layer, twin)]
    tools.randomize(models[0])
    bias = [] if layer.bias is None else [np.array(layer.bias)]
    twin.set_weights([np.array(layer.kernel), *bias])
    return models


def examples(model):
    return np.random.default_rng(0).standard_normal((8, *model.input_shape[1:])).astype(np.float32)


def converter(model, route, folder):
    import tensorflow as tf

    if route == "from_keras_model":
        return tf.lite.TFLiteConverter.from_keras_model(model)
    if route == "from_saved_model":
        model.export(str(folder), verbose=False)
        return tf.lite.TFLiteConverter.from_saved_model(str(folder))
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(model).get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:])))
    return tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(function)])


def converted(model, kind="float32", route="from_keras_model", folder=None):
    import tensorflow as tf

    if route == "litert":
        path = str(folder / "model.tflite")
        model.export(path, format="litert", verbose=False)
        with open(path, "rb") as file:
            return file.read()
    made = converter(model, route, folder)
    if kind != "float32":
        made.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        made.target_spec.supported_types = [tf.float16]
    if kind in ("int8", "int16"):
        sets = tf.lite.OpsSet
        int16 = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        made.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8 if kind == "int8" else int16]
        made.representative_dataset = lambda: ([x[None]] for x in examples(model))
    return made.convert()


def assert_alike(ours, theirs):
    assert tools.ops(ours) == tools.ops(theirs)
    np.testing.assert_allclose(len(ours), len(theirs), rtol=0.01, atol=64)


def error(model, data):
    """‖file − Keras‖ / ‖Keras‖ on an example."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    x = examples(model)[:1]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    expected = np.array(model(x))
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("ratio", [1, 0.5, 0.3, 0.1, 0.01])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_filters_of_any_ratio_and_selection_are_constants(selection, ratio):
    model, twin = pair({"filters": 40, "kernel_size": 3}, (6, 6, 24), ratio, selection)
    ours, theirs = converted(model), converted(twin)
    assert_alike(ours, theirs)
    assert error(model, ours) < 1e-5


@pytest.mark.parametrize(
    "arguments, channels, ratio",
    [
        ({"filters": 64, "kernel_size": 1}, 512, 0.25),
        ({"filters": 7, "kernel_size": 2, "use_bias": False}, 3, 0.3),
        ({"filters": 48, "kernel_size": 4, "strides": 2, "padding": "same"}, 32, 0.25),
        ({"filters": 24, "kernel_size": 5, "activation": "relu"}, 70, 0.1),
        ({"filters": 24, "kernel_size": (2, 5), "dilation_rate": 2}, 33, 0.15),
        ({"filters": 300, "kernel_size": 3}, 300, 0.2),
    ],
)
def test_filters_of_any_layer_are_constants(arguments, channels, ratio):
    model, twin = pair(arguments, (12, 12, channels), ratio)
    assert_alike(converted(model), converted(twin))


@pytest.mark.parametrize("ratio", [1, 0.25])
@pytest.mark.parametrize("shape", [(10,), (784,), (6272,), (7, 300)])
def test_weights_of_dense_layers_are_constants(shape, ratio):
    model, twin = pair({"units": 32}, shape, ratio, dense=True)
    ours = converted(model)
    assert_alike(ours, converted(twin))
    assert error(model, ours) < 1e-5


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_filters_of_few_bits_are_constants(bits):
    model, twin = pair({"filters": 256, "kernel_size": 1}, (6, 6, 48), 0.25, alpha_bits=bits)
    assert_alike(converted(model), converted(twin))


# The largest errors are those of the plain twins.
@pytest.mark.parametrize(
    "kind, most", [("float32", 1e-5), ("float16", 1e-3), ("dynamic", 0.03), ("int8", 0.03), ("int16", 0.02)]
)
@pytest.mark.parametrize("route", ["from_keras_model", "from_saved_model", "from_concrete_functions"])
def test_every_type_is_right_on_every_route(route, kind, most, tmp_path):
    model, twin = pair({"filters": 64, "kernel_size": 3}, (8, 8, 64), 0.25)
    ours, theirs = (converted(one, kind, route, tmp_path / str(id(one))) for one in (model, twin))
    assert_alike(ours, theirs)
    assert error(model, ours) < most


def test_keras_own_export_is_the_twin_s(tmp_path):
    model, twin = pair({"filters": 48, "kernel_size": 4}, (8, 8, 32), 0.25, "ovsf")
    assert_alike(*(converted(one, route="litert", folder=tmp_path) for one in (model, twin)))


def test_kernels_that_are_generated_in_parts_are_constants(monkeypatch):
    """As those beyond 64 MiB."""
    monkeypatch.setattr("dbf_keras.mixins.kernel._MOST_NUMBERS", 9 * 24 * 16)
    model, twin = pair({"filters": 40, "kernel_size": 3}, (6, 6, 24), 0.3)
    ours = converted(model)
    assert_alike(ours, converted(twin))
    assert error(model, ours) < 1e-5


@pytest.mark.parametrize("before", ["fit", "predict"])
def test_a_model_that_has_computed_in_folded_form_exports_as_its_twin(before):
    model, twin = pair({"filters": 64, "kernel_size": 4}, (8, 8, 64), 0.25)
    assert model.layers[0]._folding is not None
    x = examples(model)
    model.compile("sgd", "mse")
    model.predict(x, verbose=0) if before == "predict" else model.fit(x, model(x), verbose=0)
    assert_alike(converted(model), converted(twin))
