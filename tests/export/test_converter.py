import numpy as np
import pytest

from dbf_keras.backend import LEGACY, keras
from dbf_keras.export import converter, verify
from dbf_keras.export.conversion import convert, to_tflite
from dbf_keras.layers import DBFConv2D, DBFDense

from .tools import TOLERANCE, layers, load, ops, randomize

QUARTER = {"ratio": 0.25, "selection": "ovsf"}


def norm(x):
    return layers.ReLU()(layers.BatchNormalization()(x))


def nested():
    inner = keras.Sequential([keras.Input((6, 6, 8)), DBFConv2D(8, 3, padding="same", **QUARTER), layers.ReLU()])
    inputs = keras.Input((6, 6, 8))
    return keras.Model(inputs, inner(inner(inputs)))


def shared():
    inputs = keras.Input((6, 6, 8))
    layer = DBFConv2D(8, 3, padding="same", **QUARTER)
    return keras.Model(inputs, norm(layer(norm(layer(inputs)))))


def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 8)),
            DBFConv2D(32, 3, **QUARTER),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dropout(0.5),
            DBFDense(3, **QUARTER),
        ]
    )


def structured():
    left, right = keras.Input((6, 6, 3), name="left"), keras.Input((6, 6, 3), name="right")
    x, y = DBFConv2D(8, 3)(left), DBFConv2D(8, 3, **QUARTER)(right)
    return keras.Model({"right": right, "left": left}, {"z": layers.Subtract()([x, y]), "a": y})


def listed():
    # Enough outputs that their names do not sort like their numbers.
    first, second = keras.Input((6, 6, 3)), keras.Input((5, 5, 3))
    outputs = [layers.Conv2D(count, 3)(x) for count in range(1, 7) for x in (first, second)]
    return keras.Model([first, second], outputs)


def wrapped():
    inputs = keras.Input((3, 6, 6, 8))
    return keras.Model(inputs, layers.TimeDistributed(DBFConv2D(8, 3, **QUARTER))(inputs))


def preprocessing():
    inputs = keras.Input((6, 6, 3), dtype="uint8")
    normal = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])
    return keras.Model(inputs, DBFConv2D(8, 3)(normal(layers.Rescaling(1 / 255)(inputs))))


def fixed_batch():
    inputs = keras.Input((6, 6, 8), batch_size=3)
    return keras.Model(inputs, DBFDense(4, **QUARTER)(layers.Flatten()(DBFConv2D(8, 3, **QUARTER)(inputs))))


def any_size():
    inputs = keras.Input((None, None, 8))
    return keras.Model(inputs, DBFConv2D(8, 3, padding="same", **QUARTER)(inputs))


def subclassed_inside():
    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.convolution = DBFConv2D(8, 3, **QUARTER)

        def call(self, inputs):
            return self.convolution(inputs)

    inputs = keras.Input((6, 6, 8))
    return keras.Model(inputs, layers.ReLU()(Block()(inputs)))


def compiled():
    inputs = keras.Input((6, 6, 8))
    model = keras.Model(inputs, DBFConv2D(8, 3, kernel_regularizer="l2", activation=layers.LeakyReLU())(inputs))
    model.compile("sgd", loss=lambda actual, predicted: 0.0)
    return model


MODELS = [
    nested,
    shared,
    sequential,
    structured,
    listed,
    wrapped,
    preprocessing,
    fixed_batch,
    any_size,
    subclassed_inside,
    compiled,
]


@pytest.mark.parametrize("make", MODELS)
def test_every_kind_of_model_converts(make):
    model = randomize(make())
    inputs = verify.random_inputs(model)
    reference = [np.asarray(output) for output in converter.run(model, inputs)]
    for mode in ("explicit", "folded"):
        outputs = verify.run_file(model, to_tflite(model, mode), inputs)
        _, relative = verify.difference(reference, outputs)
        assert relative < TOLERANCE


def test_batchnorm_folds_and_activations_fuse():
    # Strides, dilation, dense on four axes: each one op, with nothing between them.
    inputs = keras.Input((9, 9, 4))
    x = norm(layers.Conv2D(4, 3, dilation_rate=2, padding="same")(inputs))
    x = norm(DBFConv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    x = DBFConv2D(8, (2, 3), dilation_rate=(1, 2), activation="relu6")(x)
    x = norm(DBFDense(6)(x))
    x = layers.Dense(5, activation="relu")(x)
    model = randomize(keras.Model(inputs, x))
    data = to_tflite(model, "explicit")
    assert ops(data) == ["CONV_2D"] * 3 + ["FULLY_CONNECTED"] * 2
    options = [operator.builtinOptions for operator in load(data).subgraphs[0].operators]
    assert [option.fusedActivationFunction for option in options] == [1, 1, 3, 1, 1]
    assert [(o.dilationHFactor, o.dilationWFactor) for o in options[:3]] == [(2, 2), (1, 1), (1, 2)]
    assert convert(model, "explicit").relative_difference < TOLERANCE


def test_folded_is_a_projection_and_a_smaller_convolution():
    inputs = keras.Input((9, 9, 16))
    x = norm(DBFConv2D(8, 3, padding="same", **QUARTER)(inputs))
    x = norm(DBFConv2D(8, 3, dilation_rate=2, ratio=0.5, selection="ovsf")(x))
    model = randomize(keras.Model(inputs, x))
    data = to_tflite(model, "folded")
    assert ops(data) == ["CONV_2D"] * 4
    file = load(data)
    shapes = [file.subgraphs[0].tensors[op.inputs[1]].shape.tolist() for op in file.subgraphs[0].operators]
    assert shapes == [[4, 1, 1, 16], [8, 3, 3, 4], [4, 1, 1, 8], [8, 3, 3, 4]]
    activations = [op.builtinOptions.fusedActivationFunction for op in file.subgraphs[0].operators]
    assert activations == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "strides, padding, size, computed",
    [
        (1, "same", (9, 8), ["PAD", "DEPTHWISE_CONV_2D", "CONV_2D"]),
        (2, "same", (9, 8), ["PAD", "DEPTHWISE_CONV_2D", "CONV_2D"]),
        (3, "same", (9, 8), ["PAD", "DEPTHWISE_CONV_2D", "CONV_2D"]),
        (1, "valid", (9, 8), ["DEPTHWISE_CONV_2D", "CONV_2D"]),
        (2, "valid", (9, 8), ["DEPTHWISE_CONV_2D", "CONV_2D"]),
        (1, "same", (None, None), ["PAD", "DEPTHWISE_CONV_2D", "CONV_2D"]),
        (2, "same", (None, None), ["CONV_2D"]),  # How much to pad is not known.
    ],
)
def test_folded_filters_of_runs_are_sums_and_a_smaller_convolution(strides, padding, size, computed):
    inputs = keras.Input((*size, 16))
    layer = DBFConv2D(32, 4, strides=strides, padding=padding, ratio=0.25, selection="spatial_tree")
    model = randomize(keras.Model(inputs, norm(layer(inputs))))
    data = to_tflite(model, "folded")
    assert ops(data) == computed
    graph = load(data).subgraphs[0]
    shapes = [graph.tensors[op.inputs[1]].shape.tolist() for op in graph.operators][-2:]
    assert shapes == ([[1, 2, 2, 16], [32, 2, 2, 16]] if len(computed) > 1 else [[32, 4, 4, 16]])
    reference = verify.random_inputs(model)
    expected = [np.asarray(output) for output in converter.run(model, reference)]
    _, relative = verify.difference(expected, verify.run_file(model, data, reference))
    assert relative < TOLERANCE


def test_the_batch_size_stays_open():
    model = sequential()
    graph = load(to_tflite(model, "explicit")).subgraphs[0]
    assert graph.tensors[graph.inputs[0]].shapeSignature.tolist() == [-1, 6, 6, 8]
    assert graph.tensors[graph.outputs[0]].shapeSignature.tolist() == [-1, 3]


def test_the_model_stays_as_it_was():
    model = randomize(sequential())
    x = verify.random_inputs(model)[0]
    before, calls = np.asarray(model(x)), [layer.call for layer in model.layers]
    to_tflite(model, "folded")
    np.testing.assert_array_equal(np.asarray(model(x)), before)
    assert [layer.call for layer in model.layers] == calls


@pytest.mark.skipif(LEGACY, reason="needs a GPU there to do anything")
def test_half_precision_is_exported_as_float32_and_put_back():
    inputs = keras.Input((6, 6, 16))
    x = norm(DBFConv2D(32, 3, dtype="mixed_float16", **QUARTER)(inputs))
    model = randomize(keras.Model(inputs, layers.Dense(3, dtype="float32")(x)))
    single = keras.models.clone_model(model, clone_function=lambda layer: _single(layer))
    single.set_weights(model.get_weights())
    data = to_tflite(model, "folded")
    assert "CAST" not in ops(data)
    assert model.layers[1].compute_dtype == "float16"
    x = verify.random_inputs(model)
    _, relative = verify.difference([np.asarray(single(x[0]))], verify.run_file(model, data, x))
    assert relative < TOLERANCE


def _single(layer):
    return type(layer).from_config({**layer.get_config(), "dtype": "float32"})


def test_models_without_known_inputs_are_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="does not know the shape of its inputs.*keras.Input"):
        to_tflite(Subclassed())


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="runs it on 'jax'.*KERAS_BACKEND=tensorflow"):
        to_tflite(sequential())
